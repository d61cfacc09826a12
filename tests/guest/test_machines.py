# SPDX-License-Identifier: GPL-2.0-only
"""Guests of one and of many processors, and of little and of very much memory."""

import pytest

MIB = 1 << 20
GIB = 1 << 30
LARGE_GIB = 256
# What QEMU does not have to have before the guest touches it.
UNRESERVED = "memory-backend-ram,reserve=off"


@pytest.mark.parametrize("smp", (1, 8))
def test_any_number_of_processors(lab, smp):
    guest = lab.guest(smp=smp)
    for transfer in ("pfn", "range"):
        with lab.loaded(guest, f"transfer={transfer} deflate_on_oom=0") as balloon:
            for size_mib in (700, 64, 701):
                balloon.resize(size_mib * MIB)


def test_little_memory(lab):
    """The guard leaves a small guest what it needs; it can be told not to.

    In 80 MiB Debian's kernel does not boot.
    """
    guest = lab.guest(mem_mib=128)
    with lab.loaded(guest, target_bytes=127 * MIB) as balloon:
        guest.wait_for(lambda: balloon.attr("state").startswith("held-by"), 60,
                       lambda: f"the guard to hold: {balloon.attr('state')}")
    with lab.loaded(guest, "guard=squeeze") as balloon:
        balloon.resize(4 * MIB)


@pytest.mark.long
def test_very_much_memory(lab):
    """Pages by the ten million, in requests as few for each GiB as in a small guest."""
    guest = lab.guest(mem_mib=LARGE_GIB * 1024, mem_backend=UNRESERVED, boot_timeout=1800)
    requests = {}
    for size_gib in (16, LARGE_GIB * 15 // 16):
        with lab.loaded(guest, "transfer=range") as balloon:
            before = int(balloon.attr("notifications"))
            balloon.resize(size_gib * GIB, 1800)
            requests[size_gib] = int(balloon.attr("notifications")) - before
            print(f"{size_gib} GiB: {requests[size_gib]} notifications, "
                  f"{balloon.attr('last_inflate_bytes_per_second')} bytes/s")
            assert int(balloon.attr("given_bytes")) == size_gib * GIB
    small, large = (number / size for size, number in requests.items())
    assert large < 1.5 * small + 1
