# SPDX-License-Identifier: GPL-2.0-only
"""The statistics that the host receives, held against the guest's own files."""

import pytest
from conftest import MIB

pytestmark = pytest.mark.core
# What QEMU calls the value, and what the guest says, for the ten tags that each QEMU knows.
EXACT = {
    "stat-total-memory": lambda mem, vm, page: mem["MemTotal"] * 1024,
    "stat-swap-in": lambda mem, vm, page: vm["pswpin"] * page,
    "stat-swap-out": lambda mem, vm, page: vm["pswpout"] * page,
    "stat-htlb-pgalloc": lambda mem, vm, page: vm.get("htlb_buddy_alloc_success", 0),
    "stat-htlb-pgfail": lambda mem, vm, page: vm.get("htlb_buddy_alloc_fail", 0),
}
# These move all the time: how far the two readings may be apart.
NEAR = {
    "stat-free-memory": (lambda mem, vm: mem["MemFree"] * 1024, 8 * MIB),
    "stat-available-memory": (lambda mem, vm: mem["MemAvailable"] * 1024, 8 * MIB),
    "stat-disk-caches": (lambda mem, vm: (mem["Cached"] + mem["Buffers"]) * 1024, 8 * MIB),
    "stat-major-faults": (lambda mem, vm: vm["pgmajfault"], 50),
    "stat-minor-faults": (lambda mem, vm: vm["pgfault"] - vm["pgmajfault"], 20000),
}


@pytest.mark.parametrize("inflated_mib", (0, 300))
def test_statistics_are_the_guests_own(lab, guest, inflated_mib):
    with lab.loaded(guest, "deflate_on_oom=0") as balloon:
        balloon.resize(inflated_mib * MIB)
        guest.check("mount -t tmpfs cache /mnt && "
                    "dd if=/dev/zero of=/mnt/cached bs=1M count=64 2>/dev/null")
        stats = guest.fresh_stats()
        mem, vm = guest.meminfo(), guest.vmstat()
        assert set(stats) >= set(EXACT) | set(NEAR)
        for name, own in EXACT.items():
            assert stats[name] == own(mem, vm, guest.page_bytes()), name
        for name, (own, distance) in NEAR.items():
            assert abs(stats[name] - own(mem, vm)) <= distance, name
        guest.check("umount /mnt")
        guest.poll_stats(0)


def test_statistics_keep_coming_while_the_balloon_cannot_move(lab, guest):
    """The size worker waits for the guard; statistics must not wait for the size worker."""
    with lab.loaded(guest, "deflate_on_oom=0") as balloon:
        guest.balloon(1)
        guest.wait_for(lambda: balloon.attr("state") == "held-by-floor", 180, "the guard")
        sent = int(balloon.attr("stats_sent"))
        for _ in range(3):
            stats = guest.fresh_stats()
            assert stats["stat-total-memory"] == guest.meminfo()["MemTotal"] * 1024
        assert int(balloon.attr("stats_sent")) > sent
        guest.poll_stats(0)
