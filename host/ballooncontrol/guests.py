# SPDX-License-Identifier: GPL-2.0-only
"""A guest's balloon as its host sees it, behind a QMP socket or a libvirt domain."""

import os
import re
from pathlib import Path

from .base import Guest, Statistics
from .device import look_at_device
from .errors import NoBalloonError, UnreachableError
from .qmp import CommandError, QmpConnection

BALLOON_TYPE = re.compile(r"child<virtio-balloon-(pci|ccw|device)(-non)?(-transitional)?>")
LIBVIRT_PREFIX = "libvirt:"
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
NO_REPORT_YET = "hasn't updated any stats"


def open_guest(target, uri=None, monitor=False):
    """Return the guest behind a QMP socket's path, libvirt:NAME, or a plain domain name.

    monitor allows to ask a domain's QEMU what libvirt does not tell.
    """
    if target.startswith(LIBVIRT_PREFIX):
        from .domain import LibvirtGuest
        return LibvirtGuest(target.removeprefix(LIBVIRT_PREFIX), uri, monitor)
    if is_path(target):
        return QmpGuest(target)
    try:
        from .domain import LibvirtGuest
    except UnreachableError as error:
        raise UnreachableError(f"{target}: no such socket here; {error}") from error
    return LibvirtGuest(target, uri, monitor)


def is_left_out(options, target, result):
    """True for a domain without a balloon that --all found and nobody named."""
    return isinstance(result, NoBalloonError) and target not in getattr(options, "named", (target,))


def without_twins(targets):
    """Return each guest once, by the first of its names."""
    return list({identity(target): target for target in reversed(targets)}.values())[::-1]


def identity(target):
    """Return what two names of one guest have in common."""
    if is_path(target):
        return os.path.realpath(target)
    return LIBVIRT_PREFIX + target.removeprefix(LIBVIRT_PREFIX)


def is_path(target):
    """True for sockets, False for domains."""
    if target.startswith(LIBVIRT_PREFIX):
        return False
    return "/" in target or os.path.exists(target)


def all_domains(uri=None):
    """Return all running domains, as open_guest() takes them."""
    from .domain import running_domains
    return [LIBVIRT_PREFIX + name for name in running_domains(uri)]


def read_report(report):
    """Return the Statistics in QEMU's guest-stats."""
    values = {QEMU_NAMES[name]: None if value == NOT_REPORTED else int(value)
              for name, value in report["stats"].items() if name in QEMU_NAMES}
    return Statistics(**values, last_update_unix_s=int(report["last-update"]))


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
            return read_report(self._get("guest-stats"))
        except CommandError as error:
            if NO_REPORT_YET in str(error):
                return Statistics()
            raise

    def polling_seconds(self):
        """How often QEMU asks for statistics; 0 is never."""
        return self._get("guest-stats-polling-interval")

    def set_polling_seconds(self, seconds):
        """Make QEMU ask for statistics that often."""
        self._qmp.command("qom-set", path=self._balloon, property="guest-stats-polling-interval",
                          value=seconds)

    def device(self):
        """Return what the device offers and what the guest took of it."""
        return look_at_device(self._qmp.command, self._balloon)

    @property
    def command(self):
        """Runs a QMP command."""
        return self._qmp.command

    @property
    def pid(self):
        """QEMU's process."""
        return self._qmp.peer_pid

    @property
    def balloon_path(self):
        """The device in QEMU's object tree."""
        return self._balloon

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
