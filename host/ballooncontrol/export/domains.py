# SPDX-License-Identifier: GPL-2.0-only
"""Guests of libvirt: one call for all of them. Importing this needs python3-libvirt."""

import asyncio
import contextlib
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor

from ..balance.domains import read_statistics
from ..device import LIBVIRT_ATTRIBUTES
from ..domain import KIB, find_balloon, libvirt
from ..errors import BalloonError, UnreachableError
from ..pinning import HUGE, PINNED, VFIO, find_obstacles
from .sample import Sample, Silence

# libvirt's calls block, and one that hangs is lost for the others
THREADS = 4
# the call that meets a domain that hangs first may be lost; the next one leaves that domain out
FIRST_SHARE = 0.4
REASON_OF = {VFIO: "vfio", HUGE: "hugetlb", PINNED: "pinned"}


class Domains:
    """The domains of one libvirt."""

    def __init__(self, uri):
        self._uri = uri
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="libvirt")

    async def look_at(self, names, poll_s, timeout_s):
        """Return a Sample or a Silence for each running domain, or for each of these names."""
        looks = [self._look_in_thread(names, poll_s)]
        try:
            async with asyncio.timeout(timeout_s):
                done, _ = await asyncio.wait(looks, timeout=timeout_s * FIRST_SHARE)
                if not done:
                    # the first may only be slow
                    looks.append(self._look_in_thread(names, poll_s))
                    done, _ = await asyncio.wait(looks,
                                                 return_when=asyncio.FIRST_COMPLETED)
                return await done.pop()
        except TimeoutError as error:
            raise UnreachableError(f"libvirt does not answer within {timeout_s:g} s") from error
        except libvirt.libvirtError as error:
            raise UnreachableError(f"libvirt: {error}") from error

    def _look_in_thread(self, names, poll_s):
        look = asyncio.get_running_loop().run_in_executor(self._threads, self._look, names, poll_s)
        # nobody waits any more for one that comes second
        look.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        return look

    def _look(self, names, poll_s):
        # whoever only reads needs no more rights
        connection = (libvirt.open if poll_s else libvirt.openReadOnly)(self._uri)
        try:
            stats = {domain.name(): (domain, stats) for domain, stats in self._stats(connection)}
            wanted = stats if names is None else names
            return [look_at_domain(name, *stats.get(name, (None, {})), poll_s) for name in wanted]
        finally:
            with contextlib.suppress(libvirt.libvirtError):
                connection.close()

    @staticmethod
    def _stats(connection):
        flags = (libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE
                 | libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
        return connection.getAllDomainStats(
            libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_BALLOON, flags)


def look_at_domain(name, domain, stats, poll_s):
    """Return a Sample or a Silence."""
    guest = f"libvirt:{name}"
    if domain is None:
        return Silence(guest, "no such domain is running")
    # this libvirt has from QEMU's monitor and its process
    if "balloon.rss" not in stats:
        return Silence(guest, "libvirt cannot reach its QEMU")
    try:
        return make_sample(guest, name, stats, describe(domain, poll_s))
    except (BalloonError, libvirt.libvirtError) as error:
        return Silence(guest, str(error))


def describe(domain, poll_s):
    """Return the root of the domain's XML, and its statistics' period, made shorter if wanted.

    Without a balloon there is no period.
    """
    root = ET.fromstring(domain.XMLDesc())
    memballoon = find_balloon(root)
    if memballoon is None:
        return root, None
    stats = memballoon.find("stats")
    period_s = 0 if stats is None else int(stats.get("period"))
    if poll_s and not 0 < period_s <= poll_s:
        domain.setMemoryStatsPeriod(poll_s, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        period_s = poll_s
    return root, period_s


def make_sample(guest, name, stats, description):
    """Return a Sample of what libvirt said."""
    root, period_s = description
    memballoon = find_balloon(root)
    return Sample(
        guest=guest, domain=name,
        running=stats.get("state.state") == libvirt.VIR_DOMAIN_RUNNING,
        ram_bytes=stats["balloon.maximum"] * KIB, actual_bytes=stats["balloon.current"] * KIB,
        resident_bytes=stats["balloon.rss"] * KIB, polling_s=period_s,
        has_balloon=memballoon is not None,
        statistics=read_statistics(stats),
        inhibited=frozenset(REASON_OF[words] for words in find_obstacles(root)),
        # libvirt leaves out what it left to QEMU, and QEMU's default is off
        properties={} if memballoon is None else {
            ours: memballoon.get(theirs, "off") == "on"
            for ours, theirs in LIBVIRT_ATTRIBUTES.items()})
