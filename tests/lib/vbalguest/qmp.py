# SPDX-License-Identifier: GPL-2.0-only
"""QEMU's monitor protocol (JSON lines over a unix socket)."""

import json
import select
import time

from .errors import GuestError, GuestTimeout


class QmpError(GuestError):
    """QEMU refused a command; `error_class` and `desc` are its own words."""

    def __init__(self, command, error):
        super().__init__(f"QMP {command}: {error.get('desc')}")
        self.error_class = error.get("class")
        self.desc = error.get("desc")


class Qmp:
    """A monitor, given a connected socket. `events` holds all events in order."""

    def __init__(self, connection, timeout=60):
        self.events = []
        self._buffer = b""
        self._socket = connection
        self._next_message(time.monotonic() + timeout)
        self.command("qmp_capabilities")

    def close(self):
        """Close the connection; QEMU goes on."""
        self._socket.close()

    def command(self, name, arguments=None, timeout=60):
        """Run a command and return what QEMU returns."""
        request = {"execute": name}
        if arguments:
            request["arguments"] = arguments
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        limit = time.monotonic() + timeout
        while True:
            message = self._next_message(limit)
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise QmpError(name, message["error"])
            elif "return" in message:
                return message["return"]

    def poll_events(self):
        """Collect the events that have arrived and return all seen so far."""
        while self._readable(0) or b"\n" in self._buffer:
            self.events.append(self._next_message(time.monotonic() + 10))
        return self.events

    def wait_event(self, name, timeout=60, since=0):
        """Return the first event of that name at index `since` or later."""
        limit = time.monotonic() + timeout
        while True:
            for event in self.events[since:]:
                if event["event"] == name:
                    return event
            self.events.append(self._next_message(limit))

    def _readable(self, seconds):
        return bool(select.select([self._socket], [], [], seconds)[0])

    def _next_message(self, limit):
        while b"\n" not in self._buffer:
            left = limit - time.monotonic()
            if left <= 0 or not self._readable(left):
                raise GuestTimeout("QEMU's monitor does not answer")
            try:
                data = self._socket.recv(65536)
            except OSError as error:
                raise GuestError(f"QEMU's monitor is gone: {error}") from error
            if not data:
                raise GuestError("QEMU closed its monitor (it ended)")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        return json.loads(line)
