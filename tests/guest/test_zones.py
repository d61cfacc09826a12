# SPDX-License-Identifier: GPL-2.0-only
"""Memory that only movable pages may be in: it is the balloon's first, the kernel's last."""

import re

import pytest
from conftest import MIB

# What a kernel of a movable guest has for itself is little; the balloon must not want that.
LAYOUT = {"mem_mib": 1536, "append": "movablecore=1024M"}
INFLATE = 800 * MIB


def zone_kb(guest, zone, field):
    """Sum of a field over the zones of that name, in KiB."""
    text = guest.check("cat /proc/zoneinfo")
    parts = re.split(r"^Node \d+, zone +(\w+)$", text, flags=re.M)[1:]
    found = [re.search(rf"^ +{field} +(\d+)$", body, re.M)
             for name, body in zip(parts[::2], parts[1::2]) if name == zone]
    return sum(int(match[1]) * 4 for match in found if match)


@pytest.mark.stock
@pytest.mark.parametrize("transfer", ("range", "pfn"))
def test_movable_memory_goes_first(lab, transfer):
    guest = lab.guest(**LAYOUT)
    with lab.loaded(guest, f"transfer={transfer} deflate_on_oom=0") as balloon:
        before_kb = zone_kb(guest, "DMA32", "nr_free_pages")
        balloon.resize(INFLATE)
        # all of it fits into ZONE_MOVABLE, and nearly all is there
        assert before_kb - zone_kb(guest, "DMA32", "nr_free_pages") < 64 * 1024
        # what the kernel needs now, only its own zones can give
        guest.check("mkdir /tmp/many; for i in $(seq 3000); do : >/tmp/many/$i; done; "
                    "rm -r /tmp/many")
        assert "Out of memory" not in guest.dmesg()
        # at rest every page can move, or the zone's promise would be broken
        guest.wait_for(lambda: int(balloon.attr("held_blocks_order10")) == 0 and
                       int(balloon.attr("held_blocks_order9")) == 0, 60,
                       lambda: "all blocks to become single pages")
        balloon.resize(0)


def node_kb(guest, field):
    """A field of each node's own meminfo, in KiB."""
    text = guest.check(f"grep -h '{field}:' /sys/devices/system/node/node*/meminfo")
    return [int(kb) for kb in re.findall(r"(\d+) kB", text)]


@pytest.mark.stock
@pytest.mark.parametrize("transfer", ("range", "pfn"))
def test_nodes_stay_level(lab, transfer):
    """Both nodes give, the emptier one less, and neither gives its last large blocks."""
    guest = lab.guest(mem_mib=1536, append="numa=fake=2U")
    with lab.loaded(guest, f"transfer={transfer} deflate_on_oom=0") as balloon:
        before_kb = node_kb(guest, "MemFree")
        assert len(before_kb) == 2
        for size in (200 * MIB, 700 * MIB, 450 * MIB, 900 * MIB):
            balloon.resize(size)
            free_kb = node_kb(guest, "MemFree")
            taken_kb = [before - after for before, after in zip(before_kb, free_kb)]
            assert max(free_kb) - min(free_kb) < 64 * 1024 or min(taken_kb) < 16 * 1024, \
                f"at {size // MIB} MiB: free {free_kb} of {before_kb}"
        blocks = [line.split()[-1] for line in
                  guest.check("grep -E 'Normal|DMA32' /proc/buddyinfo").splitlines()]
        assert len(blocks) == 2 and all(map(int, blocks)), blocks
        balloon.resize(0)
