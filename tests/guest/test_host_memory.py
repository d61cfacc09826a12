# SPDX-License-Identifier: GPL-2.0-only
"""What the host gains: resident memory really falls, and no content is ever lost."""

import contextlib
import re
from pathlib import Path

import pytest
from conftest import FRAME, MIB

DIRTY_MIB = 750
INFLATE = 600 * MIB
HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
HUGE_BYTES = 2 * MIB


@pytest.mark.parametrize("transfer", ("pfn", "range"))
@pytest.mark.parametrize("backend", ("memory-backend-ram", "memory-backend-memfd,share=on"))
def test_resident_memory_falls(lab, transfer, backend):
    guest = lab.guest(mem_backend=backend)
    params = "transfer=pfn reporting=0" if transfer == "pfn" else "transfer=range"
    with lab.loaded(guest, params) as balloon:
        guest.hold_reports()
        guest.dirty(DIRTY_MIB)
        before_kb = guest.ram_rss_kb()
        assert before_kb > DIRTY_MIB * 1024
        balloon.resize(INFLATE)
        # the guest may touch some other pages meanwhile
        assert guest.ram_rss_kb() < guest.mem_mib * 1024 - INFLATE // 1024 + 32 * 1024
        assert before_kb - guest.ram_rss_kb() > 300 * 1024
        balloon.resize(0)
        guest.dirty(DIRTY_MIB)
        assert guest.ram_rss_kb() > DIRTY_MIB * 1024


@pytest.mark.parametrize("transfer", ("pfn", "range"))
def test_the_guests_data_survives(lab, guest, transfer):
    with lab.loaded(guest, f"transfer={transfer}") as balloon:
        guest.check("mount -t tmpfs -o size=50M data /mnt && "
                    "dd if=/dev/urandom of=/mnt/data bs=1M count=40 2>/dev/null", 300)
        summed = guest.check("md5sum /mnt/data", 120)
        for size in (500 * MIB, 100 * MIB + FRAME, 600 * MIB, 0):
            balloon.resize(size)
            guest.check("cp /mnt/data /tmp/copy && cmp /mnt/data /tmp/copy && rm /tmp/copy", 120)
        assert guest.check("md5sum /mnt/data", 120) == summed
        guest.check("umount /mnt")


def test_freed_memory_is_reported(lab, guest):
    """Free page reporting: without any balloon target the host gets free memory back."""
    with lab.loaded(guest) as balloon:
        guest.allow_reports()
        reported = int(balloon.attr("reported_bytes"))
        guest.dirty(DIRTY_MIB)
        guest.wait_for(lambda: guest.ram_rss_kb() < 400 * 1024, 180,
                       lambda: f"resident memory to fall (it is {guest.ram_rss_kb()} kB)")
        assert int(balloon.attr("reported_bytes")) - reported > 400 * MIB
        assert balloon.attr("report_failures") == "0"
        assert guest.inflated_bytes() == 0


def host_huge_free():
    """How many of the host's huge pages nobody has."""
    text = Path("/proc/meminfo").read_text("ascii")
    return int(re.search(r"HugePages_Free: +(\d+)", text)[1])


@contextlib.contextmanager
def huge_pages(number):
    """The host sets so many huge pages aside meanwhile."""
    before = int(HUGE_PAGES.read_text("ascii"))
    HUGE_PAGES.write_text(str(before + number), "ascii")
    try:
        if int(HUGE_PAGES.read_text("ascii")) < before + number:
            pytest.skip(f"the host has no {number} huge pages")
        yield
    finally:
        HUGE_PAGES.write_text(str(before), "ascii")


@pytest.mark.parametrize("transfer", ("pfn", "range"))
def test_a_guest_on_huge_pages(lab, transfer):
    """The host can take huge pages only, and has to keep those of which the guest has a part."""
    mem_mib, size = 1024, 500 * MIB + 3 * FRAME
    backend = f"memory-backend-memfd,hugetlb=on,hugetlbsize={HUGE_BYTES},share=on"
    with huge_pages(mem_mib * MIB // HUGE_BYTES + 8), \
            lab.fresh(mem_mib=mem_mib, mem_backend=backend, load=False) as guest, \
            lab.loaded(guest, f"transfer={transfer}") as balloon:
        guest.hold_reports()
        guest.check("mkdir /keep && mount -t tmpfs -o size=50M data /keep && "
                    "dd if=/dev/urandom of=/keep/data bs=1M count=40 2>/dev/null", 300)
        summed = guest.check("md5sum /keep/data", 120)
        guest.dirty(600)
        before = host_huge_free()
        balloon.resize(size)
        gained = (host_huge_free() - before) * HUGE_BYTES
        if transfer == "range":
            # single pages do not make a huge one
            assert size - 64 * MIB < gained <= size
        else:
            # QEMU looks for whole ones among the PFNs of a buffer, and takes 256 of a buffer
            assert 0 <= gained <= size
        balloon.resize(100 * MIB)
        guest.dirty(300)
        balloon.resize(size)
        assert guest.check("md5sum /keep/data", 120) == summed
        balloon.resize(0)
        guest.dirty(500)
        assert guest.check("md5sum /keep/data", 120) == summed
        guest.check("umount /keep")
