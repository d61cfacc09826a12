# SPDX-License-Identifier: GPL-2.0-only
"""What a balloon device offers, what the guest took of it, and what follows from that."""

from dataclasses import dataclass

from .qmp import CommandError

STATS, REPORTING, MUST_TELL_HOST = "stats", "free-page-reporting", "must-tell-host"
DEFLATE_ON_OOM, FREE_PAGE_HINT, POISON = "deflate-on-oom", "free-page-hint", "page-poison"
# QEMU's name, and the word that vballoon's sysfs has for it
FEATURES = {
    "VIRTIO_BALLOON_F_MUST_TELL_HOST": MUST_TELL_HOST,
    "VIRTIO_BALLOON_F_STATS_VQ": STATS,
    "VIRTIO_BALLOON_F_DEFLATE_ON_OOM": DEFLATE_ON_OOM,
    "VIRTIO_BALLOON_F_FREE_PAGE_HINT": FREE_PAGE_HINT,
    "VIRTIO_BALLOON_F_PAGE_POISON": POISON,
    "VIRTIO_BALLOON_F_REPORTING": REPORTING,
}
# the features that libvirt knows, and its words in <memballoon>
LIBVIRT_ATTRIBUTES = {DEFLATE_ON_OOM: "autodeflate", REPORTING: "freePageReporting"}
PROPERTIES = (DEFLATE_ON_OOM, FREE_PAGE_HINT, POISON, REPORTING)
# a device's status, the last that holds, and what it means for the balloon
STATES = (("VIRTIO_CONFIG_S_DRIVER", "starting"), ("VIRTIO_CONFIG_S_DRIVER_OK", "running"),
          ("VIRTIO_CONFIG_S_NEEDS_RESET", "broken"), ("VIRTIO_CONFIG_S_FAILED", "failed"))
NO_DRIVER, RUNNING = "no-driver", "running"
# QEMU keeps x-query-virtio-status unstable, and 11.1.3 aborts at it, its guest with it, for any
# device without vhost. Asked are those that were seen to answer, and what lies between them.
FIRST_TO_ANSWER, LAST_TO_ANSWER = (7, 2), (10, 0)


@dataclass(frozen=True)
class Device:
    """The device as its host sees it; None is what the host cannot see.

    state is one of no-driver, starting, running, broken and failed. Which driver it is a device
    does not hear: vballoon and Linux's own accept the same features.
    """

    offered: tuple | None = None
    negotiated: tuple | None = None
    state: str | None = None

    @property
    def ranges(self):
        """True if memory may travel by range; vballoon does so then, Linux's own never."""
        if self.negotiated is None:
            return None
        return REPORTING in self.negotiated and MUST_TELL_HOST not in self.negotiated

    def as_dict(self):
        """Return the fields for JSON."""
        return {"offered": self.offered, "negotiated": self.negotiated, "state": self.state,
                "ranges": self.ranges}


def look_at_device(command, path):
    """Return the device at a path in QEMU's object tree; command() runs a QMP command."""
    for place in (f"{path}/virtio-backend", path) if may_ask_status(command) else ():
        try:
            return read_status(command("x-query-virtio-status", path=place))
        except CommandError:
            # virtio-mmio's device is its own backend
            continue
    return Device(offered=offered_by_properties(command, path))


def may_ask_status(command):
    """True if this QEMU survives to be asked for the status of a device."""
    version = command("query-version")["qemu"]
    return FIRST_TO_ANSWER <= (version["major"], version["minor"]) <= LAST_TO_ANSWER


def offered_by_properties(command, path):
    """Return the offered features as the device's properties say; statistics always are."""
    offered = {STATS}
    for name in PROPERTIES:
        try:
            if command("qom-get", path=path, property=name):
                offered.add(name)
        except CommandError:
            # an older QEMU, without this feature
            continue
    return in_order(offered)


def read_status(answer):
    """Return the device that an answer to x-query-virtio-status describes."""
    host, guest = answer["host-features"], answer["guest-features"]
    statuses = names(answer["status"]["statuses"])
    state = NO_DRIVER
    for name, meaning in STATES:
        if name in statuses:
            state = meaning
    offered = in_order(FEATURES.get(name) for name in names(host["dev-features"]))
    if state != RUNNING:
        return Device(offered, None, state)
    negotiated = in_order(FEATURES.get(name) for name in names(guest["dev-features"]))
    return Device(offered, negotiated, state)


def names(descriptions):
    """Return the names in QEMU's list of `NAME: description`."""
    return {text.partition(":")[0] for text in descriptions}


def in_order(words):
    """Return features in the order of their bits; None among them is one we do not know."""
    words = set(words)
    return tuple(word for word in FEATURES.values() if word in words)
