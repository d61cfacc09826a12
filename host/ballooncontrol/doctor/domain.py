# SPDX-License-Identifier: GPL-2.0-only
"""What libvirt says of a domain, and where in its XML that is changed."""

import time
import xml.etree.ElementTree as ET
from xml.parsers import expat

from ..device import LIBVIRT_ATTRIBUTES
from ..pinning import pinning_elements
from .facts import QEMU_NOT_ASKED, Facts

UNITS = {"B": 1, "BYTES": 1, "K": 1 << 10, "KB": 1000, "KIB": 1 << 10, "M": 1 << 20, "MB": 10 ** 6,
         "MIB": 1 << 20, "G": 1 << 30, "GB": 10 ** 9, "GIB": 1 << 30}
MEMBALLOON = "devices/memballoon"
USUAL_HUGE_BYTES = 2 << 20
RESTART = "then shut the domain down and start it again (a reboot in the guest is not enough)"
NO_MONITOR = ("libvirt does not tell what the guest negotiated; --monitor asks QEMU, and libvirt "
              "marks the domain as tainted for that")


def collect(guest):
    """Return the facts of a libvirt domain."""
    running = ET.fromstring(guest.xml())
    page_sizes = guest.host_page_sizes()
    statistics = guest.statistics()
    device = guest.device()
    unseen = {}
    if not device.state:
        unseen["driver"] = QEMU_NOT_ASKED if guest.asks_monitor else NO_MONITOR
    return Facts(
        guest.name, device, Places(guest.name, guest.xml(defined=True)),
        polling_seconds=guest.polling_seconds(),
        last_update_unix_s=statistics.last_update_unix_s, now_unix_s=time.time(),
        standstill=guest.standstill(), migrating=guest.is_migrating(), unseen=unseen,
        host_page_bytes=page_sizes[0], **read_running(running, page_sizes))


def read_running(root, page_sizes):
    """Return the facts in a running domain's XML, on a host with pages of these sizes."""
    memory = root.find("memoryBacking")
    security = root.find("launchSecurity")
    allocation = root.find("memoryBacking/allocation")
    return {"pinning": tuple(look_for_pinning(root)),
            "confidential": None if security is None else security.get("type"),
            "huge_bytes": huge_page_bytes(root.find("memoryBacking/hugepages"), page_sizes),
            "locked": memory is not None and memory.find("locked") is not None,
            "preallocated": allocation is not None and allocation.get("mode") == "immediate"}


def look_for_pinning(root):
    """Yield the devices that keep the domain's memory where it is."""
    for device in pinning_elements(root):
        yield f"{device.tag} {device.get('type')} {address(device)}".rstrip()


def address(device):
    """Return where on the host a device is, as people write it."""
    source = device.find("source")
    if source is None:
        return ""
    found = source.find("address")
    if found is None:
        return source.get("dev", "")
    if "uuid" in found.attrib:
        return found.get("uuid")
    numbers = [int(found.get(name, "0"), 16) for name in ("domain", "bus", "slot", "function")]
    return "{:04x}:{:02x}:{:02x}.{:x}".format(*numbers)


def huge_page_bytes(hugepages, page_sizes):
    """Return the size of the largest pages that <hugepages> asks for; 0 without it."""
    if hugepages is None:
        return 0
    sizes = [int(page.get("size")) * UNITS[page.get("unit", "KiB").upper()]
             for page in hugepages.findall("page") if page.get("size")]
    # the host's default is not told; it is the smallest, but for those who changed it
    return max(sizes, default=0) or min(page_sizes[1:], default=USUAL_HUGE_BYTES)


def lines(text):
    """Return the line in which each element begins, in the order of ElementTree's iter()."""
    parser = expat.ParserCreate()
    found = []
    parser.StartElementHandler = lambda *_: found.append(parser.CurrentLineNumber)
    parser.Parse(text, True)
    return found


class Places:
    """Where a domain is changed: its definition, as `virsh edit` shows it."""

    def __init__(self, name, defined):
        self._name = name
        self._root = ET.fromstring(defined) if defined else None
        self._lines = {} if self._root is None else dict(zip(self._root.iter(), lines(defined)))

    def _edit(self, path):
        """Return the command, and the line where the element at a path begins if it is there."""
        return self._edit_element(None if self._root is None else self._root.find(path))

    def _edit_element(self, element):
        if self._root is None:
            return "the XML that the domain is made from (it has no definition)"
        if element is None:
            return f"virsh edit {self._name}"
        return f"virsh edit {self._name}, line {self._lines[element]}"

    def balloon(self, word):
        """A property of the balloon, for the next start."""
        attribute = LIBVIRT_ATTRIBUTES[word]
        memballoon = self._root.find(MEMBALLOON) if self._root is not None else None
        attributes = {"model": "virtio"} if memballoon is None else dict(memballoon.attrib)
        if attributes.get(attribute) == "on":
            return f"it is on in the domain's definition already: {RESTART.removeprefix('then ')}"
        attributes[attribute] = "on"
        words = " ".join(f"{name}='{value}'" for name, value in attributes.items())
        return f"{self._edit(MEMBALLOON)}: <memballoon {words}>; {RESTART}"

    def statistics(self, seconds):
        """How often QEMU asks."""
        command = f"virsh dommemstat {self._name} --period {seconds} --live"
        if self._root is None:
            return command
        return (f"{command} --config; or {self._edit(MEMBALLOON)}: <stats period='{seconds}'/> "
                "in <memballoon>")

    def hinting(self):
        """Free page hints are not libvirt's to switch on."""
        return "wait for its end; libvirt cannot switch free-page-hint on"

    def resume(self):
        """The guest goes on."""
        return f"virsh resume {self._name}"

    def wake_up(self):
        """The guest ends its sleep."""
        return f"virsh dompmwakeup {self._name}"

    def devices(self):
        """What pins memory."""
        first = None if self._root is None else next(pinning_elements(self._root), None)
        what = "device" if first is None else f"<{first.tag}>"
        return (f"{self._edit_element(first)}: take the {what} away; or <memballoon model='none'/> "
                f"and a fixed size; {RESTART}")

    def unlock(self):
        """What locks memory."""
        return self._backing("locked", "<locked/>")

    def huge_pages(self):
        """The backend's pages."""
        return self._backing("hugepages", "<hugepages>",
                             " transparent huge pages do for most guests;")

    def preallocation(self):
        """The backend's allocation."""
        return self._backing("allocation", "<allocation mode='immediate'/>")

    def _backing(self, tag, element, remark=""):
        """An element that has to go."""
        return (f"{self._edit(f'memoryBacking/{tag}')}: take {element} out of <memoryBacking>;"
                f"{remark} {RESTART}")

    def files(self):
        """The backend's file."""
        return (f"{self._edit('memoryBacking')}: <source type='memfd'/> in <memoryBacking>; "
                f"{RESTART}")
