# SPDX-License-Identifier: GPL-2.0-only
"""A guest that libvirt manages. Importing this needs python3-libvirt."""

import json
import xml.etree.ElementTree as ET

from .base import (UNDERWAY, CRASHED, ENDING, PAUSED, SUSPENDED, Guest,
                   Statistics)
from .device import LIBVIRT_ATTRIBUTES, STATS, Device, in_order, look_at_device
from .errors import BalloonError, NoBalloonError, UnreachableError
from .qmp import CommandError
from .threads import in_time

try:
    import libvirt
except ImportError as missing:
    raise UnreachableError("libvirt domains need python3-libvirt "
                           "(apt-get install python3-libvirt)") from missing

# without this the library prints every error that it also raises
libvirt.registerErrorHandler(lambda *_: None, None)

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


STANDSTILL = {libvirt.VIR_DOMAIN_PAUSED: PAUSED, libvirt.VIR_DOMAIN_PMSUSPENDED: SUSPENDED,
              libvirt.VIR_DOMAIN_CRASHED: CRASHED, libvirt.VIR_DOMAIN_SHUTDOWN: ENDING}


def find_balloon(root):
    """Return the balloon in a domain's XML; None if it has none."""
    memballoon = root.find("devices/memballoon")
    return None if memballoon is None or memballoon.get("model") == "none" else memballoon


def find_standstill(state, reason):
    """Return why a domain in that state of libvirt's does not run; nothing if it does."""
    if (state, reason) == (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION):
        return UNDERWAY
    return STANDSTILL.get(state, "")


def connect(uri, complaint):
    """Return a connection to libvirt."""
    try:
        return in_time(libvirt.open, uri)
    except (libvirt.libvirtError, UnreachableError) as error:
        raise UnreachableError(f"{complaint}: {error}") from error


def running_domains(uri=None):
    """Return the names of all running domains, sorted."""
    connection = connect(uri, "no libvirt to ask for all domains")
    try:
        found = in_time(connection.listAllDomains, libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)
        return sorted(domain.name() for domain in found)
    except (libvirt.libvirtError, UnreachableError) as error:
        raise UnreachableError(f"libvirt does not list its domains: {error}") from error
    finally:
        close(connection)


# connections in which a call hangs; freed, they would wait for it
_hung = []


def close(connection):
    """End a connection to libvirt, if that is to be had."""
    try:
        in_time(connection.close)
    except UnreachableError:
        _hung.append(connection)
    except libvirt.libvirtError:
        # it is gone already
        pass


class LibvirtGuest(Guest):
    """A running domain."""

    def __init__(self, name, uri=None, monitor=False):
        self.name = name
        self.asks_monitor = monitor
        self._hangs = False
        self._domain = None
        self._connection = connect(uri, f"{name}: no such socket, and no libvirt to ask")
        try:
            self._domain = self._find(name)
            self._memballoon = self._find_balloon()
        except BaseException:
            self.close()
            raise

    def close(self):
        """End the connection."""
        if self._hangs:
            _hung.append((self._connection, self._domain))
        else:
            close(self._connection)

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

    def device(self):
        """Return what the device offers, and with the monitor what the guest took of it."""
        memballoon = self._find_balloon()
        if self.asks_monitor:
            alias = memballoon.find("alias").get("name")
            return look_at_device(self._ask_qemu, f"/machine/peripheral/{alias}")
        return Device(offered=in_order({STATS} | {word for word, name in LIBVIRT_ATTRIBUTES.items()
                                                  if memballoon.get(name) == "on"}))

    def xml(self, defined=False):
        """Return the XML of the running domain, or of its definition, which the next start takes.

        A domain that goes when it ends has no definition: then it is None.
        """
        if not defined:
            return self._call(self._domain.XMLDesc)
        if not self._call(self._domain.isPersistent):
            return None
        return self._call(self._domain.XMLDesc, libvirt.VIR_DOMAIN_XML_INACTIVE)

    def host_page_sizes(self):
        """Return the sizes of the host's pages in bytes, the smallest first."""
        capabilities = ET.fromstring(self._call(self._connection.getCapabilities))
        sizes = sorted(int(page.get("size")) * KIB
                       for page in capabilities.findall("host/cpu/pages"))
        return sizes or [4 * KIB]

    def standstill(self):
        """Return why its processors stand still, in a word of base.py's; nothing if they run."""
        return find_standstill(*self._call(self._domain.state))

    def is_migrating(self):
        """True while it comes or goes."""
        job = self._call(self._domain.jobStats)
        return job.get("operation") in (libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN,
                                        libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT)

    def _ask_qemu(self, name, **arguments):
        """Run a QMP command through libvirt, which marks the domain as tainted by that."""
        import libvirt_qemu
        answer = json.loads(self._call(
            libvirt_qemu.qemuMonitorCommand, self._domain,
            json.dumps({"execute": name, "arguments": arguments}), 0))
        if "error" in answer:
            details = answer["error"]
            raise CommandError(f"{self.name}: QEMU refuses '{name}': {details['desc']}",
                               details["class"])
        return answer["return"]

    def _find(self, name):
        try:
            domain = in_time(self._connection.lookupByName, name)
            active = in_time(domain.isActive)
        except (libvirt.libvirtError, UnreachableError) as error:
            raise UnreachableError(f"{name}: no such socket, and libvirt says: {error}") from error
        if not active:
            raise UnreachableError(f"{name}: the domain is not running (virsh start {name})")
        return domain

    def _find_balloon(self):
        memballoon = find_balloon(ET.fromstring(self._call(self._domain.XMLDesc)))
        if memballoon is None:
            raise NoBalloonError(f"{self.name}: the domain has no balloon device "
                                 "(<memballoon model='virtio'/>)")
        return memballoon

    def _memory_stats(self):
        return self._call(self._domain.memoryStats)

    def _call(self, function, *arguments):
        if self._hangs:
            raise UnreachableError(f"{self.name}: its QEMU hangs")
        try:
            return in_time(function, *arguments)
        except UnreachableError as error:
            self._hangs = True
            raise UnreachableError(f"{self.name}: {error}; does its QEMU hang?") from error
        except libvirt.libvirtError as error:
            if error.get_error_code() in (libvirt.VIR_ERR_NO_DOMAIN,
                                          libvirt.VIR_ERR_OPERATION_INVALID):
                raise UnreachableError(f"{self.name}: {error}") from error
            raise BalloonError(f"{self.name}: {error}") from error
