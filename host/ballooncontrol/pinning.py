# SPDX-License-Identifier: GPL-2.0-only
"""What keeps a guest's memory on the host, so that a balloon frees nothing: all ask here."""

VFIO = "a VFIO device pins its memory: a balloon frees nothing"
HUGE = "its memory is huge pages from the host's pool: a balloon frees nothing"
PINNED = "its memory is locked or pinned: a balloon frees nothing"
# QEMU pins a little for its own input and output
MOST_PINNED_BYTES = 64 << 20
# mediated devices that pin no more than they use at the moment
NOT_PINNING = ("vfio-ccw", "vfio-ap")
VFIO_WORDS = ("<vfio-", "<vhost-vdpa")
# QEMU's property by which a device is told that it pins nothing
ALLOWED = "x-balloon-allowed"


def pins(kind):
    """True if a device of QEMU's pins memory; kind is such as child<vfio-pci>."""
    return (any(word in kind for word in VFIO_WORDS)
            and not any(f"<{name}" in kind for name in NOT_PINNING))


def pinning_elements(root):
    """Yield what pins memory among the devices of a domain's XML."""
    for device in root.findall("devices/hostdev"):
        if device.get("type") in ("pci", "mdev") and device.get("model") not in NOT_PINNING:
            yield device
    for device in root.findall("devices/interface"):
        if device.get("type") in ("hostdev", "vdpa"):
            yield device
    # QEMU drives such a disk itself, through VFIO
    yield from root.findall("devices/disk[@type='nvme']")


def find_obstacles(root):
    """Yield all that keeps a domain's balloon from freeing anything, in words."""
    if next(pinning_elements(root), None) is not None:
        yield VFIO
    if root.find("memoryBacking/hugepages") is not None:
        yield HUGE
    if root.find("memoryBacking/locked") is not None:
        yield PINNED
