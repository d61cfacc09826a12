# SPDX-License-Identifier: GPL-2.0-only
"""The service: hears the guests, decides once a second, asks, and tells what it did.

Nothing of a guest's state lives here alone: killed at any moment it leaves every guest with the
size that it has, and started again it finds out all it needs.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections import deque
from pathlib import Path

from ..errors import BalloonError, UnreachableError, UsageError
from . import config
from .bare import BareGuests
from .host import Host
from .model import NOT_SEEN
from .policy import Policy

log = logging.getLogger("balance")

NOTICE = (logging.INFO + logging.WARNING) // 2
TICK_S = 1
# memory that somebody waits for is looked for this soon
URGENT_TICK_S = 0.2
KEPT_MOVES = 50
SOCKET_NAME = "balance.sock"
# a reader that does not read is cut off
MOST_UNREAD_BYTES = 4 << 20
MOST_READ_BYTES = 4096


def socket_path():
    """Where the service tells its status: systemd's runtime directory, or our own."""
    folder = os.environ.get("RUNTIME_DIRECTORY") or "/run/balloonctl"
    return Path(folder) / SOCKET_NAME


def notify(message):
    """Tell systemd, if it started us."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return
    try:
        from systemd import daemon
    except ImportError as error:
        raise BalloonError("systemd waits for word and python3-systemd is missing "
                           "(apt-get install python3-systemd)") from error
    daemon.notify(message)


class Service:
    """The balance: its guests, its loop, its status."""

    def __init__(self, path, status_path, proc=Path("/proc"), clock=time.monotonic):
        self.settings = config.load(path)
        self.clock = clock
        self._path = path
        self._status_path = Path(status_path)
        self._host = Host(self.settings, proc)
        self._policy = Policy(self._host.margin_bytes())
        self._clients = {}
        self._sources = []
        self._moves = deque(maxlen=KEPT_MOVES)
        self._counts = {"gives": 0, "takes": 0, "given_bytes": 0, "taken_bytes": 0}
        self._troubles = {}
        self._facts = self._plan = None
        self._awaited = set()
        self._readers = set()
        self._hurry = asyncio.Event()
        self._stop = asyncio.Event()

    # What the sources of guests call

    @property
    def interval_s(self):
        """Seconds between two looks at a guest."""
        return self.settings.interval

    def limits(self, name, ram_bytes, more=None):
        """Return a guest's limits."""
        return self.settings.limits(name, ram_bytes, more)

    def unique_name(self, name, client):
        """Return a name that no other guest has: two may call themselves the same."""
        taken = {other.guest.name for other in self._clients.values() if other is not client}
        if name not in taken:
            return name
        return next(new for number in range(2, len(taken) + 3)
                    if (new := f"{name}#{number}") not in taken)

    def add(self, client):
        """A guest has come."""
        client.guest.name = self.unique_name(client.guest.name, client)
        self._clients[id(client)] = client
        log.info("found %s (%s)", client.guest.name, client.source)

    def remove(self, client):
        """A guest has gone."""
        if self._clients.pop(id(client), None):
            self._troubles.pop(id(client), None)
            log.info("%s is gone", client.guest.name)

    @staticmethod
    def complain(text):
        """Log what somebody should look at."""
        log.warning("%s", text)

    def changed(self, client):
        """A guest was looked at: decide at once if somebody waits for what it gives."""
        if id(client) in self._awaited and client.guest.settled:
            self._awaited.discard(id(client))
            self._hurry.set()

    # Life

    async def run(self):
        """Balance until told to stop."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        server = await self._serve()
        self._sources = self._make_sources()
        tasks = [asyncio.create_task(source.run()) for source in self._sources]
        tasks.append(asyncio.create_task(self._balance()))
        notify("READY=1\nSTATUS=balancing")
        log.info("balancing with a margin of %s, interval %g s", self.settings.margin.text,
                 self.interval_s)
        stopped = asyncio.create_task(self._stop.wait())
        done, _ = await asyncio.wait([stopped, *tasks], return_when=asyncio.FIRST_COMPLETED)
        notify("STOPPING=1")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for source in self._sources:
            await source.close()
        server.close()
        self._status_path.unlink(missing_ok=True)
        for task in done - {stopped}:
            task.result()

    async def rehearse(self, seconds):
        """Listen to the guests for so long, and decide once; ask nobody for anything."""
        self._sources = self._make_sources()
        tasks = [asyncio.create_task(source.run()) for source in self._sources]
        await asyncio.sleep(seconds)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._decide()
        for move in self._plan.moves:
            self._note(move)
        for source in self._sources:
            await source.close()

    def _make_sources(self):
        sources = [BareGuests(self)]
        if self.settings.uris:
            # only whoever has domains needs libvirt's binding
            from .domains import Domains
            sources += [Domains(self, uri) for uri in self.settings.uris]
        return sources

    def reload(self):
        """Read the settings again; bad ones change nothing."""
        notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            settings = config.load(self._path)
            self._host.set(settings)
            if settings.uris != self.settings.uris:
                log.warning("libvirt's URIs change with the next start of the service only")
            self.settings = settings
            self._policy.margin_bytes = self._host.margin_bytes()
            for client in self._clients.values():
                client.configure()
            log.info("settings read again from %s", self._path)
        except BalloonError as error:
            log.error("the old settings stay: %s", error)
        notify("READY=1")

    # The loop

    async def _balance(self):
        while True:
            self._hurry.clear()
            self.tick()
            notify("WATCHDOG=1")
            pause_s = URGENT_TICK_S if self._plan.urgent else TICK_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._hurry.wait()

    def tick(self):
        """Look at the host, decide, and ask."""
        self._decide()
        now_s = self.clock()
        by_guest = {id(client.guest): client for client in self._clients.values()}
        for move in self._plan.moves:
            self._carry_out(move, by_guest[id(move.guest)], now_s)
        self._awaited.clear()
        if self._plan.urgent:
            self._await_givers()
        self._tell_troubles()
        self._publish()

    def _decide(self):
        guests = [client.guest for client in self._clients.values()]
        resident_bytes = sum(guest.facts.resident_bytes or 0 for guest in guests if guest.facts)
        self._facts = self._host.read(resident_bytes)
        self._plan = self._policy.decide(self._facts, guests, self.clock())

    def _await_givers(self):
        """Look soon at those who give while somebody waits for it."""
        for key, client in self._clients.items():
            if client.guest.coming_bytes:
                self._awaited.add(key)
                client.hurry()

    def _carry_out(self, move, client, now_s):
        log.log(logging.INFO if move.kind in ("give", "take") else NOTICE, "%s", move)
        self._note(move)
        if move.kind == "withdraw":
            move.guest.give_up(now_s)
        move.guest.asked(move.target_bytes, now_s)
        client.ask(move.target_bytes)

    def _note(self, move):
        """Remember it for the status."""
        if move.kind in ("give", "take"):
            self._counts[f"{move.kind}s"] += 1
            self._counts["given_bytes" if move.bytes > 0 else "taken_bytes"] += abs(move.bytes)
        self._moves.append({"unix_s": time.time(), "guest": move.guest.name, "kind": move.kind,
                            "bytes": move.bytes, "why": move.why, "text": str(move)})

    def _tell_troubles(self):
        """Say once when a guest can no longer be balanced, and when it can again."""
        for key, client in self._clients.items():
            guest = client.guest
            trouble = guest.trouble or (None if guest.is_new(self.clock()) else guest.blind)
            if trouble in (NOT_SEEN, self._troubles.get(key)):
                continue
            self._troubles[key] = trouble
            if trouble:
                log.warning("%s is not balanced: %s", guest.name, trouble)
            else:
                log.info("%s is balanced again", guest.name)

    # Status

    async def _serve(self):
        path = self._status_path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            await self._refuse_a_second()
            # a service that was killed leaves its socket
            path.unlink(missing_ok=True)
            server = await asyncio.start_unix_server(self._welcome, path)
            path.chmod(0o666)
        except OSError as error:
            raise BalloonError(f"{path}: {error.strerror or error}: "
                               "--socket names another place for the status") from error
        return server

    async def _refuse_a_second(self):
        """Two services would take from each other's guests what the other one gave."""
        try:
            _, writer = await asyncio.open_unix_connection(self._status_path)
        except (FileNotFoundError, ConnectionRefusedError):
            return
        writer.close()
        raise UsageError(f"{self._status_path}: a balance is running already")

    async def _welcome(self, reader, writer):
        """Tell whoever connects, once a second until it goes."""
        self._readers.add(writer)
        try:
            if self._plan:
                writer.write(json.dumps(self.status()).encode() + b"\n")
            while await reader.read(MOST_READ_BYTES):
                # nothing that a reader says is of interest
                pass
        except ConnectionError:
            pass
        finally:
            self._readers.discard(writer)
            writer.close()

    def _publish(self):
        if not self._readers:
            return
        line = json.dumps(self.status()).encode() + b"\n"
        for writer in list(self._readers):
            if writer.transport.get_write_buffer_size() > MOST_UNREAD_BYTES:
                writer.transport.abort()
            else:
                writer.write(line)

    def status(self):
        """Return all that a user may want to know."""
        plan, facts = self._plan, self._facts
        return {
            "unix_s": time.time(),
            "host": {"total_bytes": facts.total_bytes, "available_bytes": facts.available_bytes,
                     "margin_bytes": plan.margin_bytes, "stalled_percent": facts.stalled_percent,
                     "state": plan.host},
            "room_bytes": plan.room_bytes, "demand_bytes": plan.demand_bytes,
            "coming_bytes": plan.coming_bytes, "counts": self._counts,
            "guests": [self._describe(client) for client in self._clients.values()],
            "moves": list(self._moves)}

    def _describe(self, client):
        guest, limits = client.guest, client.guest.limits
        facts = guest.facts
        return {
            "name": guest.name, "source": client.source, "driver": guest.driver,
            "ram_bytes": facts and facts.ram_bytes, "actual_bytes": facts and facts.actual_bytes,
            "resident_bytes": facts and facts.resident_bytes,
            "target_bytes": guest.target_bytes, "available_bytes": guest.available_bytes,
            "used_bytes": guest.used_bytes, "buffer_bytes": guest.buffer_bytes,
            "need_bytes": None if guest.blind else guest.keep_bytes,
            "idle_bytes": guest.idle_bytes(), "want_bytes": guest.want_bytes(self.clock()),
            "minimum_bytes": limits.minimum_bytes, "maximum_bytes": limits.maximum_bytes,
            "weight": limits.weight, "trouble": guest.trouble or guest.blind,
            "note": guest.note if guest.is_held(self.clock()) else ""}


def log_to_stderr():
    """Log lines of one line; under systemd the journal learns their priority."""
    logging.addLevelName(NOTICE, "NOTICE")
    handler = logging.StreamHandler()
    handler.setFormatter(_Lines(bool(os.environ.get("JOURNAL_STREAM"))))
    log.addHandler(handler)
    log.setLevel(logging.INFO)


class _Lines(logging.Formatter):
    """One line per message, with the journal's priority in front where it reads them."""

    PRIORITIES = {"ERROR": 3, "WARNING": 4, "NOTICE": 5, "INFO": 6}

    def __init__(self, journal):
        super().__init__()
        self._journal = journal

    def format(self, record):
        """Return the line."""
        text = " ".join(record.getMessage().split())
        if self._journal:
            return f"<{self.PRIORITIES.get(record.levelname, 6)}>{text}"
        return f"{time.strftime('%H:%M:%S')} {text}"


async def read_status(path, on_status):
    """Call on_status with each status of the service, until it returns True."""
    try:
        reader, writer = await asyncio.open_unix_connection(path, limit=1 << 26)
    except OSError as error:
        raise UnreachableError(
            f"{path}: {error.strerror}: is the service running? "
            "(systemctl status balloonctl-balance)") from error
    try:
        while line := await reader.readline():
            if on_status(json.loads(line)):
                return
        raise UnreachableError(f"{path}: the service has ended")
    finally:
        writer.close()
