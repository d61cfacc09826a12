# SPDX-License-Identifier: GPL-2.0-only
"""`balloonctl export`: once to standard output or a file, or again and again over HTTP."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from ..errors import BalloonError, UsageError
from ..output import complain
from .arguments import parse_listen
from .look import Guests, Look
from .metrics import families
from .sample import Silence
from .server import serve

from prometheus_client import CollectorRegistry, generate_latest, write_to_textfile


def run(options):
    """Run it; return the exit status."""
    if not (options.guests or options.all or options.balance):
        raise UsageError("no guest named: give QMP sockets, libvirt domains, --all or --balance")
    place = parse_listen(options.listen) if options.listen else None
    registry = CollectorRegistry()
    registry.register(Exporter(Guests(options)))
    if place:
        serve(registry, *place)
    elif options.textfile:
        write_textfile(registry, options.textfile)
    else:
        sys.stdout.write(generate_latest(registry).decode())
        sys.stdout.flush()
    return 0


def write_textfile(registry, path):
    """Replace a file; whoever reads it sees the old or the new one."""
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise BalloonError(f"{path}: {error.strerror or error}") from error


class Exporter:
    """What prometheus_client asks; whoever asks while a look is under way shares it."""

    def __init__(self, guests):
        self._guests = guests
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="look")
        self._lock = threading.Lock()
        self._look = None
        self._silent = {}

    def describe(self):
        """Name the metrics without a look at any guest."""
        return families(Look([], None, 0))

    def collect(self):
        """Look at the guests."""
        with self._lock:
            if self._look is None or self._look.done():
                self._look = self._pool.submit(self._look_now)
            look = self._look
        return list(families(look.result()))

    def _look_now(self):
        look = self._guests.look()
        self._tell(look)
        return look

    def _tell(self, look):
        """Say once why a guest does not answer, and once that it does again."""
        silent = {found.guest: f"{found.guest}: {found.why}" for found in look.found
                  if isinstance(found, Silence)}
        if look.balance_trouble:
            silent["the balance"] = look.balance_trouble
        for who, why in silent.items():
            if who not in self._silent:
                complain(why)
        there = {found.guest for found in look.found} | {"the balance"}
        for who in self._silent:
            if who in there and who not in silent:
                complain(f"{who} answers again")
        self._silent = silent
