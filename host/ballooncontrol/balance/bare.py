# SPDX-License-Identifier: GPL-2.0-only
"""Guests behind QMP sockets: each has a task of its own, so that none waits for another."""

import asyncio
import contextlib
import glob
import time
from pathlib import Path

from ..base import Statistics
from ..errors import BalloonError, GoneError, NoBalloonError, UnreachableError
from ..guests import BALLOON_TYPE, read_report
from ..pinning import ALLOWED, HUGE, MOST_PINNED_BYTES, PINNED, VFIO, pins
from ..qmp import CommandError
from .host import Process
from .link import QmpLink, command
from .model import FRAME_BYTES, Facts, Guest

CONNECT_S = 5
ANSWER_S = 5
# sockets are looked for so often
SCAN_S = 2
# what seldom changes is asked for so often; events and every ask bring it forward
SLOW_LOOK_S = 60
FOLDERS = ("/machine/peripheral", "/machine/peripheral-anon")
SLOW_LOOK = b"".join((command("query-status"), command("query-migrate"),
                      command("query-memory-size-summary"),
                      *(command("qom-list", path=folder) for folder in FOLDERS)))
# no new attempt at a socket that failed before so long; doubled each time
FIRST_RETRY_S = 1
LAST_RETRY_S = 60
# what comes of an answer that is no such answer
NONSENSE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
MIGRATING = ("setup", "active", "postcopy-active", "postcopy-paused", "postcopy-recover",
             "pre-switchover", "device", "wait-unplug", "cancelling", "colo")


class BareGuest:
    """One socket: connects, looks, asks; tells a Guest what it found."""

    def __init__(self, path, watcher):
        self.path = path
        self.source = f"qmp:{path}"
        self._watcher = watcher
        self.guest = Guest(Path(path).stem, watcher.limits(Path(path).stem, 0))
        self.guest.period_s = watcher.interval_s
        self._link = None
        self._process = None
        self._device = None
        self._polling_before_s = None
        self._look = b""
        # of its RAM, that is virtio-mem's, which QEMU leaves out of the balloon's sizes
        self._ram_bytes = self._beside_bytes = 0
        self._plugging = False
        self._statistics = Statistics()
        self._obstacle = None
        self._slow_at_s = 0
        self._slow_due = self._hurry = False
        self._timer = self._began_s = self._failure = None
        self._target_bytes = None
        self._wake = asyncio.Event()
        self._task = asyncio.create_task(self._live())

    # What the service calls

    def ask(self, target_bytes):
        """Ask for a size, soon; a newer one replaces it."""
        self._target_bytes = target_bytes
        self._wake.set()

    def hurry(self):
        """Look now."""
        self._hurry = True
        self._wake.set()

    def configure(self):
        """The settings have changed."""
        self.guest.period_s = self._watcher.interval_s
        self.guest.set_limits(self._watcher.limits(self.guest.name, self._ram_bytes))
        self._slow_at_s = 0

    async def close(self):
        """Stop; the guest keeps its size, and QEMU polls as it did before."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        await self._restore_polling()
        self._disconnect()

    # Its task

    async def _live(self):
        retry_s = FIRST_RETRY_S
        while True:
            try:
                await self._connect()
                retry_s = FIRST_RETRY_S
                await self._watch()
            except BalloonError as error:
                self._lose(error)
            except NONSENSE as error:
                self._lose(senseless(error))
            self._disconnect()
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    def _lose(self, error):
        if isinstance(error, GoneError):
            self.guest.forget()
        self.guest.lose(str(error))
        self._watcher.changed(self)

    async def _watch(self):
        """Do what is more than looking; looks need no task."""
        # a thousand guests are not to be looked at in the same instant
        self._look_in(hash(self.path) % 1000 / 1000 * min(1, self._watcher.interval_s))
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._failure:
                raise self._failure
            if self._link.closed:
                raise UnreachableError(self._link.lost)
            if self._slow_due:
                self._slow_due = False
                await self._look_slowly()
            if self._target_bytes is not None:
                await self._ask_now()
            if self._hurry:
                self._hurry = False
                self._look_in(0)

    async def _connect(self):
        self._failure = None
        self._link = await QmpLink.open(self.path, self._on_event, self._wake.set, CONNECT_S)
        name = (await self._link.one("query-name", ANSWER_S)).get("name")
        self._process = Process(self._link.peer_pid)
        self.guest.name = self._watcher.unique_name(name or Path(self.path).stem, self)
        await self._look_slowly()
        self._look = command("query-balloon") + command(
            "qom-get", path=self._device, property="guest-stats")
        await self._set_polling()

    async def _set_polling(self):
        before_s = await self._link.one("qom-get", ANSWER_S, path=self._device,
                                        property="guest-stats-polling-interval")
        wanted_s = max(1, int(self._watcher.interval_s))
        if not 0 < before_s <= wanted_s:
            if self._polling_before_s is None:
                self._polling_before_s = before_s
            await self._poll_every(wanted_s)

    async def _poll_every(self, seconds):
        await self._link.one("qom-set", ANSWER_S, path=self._device,
                             property="guest-stats-polling-interval", value=seconds)

    async def _restore_polling(self):
        if self._polling_before_s is not None and self._link and not self._link.closed:
            with contextlib.suppress(BalloonError):
                await self._poll_every(self._polling_before_s)

    def _disconnect(self):
        if self._timer:
            self._timer.cancel()
        self._began_s = None
        if self._link:
            self._link.close()
        if self._process:
            self._process.close()
        self._link = self._process = None

    # Looking

    def _look_in(self, seconds):
        if self._timer:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._begin_look)

    def _begin_look(self):
        now_s = self._watcher.clock()
        if self._began_s is not None or self._link is None or self._link.closed:
            return
        if now_s >= self._slow_at_s:
            self._slow_at_s = now_s + SLOW_LOOK_S
            self._slow_due = True
            self._wake.set()
        self._began_s = now_s
        self._link.post(self._look, 2, self._finish_look)

    def _finish_look(self, answers):
        self._began_s = None
        try:
            self._take_answers(*answers)
        except BalloonError as error:
            self._fail(error)
        except NONSENSE as error:
            self._fail(senseless(error))
        else:
            self._watcher.changed(self)
            periods = 2 if self.guest.is_comfortable else 1
            self._look_in(periods * self._watcher.interval_s)

    def _fail(self, error):
        self._failure = error
        self._wake.set()

    def give_up_late(self, now_s):
        """Cut off a QEMU that has not answered for too long."""
        if self._began_s is not None and now_s - self._began_s > ANSWER_S and self._link:
            self._link.cut(f"QEMU does not answer within {ANSWER_S} s")

    def _take_answers(self, balloon, report):
        if isinstance(balloon, CommandError):
            raise balloon
        self._read_report(report)
        actual_bytes = int(balloon["actual"]) + self._beside_bytes
        if self._is_plugging(actual_bytes):
            return
        facts = Facts(self._ram_bytes, actual_bytes, self._process.resident_bytes(),
                      self._statistics, time.time(), self._obstacle)
        self.guest.observe(facts, self._watcher.clock())

    def _is_plugging(self, actual_bytes):
        """True once when it has more than its RAM: memory was plugged, and nobody told."""
        more = actual_bytes > self._ram_bytes
        first, self._plugging = more and not self._plugging, more
        if first:
            self._slow_due = self._hurry = True
            self._wake.set()
        return first

    def _read_report(self, report):
        if isinstance(report, CommandError):
            # no report yet
            self._statistics = Statistics()
        elif report["last-update"] != self._statistics.last_update_unix_s:
            self._statistics = read_report(report)

    async def _look_slowly(self):
        """Look for what keeps the guest from following, and for hot-plugged memory."""
        status, migration, sizes, *folders = await self._link.send(SLOW_LOOK, 5, ANSWER_S)
        if isinstance(sizes, dict):
            plugged_bytes = sizes.get("plugged-memory", 0)
            ram_bytes = sizes["base-memory"] + plugged_bytes
            self._beside_bytes = await self._virtio_mem_bytes() if plugged_bytes else 0
            if ram_bytes != self._ram_bytes:
                self._ram_bytes = ram_bytes
                self.guest.set_limits(self._watcher.limits(self.guest.name, ram_bytes))
        self._device, suspects = find_devices(folders)
        if self._device is None:
            raise NoBalloonError("has no balloon device")
        self._obstacle = find_obstacle(status, migration)
        if self._obstacle is None and await any_pins(self._link, suspects, ANSWER_S):
            self._obstacle = VFIO
        huge_bytes, pinned_bytes = self._process.held_bytes()
        if self._obstacle is None and huge_bytes:
            self._obstacle = HUGE
        if self._obstacle is None and pinned_bytes > MOST_PINNED_BYTES:
            self._obstacle = PINNED

    async def _virtio_mem_bytes(self):
        devices = await self._link.one("query-memory-devices", ANSWER_S)
        return sum(device["data"]["size"] for device in devices if device["type"] == "virtio-mem")

    # Asking

    async def _ask_now(self):
        """Ask, unless the guest was paused or began to migrate a moment ago."""
        target_bytes, self._target_bytes = self._target_bytes, None
        await self._look_slowly()
        if self._obstacle:
            self.guest.forget_ask()
            return
        try:
            await self._link.one("balloon", ANSWER_S,
                                 value=max(FRAME_BYTES, target_bytes - self._beside_bytes))
        except CommandError as error:
            self.guest.forget_ask()
            raise BalloonError(f"QEMU refuses {target_bytes} bytes: {error}") from error

    def _on_event(self, name, data):
        if name in ("STOP", "RESUME", "SUSPEND", "WAKEUP", "MIGRATION", "DEVICE_DELETED",
                    "MEMORY_DEVICE_SIZE_CHANGE"):
            self._slow_due = self._hurry = True
            self._wake.set()
        elif name == "BALLOON_CHANGE" and (data.get("actual") != self.guest.actual_bytes):
            self._hurry = True
            self._wake.set()


def senseless(error):
    """Return what to say of an answer that is none."""
    return BalloonError(f"QEMU's answer makes no sense: {error!r}")


def find_devices(folders):
    """Return the balloon's path or None, and those of devices that may pin the guest's memory."""
    balloon, suspects = None, []
    for folder, children in zip(FOLDERS, folders):
        if isinstance(children, CommandError):
            raise children
        for child in children:
            path = f"{folder}/{child['name']}"
            if BALLOON_TYPE.fullmatch(child["type"]):
                balloon = path
            elif pins(child["type"]):
                suspects.append(path)
    return balloon, suspects


async def any_pins(link, suspects, timeout_s):
    """True if one of these devices pins memory: it does unless it was told that it does not."""
    if not suspects:
        return False
    answers = await link.run(*(command("qom-get", path=path, property=ALLOWED)
                               for path in suspects), timeout_s=timeout_s)
    return any(answer is not True for answer in answers)


def find_obstacle(status, migration):
    """Return what keeps a guest from following, in words; None if nothing does."""
    if isinstance(migration, dict) and migration.get("status") in MIGRATING:
        return "is being migrated"
    if isinstance(status, dict) and status.get("status") != "running":
        return f"is {status.get('status', 'in an unknown state')}"
    return None


class BareGuests:
    """The sockets that the settings name, as they come and go."""

    def __init__(self, service):
        self._service = service
        self._guests = {}

    async def run(self):
        """Look for sockets until cancelled."""
        while True:
            found = {path for pattern in self._service.settings.sockets
                     for path in glob.glob(pattern)}
            for path in found - self._guests.keys():
                self._guests[path] = BareGuest(path, self._service)
                self._service.add(self._guests[path])
            for path in self._guests.keys() - found:
                gone = self._guests.pop(path)
                self._service.remove(gone)
                await gone.close()
            now_s = self._service.clock()
            for guest in self._guests.values():
                guest.give_up_late(now_s)
            await asyncio.sleep(SCAN_S)

    async def close(self):
        """Let go of all."""
        await asyncio.gather(*(guest.close() for guest in self._guests.values()))
