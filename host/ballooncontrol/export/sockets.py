# SPDX-License-Identifier: GPL-2.0-only
"""Guests behind QMP sockets: one connection for the time of a look."""

import asyncio
import glob
from pathlib import Path

from ..balance.bare import FOLDERS, NONSENSE, any_pins, find_devices, senseless
from ..balance.host import Process
from ..balance.link import QmpLink, command
from ..base import Statistics
from ..errors import BalloonError
from ..guests import NO_REPORT_YET, read_report
from ..pinning import MOST_PINNED_BYTES
from ..qmp import CommandError
from .sample import PROPERTIES, Sample, Silence

FIRST_LOOK = (command("query-name"), command("query-status"),
              command("query-memory-size-summary"), command("query-balloon"),
              *(command("qom-list", path=folder) for folder in FOLDERS))


def expand(target):
    """Return the sockets that a path, or a pattern of paths, stands for."""
    return sorted(glob.glob(target)) if glob.has_magic(target) else [target]


async def look_at_all(paths, poll_s, timeout_s):
    """Return a Sample or a Silence for each, after so long at the latest."""
    return await asyncio.gather(*(look_in_time(path, poll_s, timeout_s) for path in paths))


async def look_in_time(path, poll_s, timeout_s):
    """Return a Sample or a Silence."""
    try:
        async with asyncio.timeout(timeout_s):
            return await look(path, poll_s, timeout_s)
    except TimeoutError:
        return Silence(path, f"does not answer within {timeout_s:g} s")
    except BalloonError as error:
        return Silence(path, str(error))
    except NONSENSE as error:
        return Silence(path, str(senseless(error)))


async def look(path, poll_s, timeout_s):
    """Connect, ask, and let the next client have QEMU's attention."""
    link = await QmpLink.open(path, lambda *_: None, lambda: None, timeout_s)
    process = Process(link.peer_pid)
    try:
        return await Look(path, link, process, timeout_s).sample(poll_s)
    finally:
        process.close()
        link.close()


class Look:
    """One look at one guest."""

    def __init__(self, path, link, process, timeout_s):
        self._path = path
        self._link = link
        self._process = process
        self._timeout_s = timeout_s

    async def sample(self, poll_s):
        """Return what it finds."""
        name, status, sizes, balloon, *folders = await self._run(*FIRST_LOOK)
        device, suspects = find_devices(folders)
        needed = (name, status, sizes) if device is None else (name, status, sizes, balloon)
        for answer in needed:
            if isinstance(answer, CommandError):
                raise answer
        plugged_bytes = sizes.get("plugged-memory", 0)
        # QEMU leaves virtio-mem's memory out of the balloon's sizes
        beside_bytes = await self._virtio_mem_bytes() if plugged_bytes else 0
        ram_bytes = int(sizes["base-memory"]) + int(plugged_bytes)
        actual_bytes = ram_bytes if device is None else int(balloon["actual"]) + beside_bytes
        return Sample(
            guest=self._path, domain=name.get("name") or Path(self._path).stem,
            running=status["status"] == "running",
            ram_bytes=ram_bytes, actual_bytes=actual_bytes,
            resident_bytes=self._process.resident_bytes(),
            inhibited=self._inhibited(await any_pins(self._link, suspects, self._timeout_s)),
            **await self._look_at_balloon(device, poll_s))

    async def _look_at_balloon(self, device, poll_s):
        """Return what a Sample has of the balloon."""
        if device is None:
            return {"has_balloon": False, "polling_s": None}
        report, polling_s, *properties = await self._run(
            *(command("qom-get", path=device, property=name) for name in
              ("guest-stats", "guest-stats-polling-interval", *PROPERTIES)))
        if poll_s and isinstance(polling_s, int):
            polling_s = await self._poll(device, polling_s, poll_s)
        return {"polling_s": polling_s if isinstance(polling_s, int) else None,
                "statistics": read_statistics(report),
                "properties": {key: value for key, value in zip(PROPERTIES, properties)
                               if isinstance(value, bool)}}

    async def _run(self, *commands):
        return await self._link.run(*commands, timeout_s=self._timeout_s)

    async def _poll(self, device, before_s, wanted_s):
        """Have QEMU ask so often, unless it does already; return how often it does."""
        if 0 < before_s <= wanted_s:
            return before_s
        await self._link.one("qom-set", self._timeout_s, path=device,
                             property="guest-stats-polling-interval", value=wanted_s)
        return wanted_s

    async def _virtio_mem_bytes(self):
        devices = await self._link.one("query-memory-devices", self._timeout_s)
        return sum(device["data"]["size"] for device in devices if device["type"] == "virtio-mem")

    def _inhibited(self, vfio):
        huge_bytes, pinned_bytes = self._process.held_bytes()
        found = {"vfio": vfio, "hugetlb": huge_bytes > 0,
                 "pinned": pinned_bytes > MOST_PINNED_BYTES}
        return frozenset(reason for reason, is_so in found.items() if is_so)


def read_statistics(report):
    """Return what the guest reported last; nothing if it never did."""
    if not isinstance(report, CommandError):
        return read_report(report)
    if NO_REPORT_YET not in str(report):
        raise report
    return Statistics()
