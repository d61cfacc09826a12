# SPDX-License-Identifier: GPL-2.0-only
"""A guest that libvirt manages. Importing this needs python3-libvirt."""

import xml.etree.ElementTree as ET

from .base import Guest, Statistics
from .errors import BalloonError, NoBalloonError, UnreachableError

try:
    import libvirt
except ImportError as missing:
    raise UnreachableError("libvirt domains need python3-libvirt "
                           "(apt-get install python3-libvirt)") from missing

KIB = 1024
# libvirt's own name, our name, libvirt's unit in bytes
LIBVIRT_NAMES = (
    ("available", "total_bytes", KIB),
    ("unused", "free_bytes", KIB),
    ("usable", "available_bytes", KIB),
    ("disk_caches", "disk_caches_bytes", KIB),
    ("swap_in", "swap_in_bytes", KIB),
    ("swap_out", "swap_out_bytes", KIB),
    ("major_fault", "major_faults", 1),
    ("minor_fault", "minor_faults", 1),
    ("hugetlb_pgalloc", "hugetlb_allocations", 1),
    ("hugetlb_pgfail", "hugetlb_failures", 1),
)


class LibvirtGuest(Guest):
    """A running domain."""

    def __init__(self, name, uri=None):
        self.name = name
        # without this the library prints every error that it also raises
        libvirt.registerErrorHandler(lambda *_: None, None)
        try:
            self._connection = libvirt.open(uri)
        except libvirt.libvirtError as error:
            raise UnreachableError(f"{name}: no such socket, and no libvirt to ask: "
                                   f"{error}") from error
        try:
            self._domain = self._find(name)
            self._memballoon = self._find_balloon()
        except BaseException:
            self.close()
            raise

    def close(self):
        """End the connection."""
        self._connection.close()

    def ram_bytes(self):
        """The guest's RAM with the balloon empty."""
        return self._call(self._domain.maxMemory) * KIB

    def actual_bytes(self):
        """The RAM less the balloon."""
        return self._memory_stats()["actual"] * KIB

    def resident_bytes(self):
        """The memory of the host that the QEMU process has."""
        kib = self._memory_stats().get("rss")
        return None if kib is None else kib * KIB

    def ask(self, target_bytes):
        """Ask the guest to have that size; it follows in its own time."""
        self._call(self._domain.setMemoryFlags, target_bytes // KIB,
                   libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def statistics(self):
        """Return the last statistics, of whatever age."""
        report = self._memory_stats()
        values = {ours: report[theirs] * unit for theirs, ours, unit in LIBVIRT_NAMES
                  if theirs in report}
        return Statistics(**values, last_update_unix_s=report.get("last_update", 0))

    def polling_seconds(self):
        """How often QEMU asks for statistics; 0 is never."""
        stats = self._find_balloon().find("stats")
        return 0 if stats is None else int(stats.get("period"))

    def set_polling_seconds(self, seconds):
        """Make QEMU ask for statistics that often."""
        self._call(self._domain.setMemoryStatsPeriod, seconds, libvirt.VIR_DOMAIN_AFFECT_LIVE)

    def _find(self, name):
        try:
            domain = self._connection.lookupByName(name)
            active = domain.isActive()
        except libvirt.libvirtError as error:
            raise UnreachableError(f"{name}: no such socket, and libvirt says: {error}") from error
        if not active:
            raise UnreachableError(f"{name}: the domain is not running (virsh start {name})")
        return domain

    def _find_balloon(self):
        root = ET.fromstring(self._call(self._domain.XMLDesc))
        memballoon = root.find("devices/memballoon")
        if memballoon is None or memballoon.get("model") == "none":
            raise NoBalloonError(f"{self.name}: the domain has no balloon device "
                                 "(<memballoon model='virtio'/>)")
        return memballoon

    def _memory_stats(self):
        return self._call(self._domain.memoryStats)

    def _call(self, function, *arguments):
        try:
            return function(*arguments)
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN,
                                          libvirt.VIR_ERR_OPERATION_INVALID):
                raise UnreachableError(f"{self.name}: {error}") from error
            raise BalloonError(f"{self.name}: {error}") from error
