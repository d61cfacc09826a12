# SPDX-License-Identifier: GPL-2.0-only
"""The balloon's size follows the host's wish, exact to the frame."""

import re

import pytest
from conftest import FRAME, MIB

pytestmark = pytest.mark.core
MODES = ("pfn", "range")
# Frame counts around a 2 MiB block, in the middle of blocks, up and down.
WALK = (1, 511, 512, 513, 77777, 40961, 40960, 77777, 3, 0)


@pytest.mark.parametrize("transfer", MODES)
@pytest.mark.parametrize("deflate_on_oom", (0, 1))
def test_targets_are_met_to_the_frame(lab, guest, transfer, deflate_on_oom):
    with lab.loaded(guest, f"transfer={transfer} deflate_on_oom={deflate_on_oom}") as balloon:
        assert balloon.attr("transfer") == transfer
        for nr_frames in WALK:
            balloon.resize(nr_frames * FRAME)


def test_auto_uses_ranges_where_the_host_takes_reports(lab, guest):
    with lab.loaded(guest) as balloon:
        assert balloon.attr("transfer") == "range"


@pytest.mark.parametrize("transfer", MODES)
def test_target_changes_on_the_way(lab, guest, transfer):
    """Change the target of a stopped guest that is still short of the one before.

    All RAM is asked for, so that the guest is short of it however fast it is.
    """
    with lab.loaded(guest, f"transfer={transfer} deflate_on_oom=0") as balloon:
        for target in (200 * MIB + FRAME, 3 * FRAME, 0):
            guest.balloon(1)
            guest.wait_for(lambda: balloon.attr("state") == "held-by-floor", 180,
                           lambda: f"the guard to hold (state {balloon.attr('state')})")
            guest.qmp("stop")
            assert guest.inflated_bytes() > 300 * MIB
            guest.inflate(target)
            guest.qmp("cont")
            balloon.wait_met(target)


@pytest.mark.parametrize("transfer", MODES)
def test_flapping_target_ends_at_the_last_one(lab, guest, transfer):
    with lab.loaded(guest, f"transfer={transfer} deflate_on_oom=0") as balloon:
        for turn in range(200):
            guest.inflate((turn * 7919 % 300) * MIB + turn * FRAME)
        guest.inflate(123 * MIB + 5 * FRAME)
        balloon.wait_met(123 * MIB + 5 * FRAME)


def test_target_beyond_ram_leaves_a_living_guest(lab, guest):
    """The host asks for all RAM: more than the kernel manages. One warning, and a floor."""
    guest.check("dmesg -c >/dev/null")
    with lab.loaded(guest, "deflate_on_oom=0") as balloon:
        floor_bytes = int(balloon.attr("floor_bytes"))
        reserve_bytes = int(balloon.attr("reserve_bytes"))
        for _ in range(2):
            guest.balloon(1)
            guest.wait_for(lambda: balloon.attr("state") == "held-by-floor", 180,
                           lambda: f"the guard to hold (state {balloon.attr('state')})")
            left_kb = guest.meminfo()
            assert guest.inflated_bytes() > 300 * MIB
            assert left_kb["MemTotal"] * 1024 >= floor_bytes
            # a few MiB for what runs in the guest just now
            assert left_kb["MemAvailable"] * 1024 >= reserve_bytes - 16 * MIB
            balloon.resize(0)
        warnings = re.findall(r"the host asks for \d+ pages, the guest has \d+", guest.dmesg())
        assert len(warnings) == 1
