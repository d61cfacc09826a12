# SPDX-License-Identifier: GPL-2.0-only
"""What `balloonctl balance` reads in a domain's XML; real domains: test_balance_guests.py."""

import pytest
from ballooncontrol.balance.model import MIB, Limits

pytest.importorskip("libvirt")
from ballooncontrol.balance.domains import Description  # noqa: E402


def describe(devices="<memballoon model='virtio'><stats period='7'/></memballoon>", rest=""):
    """Return the description of a domain."""
    return Description(f"<domain>{rest}<devices>{devices}</devices></domain>")


def test_balloon_and_its_period():
    plain = describe()
    assert (plain.has_balloon, plain.period_s, plain.obstacle) == (True, 7, None)
    assert describe("<memballoon model='virtio'/>").period_s == 0
    assert not describe("<memballoon model='none'/>").has_balloon
    assert not describe("").has_balloon


@pytest.mark.parametrize("devices, rest, word", [
    ("<hostdev mode='subsystem' type='pci'/>", "", "VFIO"),
    ("<hostdev mode='subsystem' type='mdev'/>", "", "VFIO"),
    ("<interface type='vdpa'/>", "", "VFIO"),
    ("", "<memoryBacking><hugepages/></memoryBacking>", "huge pages"),
])
def test_what_keeps_memory_from_the_host(devices, rest, word):
    assert word in describe(devices, rest).obstacle


def test_usb_devices_are_no_obstacle():
    assert describe("<hostdev mode='subsystem' type='usb'/>").obstacle is None


def test_metadata_and_hard_limit():
    found = describe(rest="<metadata><b:guest xmlns:b='urn:vballoon:balance:1' minimum='1G' "
                     "weight='200'/></metadata><memtune><hard_limit unit='KiB'>4096</hard_limit>"
                     "</memtune>")
    assert found.overrides == {"minimum": "1G", "weight": "200"}
    assert found.hard_limit_bytes == 4 * MIB
    limits = Limits(8 * MIB, 16 * MIB).at_most(found.hard_limit_bytes)
    assert (limits.minimum_bytes, limits.maximum_bytes) == (4 * MIB, 4 * MIB)
