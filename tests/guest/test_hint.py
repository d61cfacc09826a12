# SPDX-License-Identifier: GPL-2.0-only
"""Free page hinting: rounds of real live migrations, and what the guest keeps meanwhile."""

import pytest
from conftest import MIB
from vbalmonitor import Watch

DIRECTORY = "/sys/bus/virtio/drivers/vballoon/virtio*/balloon"
# no reporting: it would tell the host of the same pages
OPTIONS = "deflate-on-oom=on,free-page-hint=on"
SINK = "exec:cat >/dev/null"
# what else happens in a guest
SLACK_KB = 16 * 1024


def read(guest, name):
    """Return the number in one of the driver's files."""
    return int(guest.check(f"cat {DIRECTORY}/{name}"))


def begin_slow_migration(guest):
    """Start a migration that lasts until it is cancelled; wait until most memory is hinted."""
    rounds, free_kb = read(guest, "hint_rounds"), guest.meminfo()["MemFree"]
    guest.qmp("migrate-set-parameters", max_bandwidth=MIB)
    guest.qmp("migrate", uri=SINK)
    guest.wait_for(lambda: read(guest, "hint_rounds") > rounds, 120, "a round of hints")
    guest.wait_for(lambda: read(guest, "hint_held_bytes") // 1024 > free_kb // 2, 120,
                   "most of the free memory to be hinted")


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
def fixture_guest(lab):
    """A guest of its own for each test: a migration leaves QEMU changed."""
    with lab.fresh(balloon_opts=OPTIONS) as guest:
        yield guest
        guest.check_clean()


def unaccounted_kb(guest, free_kb):
    """What is neither free nor hinted of what was free."""
    held_kb = read(guest, "hint_held_bytes") // 1024
    return abs(free_kb - guest.meminfo()["MemFree"] - held_kb)


def test_blocks_are_held_for_a_migration_and_come_back(guest):
    free_kb = guest.meminfo()["MemFree"]
    slack_kb = SLACK_KB + guest.quarantine_kb
    for _ in range(2):
        begin_slow_migration(guest)
        guest.wait_for(lambda: unaccounted_kb(guest, free_kb) < slack_kb, 120,
                       "the round to end with all blocks accounted for")
        available = guest.meminfo()["MemAvailable"] * 1024
        assert available > read(guest, "reserve_bytes") // 2
        cancel_migration(guest)
        guest.wait_for(lambda: read(guest, "hint_held_bytes") == 0, 120, "DONE to be followed")
        assert abs(guest.meminfo()["MemFree"] - free_kb) < slack_kb
    assert read(guest, "hint_rounds") >= 2
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


def test_contiguous_memory_is_had_during_a_migration(lab, debug_kernel):
    """What is hinted cannot move; Debian's kernel for amd64 has no such areas."""
    area, nr_pages = "/sys/kernel/debug/cma/*", 224 * MIB // 4096
    with lab.fresh(kernel=debug_kernel, patience=4, balloon_opts=OPTIONS,
                   append="cma=256M") as guest:
        begin_slow_migration(guest)
        used = guest.run(f"echo {nr_pages} >$(echo {area}/alloc); cat {area}/used", 300)[1]
        assert int(used.split()[-1]) >= nr_pages
        assert read(guest, "hint_held_bytes") > 0
        cancel_migration(guest)
        guest.check_clean()


def test_unloading_in_the_middle_of_a_migration_gives_all_back(guest):
    free_kb = guest.meminfo()["MemFree"]
    begin_slow_migration(guest)
    assert read(guest, "hint_held_bytes") > 0
    guest.rmmod()
    assert abs(guest.meminfo()["MemFree"] - free_kb) < SLACK_KB + guest.quarantine_kb
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
    watch = Watch(guest)
    begin_slow_migration(guest)
    guest.inflate(512 * MIB)
    guest.wait_for(lambda: read(guest, "target_bytes") == 512 * MIB, 120, "the target to arrive")
    cancel_migration(guest)
    guest.wait_inflated(512 * MIB)
    guest.inflate(0)
    guest.wait_inflated(0)
    guest.wait_for(lambda: read(guest, "hint_held_bytes") == 0, 120, "DONE to be followed")
    monitor = watch.end()
    assert not monitor.breaches
    assert monitor.has_hinted and not monitor.hinting and not monitor.held


def moved_bytes(lab, params):
    """Migrate a guest that has freed 200 MiB of noise; return what had to be copied."""
    options = {"mem_mib": 512, "odd_ram": True, "balloon_opts": OPTIONS, "module_params": params}
    with lab.fresh(**options, name="source") as source, \
            lab.fresh(**options, name="target", incoming=True) as target:
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


def test_free_memory_is_not_copied(lab):
    with_hints = moved_bytes(lab, "hinting=1")
    without = moved_bytes(lab, "hinting=0")
    assert without - with_hints > 100 * MIB
