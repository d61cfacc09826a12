# SPDX-License-Identifier: GPL-2.0-only
"""The HTTP endpoint: /metrics in the format that the asker prefers."""

import signal
import socket
import sys
import threading
from socketserver import TCPServer, ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from ..errors import BalloonError

from prometheus_client import make_wsgi_app

# whoever connects and says nothing is left alone after so long
IDLE_S = 30
PATHS = ("/", "/metrics")
METHODS = ("GET", "HEAD")


class Server(ThreadingMixIn, WSGIServer):
    """A thread per request."""

    daemon_threads = True

    def server_bind(self):
        """Bind; the standard one looks its own name up in the DNS, and may hang there."""
        if self.address_family == socket.AF_INET6 and not self.server_address[0].strip(":"):
            # all addresses: those of the older protocol, too
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]
        self.setup_environ()


class Handler(WSGIRequestHandler):
    """One connection."""

    timeout = IDLE_S

    def log_message(self, *_):
        """Say nothing of each request."""


def make_app(registry):
    """Return the WSGI application."""
    metrics = make_wsgi_app(registry)

    def app(environ, start_response):
        if environ["PATH_INFO"] not in PATHS:
            return refuse(start_response, "404 Not Found", "The metrics are at /metrics.\n")
        if environ["REQUEST_METHOD"] not in METHODS:
            return refuse(start_response, "405 Method Not Allowed", "Metrics can only be read.\n")
        return metrics(environ, start_response)
    return app


def refuse(start_response, status, text):
    """Answer with a line of text."""
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [text.encode()]


def any_address():
    """Return what stands for all addresses of this host."""
    return "::" if socket.has_dualstack_ipv6() else "0.0.0.0"


def serve(registry, address, port):
    """Serve until the process is told to end; port 0 takes any that is free."""
    place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    try:
        family, _, _, _, found = socket.getaddrinfo(
            address or any_address(), port, type=socket.SOCK_STREAM)[0]
        server_class = type("Server", (Server,), {"address_family": family})
        server = server_class(found[:2], Handler)
    except OSError as error:
        raise BalloonError(f"cannot listen at {place}: {error.strerror or error}") from error
    server.set_app(make_app(registry))
    host = f"[{server.server_name}]" if ":" in server.server_name else server.server_name
    print(f"balloonctl: serving http://{host}:{server.server_port}/metrics", file=sys.stderr,
          flush=True)
    # serve_forever() cannot be told to end by the thread that runs it
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    with server:
        server.serve_forever()
