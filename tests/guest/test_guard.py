# SPDX-License-Identifier: GPL-2.0-only
"""The guard in real guests that are asked for more than they can spare.

Nothing here asserts on a time. What a guest lost is counted: pages that went to swap or
came back from it, pages of the page cache that had to be read again, processes killed,
against the pages that the guest's own work read meanwhile. tests/bench/bench-pressure shows
the same scenarios with both drivers, and speeds.
"""

import re

import pytest
from vbalfiles import disk_of_files
from vbalguest import CommandFailed
from vbalpressure import (BALLOON, CHUNK_MIB, MIB, PAGE_BYTES, Reader, Recorder,
                          balloon_value, batches, disk, fill_tmpfs, is_settled, need_memory,
                          set_balloon_value, wait_settled, worker_runs)

# The thresholds are a stock kernel's: one with KASAN has other things in its memory.
pytestmark = pytest.mark.stock

TARGET_BYTES = 256 * MIB
KIB = 1024
FILES = 120000
LRU_GEN = "/sys/kernel/mm/lru_gen/enabled"
# A fifth of what 300 MiB would be: some pages go before the balloon has given any back.
SWAP_STORM_PAGES = 300 * MIB // PAGE_BYTES // 5


def pressed(lab, deflate_on_oom="on", **options):
    """Return a guest of 1 GiB of its own for one test; the balloon driver is loaded."""
    return lab.fresh(balloon_opts=BALLOON.format(deflate_on_oom), **options)


def wait_honest(guest, total_kb, deflate_on_oom):
    """Wait until the host, the driver and the guest's MemTotal agree on the balloon's size."""
    def agree():
        held = balloon_value(guest, "held_bytes")
        lost = (total_kb - guest.meminfo()["MemTotal"]) * 1024
        return guest.inflated_bytes() == held and lost == (0 if deflate_on_oom == "on" else held)
    guest.wait_for(agree, what="actual, held_bytes and MemTotal to agree")


def read_pages(before, after):
    """Return how many pages the reader read between two samples."""
    return (after.chunks - before.chunks) * CHUNK_MIB * MIB // PAGE_BYTES


@pytest.mark.parametrize("deflate_on_oom", ["on", "off"])
def test_working_set_that_fits_is_spared(lab, deflate_on_oom):
    """Asked for what a working set needs, the guest keeps it, and gives it when it is free."""
    with pressed(lab, deflate_on_oom, swap_mib=1024) as guest:
        total_kb = guest.meminfo()["MemTotal"]
        reader = Reader(guest, fill_tmpfs(guest, 450), 450)
        reader.start()
        reader.wait_rounds(1)
        recorder = Recorder(guest)
        before = recorder.sample()
        guest.balloon(TARGET_BYTES)
        wait_settled(guest)
        reader.wait_rounds(3)
        after = recorder.sample()

        # it gave what it could: more than the reserve is not left
        assert guest.actual_bytes() < 700 * MIB
        assert balloon_value(guest, "state").startswith("held-by-")
        # 90 % of the speed: nine pages of ten were read from memory (in fact, all)
        assert after.swapped_in - before.swapped_in <= read_pages(before, after) / 10
        assert after.swapped_out - before.swapped_out < 1000
        assert after.oom_kills == 0
        wait_honest(guest, total_kb, deflate_on_oom)

        reader.stop()
        guest.check("umount /mnt")
        guest.wait_actual(TARGET_BYTES)
        wait_honest(guest, total_kb, deflate_on_oom)
        assert recorder.sample().swapped_out - before.swapped_out < 1000
        guest.check_clean()


@pytest.mark.parametrize("deflate_on_oom", ["on", "off"])
@pytest.mark.parametrize("lru", ["lists", "generations"])
def test_page_cache_in_use_is_not_thrashed(lab, deflate_on_oom, lru):
    """Files that are read all the time stay cached, although they could be dropped."""
    with disk(300) as files, \
            pressed(lab, deflate_on_oom, swap_mib=512, extra_qemu=files) as guest:
        guest.check(f"echo {'y' if lru == 'generations' else 'n'} >{LRU_GEN}")
        reader = Reader(guest, "/dev/vdb", 300)
        reader.start()
        reader.wait_rounds(3)
        recorder = Recorder(guest)
        before = recorder.sample()
        guest.balloon(TARGET_BYTES)
        # plenty is free at first; then it is about the cache
        guest.wait_for(lambda: guest.actual_bytes() < 600 * MIB, what="the free memory to go")
        reader.wait_rounds(10)
        after = recorder.sample()

        # What is not read again within the guard's look, a second, it cannot know to be in use: on
        # a machine too slow for a round in a second it takes more. in-tree: four pages of five.
        share = 10 if after.seconds - before.seconds < 10 else 4
        assert after.refaults - before.refaults <= read_pages(before, after) / share
        assert after.oom_kills == 0
        guest.check_clean()


def test_page_cache_out_of_use_is_given(lab):
    """Files that were read once do not keep a target from being reached."""
    with disk(600) as files, \
            pressed(lab, extra_qemu=files, extra_modules=["virtio_blk"]) as guest:
        guest.check("exec 3</dev/vda; sleep 1000 >/dev/null 2>&1 & cat /dev/vda >/dev/null")
        assert guest.meminfo()["MemFree"] < 400 * 1024
        guest.balloon(TARGET_BYTES)
        guest.wait_actual(TARGET_BYTES)
        assert guest.vmstat()["oom_kill"] == 0
        assert guest.meminfo()["Cached"] + guest.meminfo()["Buffers"] > 36 * 1024
        guest.check_clean()


@pytest.mark.parametrize("lru_gen, rounds", [("n", 1), ("n", 3), ("y", 3)])
def test_idle_page_cache_goes_in_large_blocks(lab, lru_gen, rounds):
    """Cache that nobody reads any more is dropped without harm, and travels by range."""
    with disk(900) as files, pressed(lab, swap_mib=512, extra_qemu=files) as guest:
        guest.check(f"echo {lru_gen} >/sys/kernel/mm/lru_gen/enabled; exec 3</dev/vdb; "
                    "sleep 1000 >/dev/null 2>&1 &")
        for _ in range(rounds):
            guest.check("cat /dev/vdb >/dev/null", timeout=180)
        cached_kb = guest.meminfo()["Buffers"]
        assert cached_kb > 700 * 1024
        before = guest.vmstat()
        with batches(guest) as given:
            guest.balloon(384 * MIB)
            guest.wait_actual(384 * MIB)
            by_queue = given()
        after = guest.vmstat()

        # 640 MiB; all of them would have to be single pages if reclaim left pieces
        assert by_queue["report"] > 7 * by_queue["inflate"]
        assert after["workingset_activate_file"] - before["workingset_activate_file"] < 1000
        assert after["pswpout"] - before["pswpout"] <= 32
        assert after["oom_kill"] == 0
        # what is promised to stay
        assert guest.meminfo()["Buffers"] > cached_kb / 16 - 2048
        assert balloon_value(guest, "pressure_give_backs") == 0
        guest.check_clean()


@pytest.mark.parametrize("swap_mib", [0, 512])
def test_names_and_inodes_of_files_are_given(lab, swap_mib):
    """What a guest remembers of files it has looked at is something to give, as page cache is."""
    with pressed(lab, swap_mib=swap_mib, mem_mib=512, extra_qemu=disk_of_files(FILES),
                 extra_modules=["virtio_blk", "ext4"]) as guest:
        guest.check("mkdir -p /mnt; mount -t ext4 -o ro /dev/vd$([ -e /dev/vdb ] && echo b || "
                    "echo a) /mnt; find /mnt >/dev/null", timeout=300)
        before = guest.meminfo()
        assert before["SReclaimable"] > 120 * 1024
        # so much is neither free nor page cache
        target = guest.mem_bytes - (before["MemFree"] + before["Buffers"] + before["Cached"]) * KIB
        guest.balloon(target)
        guest.wait_actual(target)
        after = guest.meminfo()
        assert after["SReclaimable"] < before["SReclaimable"] - 20 * 1024
        after = guest.vmstat()
        assert after["oom_kill"] == 0
        # reclaim that may drop inodes may swap tmpfs; the guard stops it
        assert after["pswpout"] < 512
        guest.check("find /mnt >/dev/null", timeout=300)
        guest.check_clean()


def test_a_stream_does_not_hold_the_balloon(lab):
    """Who reads more than would ever fit misses nothing: the host gets its target."""
    with disk(2048) as files, pressed(lab, swap_mib=512, extra_qemu=files) as guest:
        reader = Reader(guest, "/dev/vdb", 2048)
        reader.start()
        reader.wait_rounds(1)
        before = guest.vmstat()
        guest.balloon(512 * MIB)
        guest.wait_actual(512 * MIB)
        reader.wait_rounds(0.2)
        after = guest.vmstat()
        assert after["pswpout"] - before["pswpout"] < 1000
        assert after["oom_kill"] == 0
        reader.stop()
        guest.check_clean()


@pytest.mark.parametrize("swap_mib", [0, 1024])
def test_sudden_need_is_met_from_the_balloon(lab, swap_mib):
    """With DEFLATE_ON_OOM a process that needs 300 MiB at once gets them."""
    with pressed(lab, swap_mib=swap_mib) as guest:
        guest.balloon(TARGET_BYTES)
        guest.wait_actual(TARGET_BYTES)
        before = Recorder(guest).sample()
        returncode, output = need_memory(guest, 300)
        after = Recorder(guest).sample()
        assert returncode == 0, output
        assert after.oom_kills == 0
        assert after.swapped_out - before.swapped_out < SWAP_STORM_PAGES
        given = (balloon_value(guest, "pressure_give_back_bytes")
                 + balloon_value(guest, "oom_give_back_bytes"))
        assert given >= 150 * MIB
        # and when the need is over, the host gets its target
        guest.wait_actual(TARGET_BYTES)
        guest.check_clean()


def test_sudden_need_without_deflate_on_oom_keeps_the_balloon(lab):
    """Without the feature nothing is given back: the guest swaps (virtio 1.2, 5.5.6.1)."""
    with pressed(lab, "off", swap_mib=1024) as guest:
        guest.balloon(TARGET_BYTES)
        guest.wait_actual(TARGET_BYTES)
        returncode, output = need_memory(guest, 300)
        assert returncode == 0, output
        assert guest.vmstat()["pswpout"] > 1000
        assert guest.actual_bytes() == TARGET_BYTES
        assert balloon_value(guest, "held_bytes") == guest.mem_bytes - TARGET_BYTES
        assert balloon_value(guest, "pressure_give_backs") == 0
        guest.check_clean()


def test_unreachable_target_costs_nothing(lab):
    """The worker looks about once a second, and does next to nothing then."""
    with pressed(lab) as guest:
        fill_tmpfs(guest, 450)
        guest.balloon(TARGET_BYTES)
        wait_settled(guest)
        requests = balloon_value(guest, "requests")
        with worker_runs(guest, "vbal_size_work_fn") as runs:
            guest.wait_for(lambda: len(runs()) >= 10, what="ten looks at the target",
                           interval=2)
            seen = runs()
        # counted in the guest's own time: not more often than every 0.8 s
        guest_seconds = seen[-1][0] - seen[0][0]
        assert len(seen) - 1 <= guest_seconds / 0.8 + 1
        assert is_settled(guest)
        # a page that became free may be taken; an attempt without any may not
        assert balloon_value(guest, "requests") - requests <= len(seen)
        assert balloon_value(guest, "allocation_failures") == 0
        assert guest.dmesg().count("trying again later") == 0
        guest.check_clean()


def test_guard_costs_an_idle_guest_nothing(lab):
    """Where there is plenty, guard=protect asks in the same large portions as guard=squeeze."""
    def requests_of_inflation(guest, policy):
        set_balloon_value(guest, "policy", policy)
        before = balloon_value(guest, "requests")
        guest.inflate(1024 * MIB)
        guest.wait_inflated(1024 * MIB)
        requests = balloon_value(guest, "requests") - before
        guest.inflate(0)
        guest.wait_inflated(0)
        return requests

    with pressed(lab, mem_mib=2048) as guest:
        requests_of_inflation(guest, "squeeze")
        squeeze = requests_of_inflation(guest, "squeeze")
        protect = requests_of_inflation(guest, "protect")
        # some 16 each; in portions of a MiB they would be a thousand
        assert protect <= squeeze * 2
        assert balloon_value(guest, "pressure_events") == 0
        guest.check_clean()


def test_settings_are_checked_and_obeyed(lab):
    """A floor holds until it is lowered; nonsense is refused and the valid values named."""
    with pressed(lab, module_params="floor=512M") as guest:
        guest.balloon(TARGET_BYTES)
        wait_settled(guest)
        left = guest.meminfo()["MemTotal"] * 1024 - balloon_value(guest, "held_bytes")
        assert 512 * MIB <= left < 514 * MIB
        assert "floor" in balloon_value(guest, "reason")
        with pytest.raises(CommandFailed, match="Invalid argument"):
            set_balloon_value(guest, "floor_bytes", "200%")
        set_balloon_value(guest, "floor_bytes", "10%")
        guest.wait_actual(TARGET_BYTES)

        guest.rmmod()
        for params in ("guard=crush", "floor=much", "floor=101%", "reserve=2G", "reserve=-1"):
            assert guest.run(f"insmod /modules/vballoon.ko {params}")[0] != 0, params
            name, _, _ = params.partition("=")
            valid = "protect or squeeze" if name == "guard" else "no more than the guest has"
            assert re.search(rf"vballoon: {params}: must be .*{valid}", guest.dmesg())
        guest.insmod("guard=squeeze floor=25% reserve=0")
        assert balloon_value(guest, "policy") == "squeeze"
        assert balloon_value(guest, "reserve_bytes") == 0
        guest.check_clean()
