# SPDX-License-Identifier: GPL-2.0-only
"""Guests of libvirt: one call fetches the statistics of all, events tell of their lives.

libvirt's calls block, so they run in threads. A domain whose QEMU hangs holds up the common call
that meets it first; the next one leaves it out (NOWAIT), and it is not asked for anything.
"""

import asyncio
import contextlib
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor

from ..base import Statistics
from ..domain import KIB, LIBVIRT_NAMES, find_balloon, libvirt
from ..errors import BalloonError, UnreachableError
from ..pinning import find_obstacles
from . import config
from .model import Facts, Guest

# one that waits for a hung domain is lost for the others
THREADS = 32
ANSWER_S = 10
# the common call has met a domain that hangs when it takes so long
LOOK_S = 2
# a domain that libvirt leaves out for so long hangs
MISSED_S = 5
DESCRIBE_S = 30
FIRST_RETRY_S = 1
LAST_RETRY_S = 30
# how soon libvirt shall notice a dead connection: interval and count
KEEPALIVE = (5, 3)
JOB = "libvirt has a job on it, such as a migration"
NAMESPACE = "urn:vballoon:balance:1"
STATES = {
    libvirt.VIR_DOMAIN_BLOCKED: "is blocked", libvirt.VIR_DOMAIN_PAUSED: "is paused",
    libvirt.VIR_DOMAIN_SHUTDOWN: "is shutting down", libvirt.VIR_DOMAIN_CRASHED: "has crashed",
    libvirt.VIR_DOMAIN_PMSUSPENDED: "is suspended",
}
EVENTS = (libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, libvirt.VIR_DOMAIN_EVENT_ID_METADATA_CHANGE,
          libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED)

_event_loops = []


def use_event_loop():
    """Have libvirt's events delivered by asyncio; once per process."""
    if not _event_loops:
        import libvirtaio
        _event_loops.append(libvirtaio.virEventRegisterAsyncIOImpl())


def read_statistics(stats):
    """Return the guest's Statistics among libvirt's of the domain."""
    values = {ours: stats[f"balloon.{theirs}"] * unit for theirs, ours, unit in LIBVIRT_NAMES
              if f"balloon.{theirs}" in stats}
    return Statistics(**values, last_update_unix_s=stats.get("balloon.last-update", 0))


class Description:
    """What a domain's XML says that matters here."""

    def __init__(self, text):
        root = ET.fromstring(text)
        memballoon = find_balloon(root)
        self.has_balloon = memballoon is not None
        stats = memballoon.find("stats") if self.has_balloon else None
        self.period_s = 0 if stats is None else int(stats.get("period"))
        self.obstacles = list(find_obstacles(root))
        self.obstacle = next(iter(self.obstacles), None)
        hard_limit = root.find("memtune/hard_limit")
        self.hard_limit_bytes = None if hard_limit is None else int(hard_limit.text) * KIB
        settings = root.find(f"metadata/{{{NAMESPACE}}}guest")
        self.overrides = {} if settings is None else dict(settings.attrib)


class DomainGuest:
    """One running domain."""

    def __init__(self, domains, domain):
        self._domains = domains
        self.domain = domain
        name = domain.name()
        self.source = f"libvirt:{name}"
        self.guest = Guest(name, domains.service.limits(name, 0))
        self.guest.period_s = domains.service.interval_s
        self._domain_name = name
        self._description = None
        self._overrides = {}
        self._described_at_s = float("-inf")
        self._seen_s = domains.service.clock()
        self._ram_bytes = 0
        self._statistics = Statistics()
        self._period_before_s = None
        self._target_bytes = None
        self._task = self._describing = self._job = None

    # What the service calls

    def ask(self, target_bytes):
        """Ask for a size, soon; a newer one replaces it."""
        self._target_bytes = target_bytes
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._ask_all())

    def hurry(self):
        """Look now."""
        self._domains.hurry()

    def configure(self):
        """The settings have changed."""
        self.guest.period_s = self._domains.service.interval_s
        self.guest.set_limits(self._limits())
        self._described_at_s = float("-inf")

    async def close(self):
        """Stop; the guest keeps its size, and QEMU polls as it did before."""
        if self._period_before_s is not None:
            with contextlib.suppress(BalloonError):
                await self._domains.call(self.domain.setMemoryStatsPeriod, self._period_before_s,
                                         libvirt.VIR_DOMAIN_AFFECT_LIVE)

    # Looking

    def look(self, stats):
        """Take in what the common call said of it."""
        service, now_s = self._domains.service, self._domains.service.clock()
        # a size libvirt has at hand; this it has from QEMU's monitor and its process
        if "balloon.rss" not in stats:
            if now_s - self._seen_s > MISSED_S:
                self.guest.lose("libvirt cannot reach its QEMU")
            return
        self._seen_s = now_s
        self._describe_if_due(now_s)
        if self._description is None:
            return
        if not self._description.has_balloon:
            self.guest.lose("has no balloon device")
            return
        self.guest.observe(self._facts(stats), now_s)
        service.changed(self)

    def _facts(self, stats):
        ram_bytes = stats["balloon.maximum"] * KIB
        if ram_bytes != self._ram_bytes:
            self._ram_bytes = ram_bytes
            self.guest.set_limits(self._limits())
        updated_unix_s = stats.get("balloon.last-update", 0)
        if updated_unix_s != self._statistics.last_update_unix_s:
            self._statistics = read_statistics(stats)
        return Facts(ram_bytes, stats["balloon.current"] * KIB, stats["balloon.rss"] * KIB,
                     self._statistics, time.time(), self._obstacle(stats))

    def _obstacle(self, stats):
        if stats.get("state.state") == libvirt.VIR_DOMAIN_PAUSED and stats.get(
                "state.reason") == libvirt.VIR_DOMAIN_PAUSED_MIGRATION:
            return "is being migrated"
        return STATES.get(stats.get("state.state")) or self._job or self._description.obstacle

    def _describe_if_due(self, now_s):
        """Have its XML read, beside the looks: libvirt may take its time."""
        busy = self._describing is not None and not self._describing.done()
        # nobody tells when a job ends
        due_s = 0 if self._job else DESCRIBE_S
        if not busy and now_s - self._described_at_s >= due_s:
            self._described_at_s = now_s
            self._describing = asyncio.create_task(self._describe())

    async def _describe(self):
        try:
            self._description = Description(await self._domains.call(self.domain.XMLDesc))
            self._read_overrides()
            await self._look_for_job()
            await self._set_period()
        except BalloonError as error:
            self.guest.lose(str(error))

    async def _set_period(self):
        wanted_s = max(1, int(self._domains.service.interval_s))
        if self._description.has_balloon and not 0 < self._description.period_s <= wanted_s:
            if self._period_before_s is None:
                self._period_before_s = self._description.period_s
            await self._domains.call(self.domain.setMemoryStatsPeriod, wanted_s,
                                     libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def describe_soon(self):
        """Something about it has changed."""
        self._described_at_s = float("-inf")

    def _read_overrides(self):
        try:
            self._overrides = config.parse_overrides(self._description.overrides)
        except ValueError as error:
            self._domains.service.complain(f"{self.guest.name}: its metadata: {error}")
        self.guest.set_limits(self._limits())

    def _limits(self):
        limits = self._domains.service.limits(self._domain_name, self._ram_bytes, self._overrides)
        hard_bytes = self._description.hard_limit_bytes if self._description else None
        return limits if hard_bytes is None else limits.at_most(hard_bytes)

    # Asking

    async def _look_for_job(self):
        job = await self._domains.call(self.domain.jobInfo)
        self._job = None if job[0] == libvirt.VIR_DOMAIN_JOB_NONE else JOB

    async def _ask_all(self):
        while self._target_bytes is not None:
            target_bytes, self._target_bytes = self._target_bytes, None
            try:
                await self._ask(target_bytes)
            except BalloonError as error:
                self.guest.forget_ask()
                self._domains.service.complain(f"{self.guest.name}: {error}")

    async def _ask(self, target_bytes):
        await self._look_for_job()
        if self._job:
            self.guest.forget_ask()
            self.guest.lose(self._job)
            return
        await self._domains.call(self.domain.setMemoryFlags, target_bytes // KIB,
                                 libvirt.VIR_DOMAIN_AFFECT_LIVE)


class Domains:
    """All running domains of one libvirt, as they come and go."""

    def __init__(self, service, uri):
        self.service = service
        self._uri = uri
        self._connection = None
        self._guests = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="libvirt")
        self._wake = asyncio.Event()
        self._reachable = None

    def hurry(self):
        """Look now."""
        self._wake.set()

    async def call(self, function, *arguments, timeout_s=ANSWER_S):
        """Run a blocking call of libvirt's in a thread."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout_s):
                return await loop.run_in_executor(self._threads, function, *arguments)
        except TimeoutError as error:
            raise UnreachableError(f"libvirt does not answer within {timeout_s} s") from error
        except libvirt.libvirtError as error:
            raise BalloonError(f"libvirt: {error}") from error

    async def run(self):
        """Follow the domains until cancelled; libvirtd may come and go."""
        use_event_loop()
        retry_s = FIRST_RETRY_S
        while True:
            try:
                await self._connect()
                retry_s = FIRST_RETRY_S
                await self._watch()
            except BalloonError as error:
                self._tell(str(error))
                for client in self._guests.values():
                    client.guest.lose(str(error))
            await self._disconnect()
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    async def close(self):
        """Let go of all."""
        await asyncio.gather(*(client.close() for client in self._guests.values()))
        await self._disconnect()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _connect(self):
        self._connection = await self.call(libvirt.open, self._uri)
        with contextlib.suppress(BalloonError):
            await self.call(self._connection.setKeepAlive, *KEEPALIVE)
        for event in EVENTS:
            # not every driver knows all of them; what is not told is found out by looking
            with contextlib.suppress(BalloonError):
                await self.call(self._connection.domainEventRegisterAny, None, event,
                                self._on_event, None)
        self._tell(None)

    async def _disconnect(self):
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(BalloonError):
                await self.call(connection.close)

    async def _stats(self):
        """Return what libvirt knows of all domains; of those that hang it is little."""
        flags = (libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
                 | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
        wanted = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_BALLOON
        arguments = (self._connection.getAllDomainStats, wanted, flags)
        with contextlib.suppress(UnreachableError):
            return await self.call(*arguments, timeout_s=LOOK_S)
        return await self.call(*arguments)

    async def _watch(self):
        while True:
            self._wake.clear()
            self._look(await self._stats())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.service.interval_s):
                    await self._wake.wait()

    def _look(self, everything):
        found = {(domain.UUIDString(), domain.ID()): (domain, stats)
                 for domain, stats in everything}
        for key in self._guests.keys() - found.keys():
            self.service.remove(self._guests.pop(key))
        for key, (domain, stats) in found.items():
            if key not in self._guests:
                self._guests[key] = DomainGuest(self, domain)
                self.service.add(self._guests[key])
            self._guests[key].domain = domain
        for key, (_, stats) in found.items():
            self._guests[key].look(stats)

    def _on_event(self, _connection, domain, *_details):
        """Called by asyncio through libvirt's event loop."""
        uuid = domain.UUIDString()
        for (known_uuid, _), client in self._guests.items():
            if known_uuid == uuid:
                client.describe_soon()
        self._wake.set()

    def _tell(self, why):
        """Say once that libvirt cannot be reached, and once that it can."""
        if why is None and self._reachable is False:
            self.service.complain(f"{self._uri}: reached again")
        elif why is not None and self._reachable is not False:
            self.service.complain(f"{self._uri}: {why}; its guests keep their sizes")
        self._reachable = why is None
