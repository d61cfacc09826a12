# SPDX-License-Identifier: GPL-2.0-only
"""A guest's balloon as its host sees it, behind a QMP socket or a libvirt domain."""

import contextlib
import os
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import NoBalloonError, NoDriverError, UnreachableError
from .qmp import CommandError, QmpConnection

POLL_SECONDS = 0.1
STATISTICS_SECONDS = 10
BALLOON_TYPE = re.compile(r"child<virtio-balloon-(pci|ccw|device)(-non)?(-transitional)?>")
LIBVIRT_PREFIX = "libvirt:"


@dataclass(frozen=True)
class Status:
    """How large a guest is."""

    name: str
    ram_bytes: int
    actual_bytes: int
    resident_bytes: int | None

    @property
    def balloon_bytes(self):
        """What the balloon holds."""
        return self.ram_bytes - self.actual_bytes

    def as_dict(self):
        """Return the fields for JSON."""
        return asdict(self) | {"balloon_bytes": self.balloon_bytes}


@dataclass(frozen=True)
class Statistics:
    """What a guest's driver reported; None is a value that it did not report."""

    total_bytes: int | None = None
    free_bytes: int | None = None
    available_bytes: int | None = None
    disk_caches_bytes: int | None = None
    swap_in_bytes: int | None = None
    swap_out_bytes: int | None = None
    major_faults: int | None = None
    minor_faults: int | None = None
    hugetlb_allocations: int | None = None
    hugetlb_failures: int | None = None
    oom_kills: int | None = None
    allocation_stalls: int | None = None
    async_scans: int | None = None
    direct_scans: int | None = None
    async_reclaims: int | None = None
    direct_reclaims: int | None = None
    last_update_unix_s: int = 0

    def as_dict(self):
        """Return the fields for JSON."""
        return asdict(self)


QEMU_NAMES = {
    "stat-total-memory": "total_bytes",
    "stat-free-memory": "free_bytes",
    "stat-available-memory": "available_bytes",
    "stat-disk-caches": "disk_caches_bytes",
    "stat-swap-in": "swap_in_bytes",
    "stat-swap-out": "swap_out_bytes",
    "stat-major-faults": "major_faults",
    "stat-minor-faults": "minor_faults",
    "stat-htlb-pgalloc": "hugetlb_allocations",
    "stat-htlb-pgfail": "hugetlb_failures",
    "stat-oom-kills": "oom_kills",
    "stat-alloc-stalls": "allocation_stalls",
    "stat-async-scans": "async_scans",
    "stat-direct-scans": "direct_scans",
    "stat-async-reclaims": "async_reclaims",
    "stat-direct-reclaims": "direct_reclaims",
}
NOT_REPORTED = (1 << 64) - 1


def open_guest(target, uri=None):
    """Return the guest behind a QMP socket's path, libvirt:NAME, or a plain domain name."""
    if target.startswith(LIBVIRT_PREFIX):
        from .domain import LibvirtGuest
        return LibvirtGuest(target.removeprefix(LIBVIRT_PREFIX), uri)
    if "/" in target or os.path.exists(target):
        return QmpGuest(target)
    try:
        from .domain import LibvirtGuest
    except UnreachableError as error:
        raise UnreachableError(f"{target}: no such socket here; {error}") from error
    return LibvirtGuest(target, uri)


class Guest:
    """What both kinds of guest have in common; a context manager that ends the connection."""

    name = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def status(self):
        """Return the guest's sizes."""
        return Status(self.name, self.ram_bytes(), self.actual_bytes(), self.resident_bytes())

    @contextlib.contextmanager
    def polling(self, seconds):
        """Have QEMU ask for statistics every so many seconds, and then as it did before.

        An interval that is already set and shorter stays: somebody else relies on it.
        """
        before = self.polling_seconds()
        if 0 < before <= seconds:
            yield
            return
        self.set_polling_seconds(seconds)
        try:
            yield
        finally:
            # a guest that has ended needs no restoring
            with contextlib.suppress(UnreachableError):
                self.set_polling_seconds(before)

    def fresh_statistics(self, timeout_seconds=STATISTICS_SECONDS):
        """Return statistics that arrive after this call; polling must be on."""
        before = self.statistics().last_update_unix_s
        limit = time.monotonic() + max(timeout_seconds, 3 * self.polling_seconds())
        while time.monotonic() < limit:
            statistics = self.statistics()
            if statistics.last_update_unix_s > before:
                return statistics
            time.sleep(POLL_SECONDS)
        raise NoDriverError(f"{self.name}: the guest sends no statistics: "
                            "is a balloon driver loaded in the guest?")


class QmpGuest(Guest):
    """A guest whose QEMU listens on a QMP socket."""

    def __init__(self, path):
        self._qmp = QmpConnection(path)
        try:
            self.name = self._qmp.command("query-name").get("name") or Path(path).name
            self._balloon = self._find_balloon()
        except BaseException:
            self.close()
            raise

    def close(self):
        """End the connection."""
        self._qmp.close()

    def ram_bytes(self):
        """The guest's RAM with the balloon empty."""
        sizes = self._qmp.command("query-memory-size-summary")
        return sizes["base-memory"] + sizes.get("plugged-memory", 0)

    def actual_bytes(self):
        """The RAM less the balloon."""
        try:
            return self._qmp.command("query-balloon")["actual"]
        except CommandError as error:
            if error.error_class == "DeviceNotActive":
                raise self._no_balloon() from error
            raise

    def resident_bytes(self):
        """The memory of the host that the QEMU process has; None if that cannot be seen."""
        try:
            status = Path(f"/proc/{self._qmp.peer_pid}/status").read_text("ascii")
        except OSError:
            return None
        match = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
        return int(match[1]) * 1024 if match else None

    def ask(self, target_bytes):
        """Ask the guest to have that size; it follows in its own time."""
        self._qmp.command("balloon", value=target_bytes)

    def statistics(self):
        """Return the last statistics, of whatever age."""
        try:
            report = self._get("guest-stats")
        except CommandError as error:
            if "hasn't updated any stats" in str(error):
                return Statistics()
            raise
        values = {QEMU_NAMES[name]: None if value == NOT_REPORTED else value
                  for name, value in report["stats"].items() if name in QEMU_NAMES}
        return Statistics(**values, last_update_unix_s=report["last-update"])

    def polling_seconds(self):
        """How often QEMU asks for statistics; 0 is never."""
        return self._get("guest-stats-polling-interval")

    def set_polling_seconds(self, seconds):
        """Make QEMU ask for statistics that often."""
        self._qmp.command("qom-set", path=self._balloon, property="guest-stats-polling-interval",
                          value=seconds)

    def _get(self, property_name):
        return self._qmp.command("qom-get", path=self._balloon, property=property_name)

    def _find_balloon(self):
        # devices with an id are in one folder of QEMU's object tree, others in the other
        for folder in ("/machine/peripheral", "/machine/peripheral-anon"):
            for child in self._qmp.command("qom-list", path=folder):
                if BALLOON_TYPE.fullmatch(child["type"]):
                    return f"{folder}/{child['name']}"
        raise self._no_balloon()

    def _no_balloon(self):
        return NoBalloonError(f"{self.name}: the guest has no balloon device "
                              "(start QEMU with -device virtio-balloon)")
