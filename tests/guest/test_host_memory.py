# SPDX-License-Identifier: GPL-2.0-only
"""What the host gains: resident memory really falls, and no content is ever lost."""

import pytest
from conftest import FRAME, MIB

DIRTY_MIB = 750
INFLATE = 600 * MIB


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
