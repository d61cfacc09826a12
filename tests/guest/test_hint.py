#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-only
"""Free page hinting: rounds of real live migrations, and what the guest keeps meanwhile."""

import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "scripts"))

from vbalguest import Guest  # noqa: E402

MIB = 1 << 20
DIRECTORY = "/sys/bus/virtio/drivers/vballoon/virtio*/balloon"
# no reporting: it would tell the host of the same pages
OPTIONS = "deflate-on-oom=on,free-page-hint=on"
SINK = "exec:cat >/dev/null"


def read(guest, name):
    """Return the number in one of the driver's files."""
    return int(guest.check(f"cat {DIRECTORY}/{name}"))


def begin_slow_migration(guest):
    """Start a migration that lasts until it is cancelled; wait for its hints."""
    rounds = read(guest, "hint_rounds")
    guest.qmp("migrate-set-parameters", max_bandwidth=MIB)
    guest.qmp("migrate", uri=SINK)
    guest.wait_for(lambda: read(guest, "hint_rounds") > rounds, 120, "a round of hints")
    guest.wait_for(lambda: read(guest, "requests_in_flight") == 0, 120, "the hints to be used")


def cancel_migration(guest):
    """Cancel it, and wait until QEMU has."""
    guest.qmp("migrate_cancel")
    guest.wait_for(lambda: guest.qmp("query-migrate")["status"] == "cancelled", 120,
                   "the migration to be cancelled")


def fill(guest, mib, source="/dev/zero"):
    """Put that much into a file in memory."""
    guest.check(f"test -d /mnt/fill || (mkdir -p /mnt/fill && mount -t tmpfs -o size=95% t "
                f"/mnt/fill) && dd if={source} of=/mnt/fill/data bs=1M count={mib} 2>/dev/null",
                300)


@pytest.fixture(name="guest")
def fixture_guest():
    """A guest of its own for each test: a migration leaves QEMU changed."""
    with Guest(mem_mib=1024, balloon_opts=OPTIONS) as guest:
        yield guest
        guest.check_clean()


def test_blocks_are_held_for_a_migration_and_come_back(guest):
    free_kb = guest.meminfo()["MemFree"]
    for _ in range(2):
        begin_slow_migration(guest)
        held_kb = read(guest, "hint_held_bytes") // 1024
        during = guest.meminfo()
        assert held_kb > free_kb // 2
        assert abs(free_kb - during["MemFree"] - held_kb) < 16 * 1024
        assert during["MemAvailable"] * 1024 > read(guest, "reserve_bytes") // 2
        cancel_migration(guest)
        guest.wait_for(lambda: read(guest, "hint_held_bytes") == 0, 120, "DONE to be followed")
        assert abs(guest.meminfo()["MemFree"] - free_kb) < 16 * 1024
    assert read(guest, "hint_rounds") == 2
    assert read(guest, "hinted_bytes") >= 2 * 1024 * free_kb // 2


def test_held_blocks_yield_to_a_guest_that_needs_them(guest):
    begin_slow_migration(guest)
    held = read(guest, "hint_held_bytes")
    kills = guest.vmstat()["oom_kill"]
    fill(guest, 600)
    assert guest.vmstat()["oom_kill"] == kills
    assert read(guest, "hint_held_bytes") < held - 300 * MIB
    cancel_migration(guest)
    guest.wait_for(lambda: read(guest, "hint_held_bytes") == 0, 120, "the rest to come back")


def test_unloading_in_the_middle_of_a_migration_gives_all_back(guest):
    free_kb = guest.meminfo()["MemFree"]
    begin_slow_migration(guest)
    assert read(guest, "hint_held_bytes") > 0
    guest.rmmod()
    assert abs(guest.meminfo()["MemFree"] - free_kb) < 16 * 1024
    cancel_migration(guest)
    guest.insmod()
    assert read(guest, "hint_held_bytes") == 0


def test_a_driver_loaded_during_a_migration_follows_the_next_round(guest):
    begin_slow_migration(guest)
    guest.rmmod()
    guest.insmod()
    cancel_migration(guest)
    begin_slow_migration(guest)
    assert read(guest, "hint_held_bytes") > 0
    cancel_migration(guest)


def test_inflating_and_hinting_at_once(guest):
    begin_slow_migration(guest)
    guest.inflate(512 * MIB)
    guest.wait_for(lambda: read(guest, "target_bytes") == 512 * MIB, 120, "the target to arrive")
    cancel_migration(guest)
    guest.wait_inflated(512 * MIB)
    guest.inflate(0)
    guest.wait_inflated(0)


def moved_bytes(params):
    """Migrate a guest that has freed 200 MiB of noise; return what had to be copied."""
    with Guest(mem_mib=512, balloon_opts=OPTIONS, module_params=params, name="source") as source, \
            Guest(mem_mib=512, balloon_opts=OPTIONS, module_params=params, incoming=True,
                  name="target") as target:
        fill(source, 32, "/dev/urandom")
        digest = source.check("cp /mnt/fill/data /mnt/fill/kept && sha256sum /mnt/fill/kept")
        fill(source, 200, "/dev/urandom")
        source.check("rm /mnt/fill/data")
        source.migrate_to(target)
        assert target.check("sha256sum /mnt/fill/kept") == digest
        # what was hinted is usable, and reads as written
        target.check("cd /mnt/fill && for i in 1 2 3 4 5; do cp kept copy$i; done && "
                     "for i in 1 2 3 4 5; do cmp kept copy$i || exit 1; done", 300)
        target.wait_for(lambda: read(target, "hint_held_bytes") == 0, 120, "DONE to be followed")
        target.check_clean()
        return source.qmp("query-migrate")["ram"]["normal-bytes"]


def test_free_memory_is_not_copied():
    with_hints = moved_bytes("hinting=1")
    without = moved_bytes("hinting=0")
    assert without - with_hints > 100 * MIB


if __name__ == "__main__":
    sys.exit(pytest.main([__file__, *sys.argv[1:]]))
