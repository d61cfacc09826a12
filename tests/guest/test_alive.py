# SPDX-License-Identifier: GPL-2.0-only
"""A large resize holds nothing else up, and costs no more requests than it must."""

import contextlib

import pytest
from conftest import MIB

GIB = 1 << 30
MOVE = 8 * GIB
MOVE_GUEST_MIB = 12 * 1024
STATS_PERIOD_S = 1
REPORTS = 5
# For 1 GiB, of which the in-tree driver takes 1024. A range request carries half of QEMU's ring of
# 32, in blocks of 4 MiB where the guest has them; by PFN 4 requests of 256 go at once, lest the
# host answer nobody else for long.
MAX_NOTIFICATIONS = {"pfn": GIB // (4 * MIB) + 4, "range": 21}
TRACED_DISCARD = "ram_block_discard_range"


def available_mib():
    """Return the host's free memory."""
    with open("/proc/meminfo", encoding="ascii") as meminfo:
        return next(int(line.split()[1]) // 1024 for line in meminfo
                    if line.startswith("MemAvailable"))


@contextlib.contextmanager
def own_guest(lab, **options):
    """Boot a guest for one test, without a balloon driver."""
    guest = lab.fresh(**options)
    with contextlib.closing(guest):
        guest.start()
        guest.wait_boot()
        yield guest


@pytest.mark.parametrize("transfer", ("pfn", "range"))
def test_statistics_go_on_while_much_moves(lab, transfer):
    """The host asks every second, and the balloon never rests: each is answered.

    That no answer waits for the host is stats_while_the_inflate_queue_is_stuck's to show.
    """
    if available_mib() < 2048:
        pytest.skip("the host has too little memory for a guest of 12 GiB, untouched")
    # uncleared memory stays untouched on the host, so that 8 GiB need no 8 GiB here
    with (own_guest(lab, mem_mib=MOVE_GUEST_MIB, append="init_on_alloc=0", boot_timeout=600)
          as guest, lab.loaded(guest, f"transfer={transfer}") as balloon):
        guest.poll_stats(STATS_PERIOD_S)
        guest.wait_for(lambda: guest.guest_stats()["last-update"], 60, "statistics at all")
        sizes = [MOVE, 0]
        sent = int(balloon.attr("stats_sent"))
        guest.inflate(sizes[0])

        def reports_arrived():
            """Turn about at each target: the balloon rests for moments only."""
            if guest.inflated_bytes() == sizes[0]:
                sizes.reverse()
                guest.inflate(sizes[0])
            return int(balloon.attr("stats_sent")) - sent >= REPORTS
        guest.wait_for(reports_arrived, 600, "reports while the balloon moves", 0.1)
        guest.poll_stats(0)


# With KASAN, guests that touch this much memory and free it want minutes for it.
@pytest.mark.stock
def test_reporting_goes_on_during_large_resizes(lab):
    """Reports and ranges share a queue: neither starves the other."""
    guest = lab.guest(mem_mib=4096)
    with lab.loaded(guest, "transfer=range") as balloon:
        guest.allow_reports()
        sizes = [256 * MIB, GIB]
        guest.inflate(sizes[0])
        guest.wait_inflated(sizes[0], 180)
        guest.dirty(1024)
        reported = int(balloon.attr("reported_bytes"))
        resizes = 0

        def reports_arrived():
            """Never let the balloon rest meanwhile: what it gives back is to be reported."""
            nonlocal resizes
            if guest.inflated_bytes() == sizes[0]:
                resizes += 1
                sizes.reverse()
                guest.inflate(sizes[0])
            return resizes > 2 and int(balloon.attr("reported_bytes")) - reported >= 256 * MIB
        guest.wait_for(reports_arrived, 300, "reports while the balloon moves", 0.05)
        guest.wait_inflated(sizes[0], 180)
        assert balloon.attr("report_failures") == "0"


@pytest.mark.stock
@pytest.mark.parametrize("transfer", ("pfn", "range"))
def test_a_gigabyte_takes_few_requests(lab, transfer, tmp_path):
    """Notifications by the driver's count, discards by QEMU's trace: neither is a time."""
    log = tmp_path / "trace"
    with (own_guest(lab, mem_mib=2048, extra_qemu=["-D", str(log)]) as guest,
          lab.loaded(guest, f"transfer={transfer}") as balloon):
        guest.hold_reports()
        guest.dirty(1500)
        guest.qmp("trace-event-set-state", name=TRACED_DISCARD, enable=True)
        before = int(balloon.attr("notifications"))
        balloon.resize(GIB)
        inflate = int(balloon.attr("notifications")) - before
        guest.qmp("trace-event-set-state", name=TRACED_DISCARD, enable=False)
        balloon.resize(0)
        deflate = int(balloon.attr("notifications")) - before - inflate
    discards = log.read_bytes().count(TRACED_DISCARD.encode())
    assert 0 < inflate <= MAX_NOTIFICATIONS[transfer]
    if transfer == "range":
        assert 0 < discards <= 512
        assert deflate == 0
    else:
        assert discards == GIB // 4096
        assert 0 < deflate <= MAX_NOTIFICATIONS[transfer]
