# SPDX-License-Identifier: GPL-2.0-only
"""Held pages make way for whoever needs their place, as those of virtio_balloon do.

Each test lets both drivers do the same in one guest. A memory block that only virtio_balloon
let go fails the test, unless it stays without any balloon, too.
"""

import contextlib
import itertools
import re
import threading

import pytest
from conftest import FRAME, MIB, Balloon, memory

IN_TREE = "virtio_balloon"
OURS = "vballoon"
DRIVERS = (IN_TREE, OURS)
NO_OOM = "free-page-reporting=on"
MEMORY = "/sys/devices/system/memory"
BLOCK = 128 * MIB
GIB = 1024 * MIB
# The kernel refuses at once where a page is in nobody's hands just then.
TRIES = 20
# As long as nothing can be moved the kernel tries for ever: a signal ends it.
OFFLINE = f"""
for try in $(seq {TRIES}); do
    timeout 60 sh -c 'echo offline >{MEMORY}/memory%d/state' 2>/dev/null && echo $try && exit
done"""


# Memory blocks


def blocks(guest, zone=""):
    """Return the numbers of the guest's memory blocks that are in a zone."""
    listed = guest.check(f"grep -H '{zone}' {MEMORY}/memory*/valid_zones")
    return {int(number) for number in re.findall(r"/memory(\d+)/valid_zones", listed)}


def offline(guest, wanted):
    """Take memory blocks offline; return those that went."""
    return {number for number in sorted(wanted) if guest.run(OFFLINE % number, 60 * TRIES)[1]}


def online(guest, numbers, zone):
    """Take memory blocks into use again."""
    for number in sorted(numbers):
        guest.check(f"echo online_{zone} >{MEMORY}/memory{number}/state")


def offline_by_turns(guest, wanted, zone):
    """Take each block offline and into use again; return those that went."""
    gone = set()
    for number in sorted(wanted):
        gone |= offline(guest, {number})
        online(guest, gone & {number}, zone)
    return gone


def plug_dimm(guest):
    """Plug in a DIMM of 1 GiB; return its blocks when all are in use."""
    before = blocks(guest)
    guest.qmp("object-add", qom_type="memory-backend-ram", id="dimm-ram", size=GIB)
    guest.qmp("device_add", driver="pc-dimm", id="dimm0", memdev="dimm-ram")
    guest.mem_bytes += GIB
    count = f"cat {MEMORY}/memory*/state | grep -c '^online$'"
    guest.wait_for(lambda: int(guest.run(count)[1]) == len(before) + GIB // BLOCK, 60,
                   "the DIMM to be used")
    return blocks(guest) - before


def unplug_dimm(guest):
    """Pull the DIMM out, whose blocks are all offline."""
    seen = len(guest.events())
    guest.qmp("device_del", id="dimm0")
    guest.wait_event("DEVICE_DELETED", since=seen)
    guest.mem_bytes -= GIB


# Balloons


@contextlib.contextmanager
def loaded(guest, driver, params=""):
    """Load one of the drivers, and unload it; hand out the memory that there was before."""
    guest.inflate(0)
    before_kb = memory(guest)
    guest.insmod(params if driver == OURS else "", module=driver)
    yield Balloon(guest, before_kb["total"])
    guest.rmmod(driver)
    assert guest.inflated_bytes() == 0
    guest.check_clean()


def resize(guest, size, timeout=180):
    """Ask for a balloon of that size and wait for it."""
    guest.inflate(size)
    guest.wait_inflated(size, timeout)


def at_rest(balloon):
    """Wait until every held page of ours can move by itself."""
    def settled():
        listed = balloon.guest.check("grep -H . /sys/bus/virtio/drivers/vballoon/virtio*/balloon/"
                                     "held_blocks_order*")
        counts = {int(order): int(count) for order, count in
                  re.findall(r"order(\d+):(\d+)", listed)}
        return counts.pop(0) * 4096 == balloon.guest.inflated_bytes() and not any(counts.values())
    balloon.guest.wait_for(settled, 60, "the balloon to come to rest")


@contextlib.contextmanager
def moving(guest, sizes):
    """Let the balloon change its size all the time. Nobody else may use QMP meanwhile."""
    stop = threading.Event()

    def change():
        for size in itertools.cycle(sizes):
            guest.inflate(size)
            while guest.inflated_bytes() != size:
                if stop.wait(0.05):
                    return
            if stop.is_set():
                return

    thread = threading.Thread(target=change)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def check_total(guest, base_kb, size, nr_offline):
    """The guest's own MemTotal lacks what is ballooned and what is offline, nothing else."""
    expected_kb = base_kb - (size + nr_offline * BLOCK) // 1024
    guest.wait_for(lambda: guest.meminfo()["MemTotal"] == expected_kb, 60,
                   lambda: f"MemTotal {guest.meminfo()['MemTotal']} to be {expected_kb}")


def as_good(guest, gone, zone):
    """Judge, without any balloon: ours let go what in-tree let go, or nobody could have."""
    print("memory blocks that went offline:", {name: sorted(went) for name, went in gone.items()})
    left = gone[IN_TREE] - gone[OURS]
    late = offline_by_turns(guest, left, zone)
    assert not late, f"only {OURS} kept {late}: {gone}"


# Memory that goes offline


@pytest.mark.stock
@pytest.mark.parametrize("zone", ("kernel", "movable"))
def test_a_dimm_is_taken_out(lab, zone):
    with lab.fresh(load=False, balloon_opts=NO_OOM, extra_qemu=("-m", "slots=1,maxmem=4G"),
                   append=f"memhp_default_state=online_{zone}") as guest:
        dimm = plug_dimm(guest)
        half = sorted(dimm)[:4]
        for how, sizes in (("rest", [900 * MIB]), ("moving", [700 * MIB, 900 * MIB])):
            gone = {name: offline_half(guest, name, zone, half, sizes) for name in DRIVERS}
            print(how, end=": ")
            as_good(guest, gone, zone)
        with loaded(guest, OURS) as balloon:
            resize(guest, 300 * MIB)
            gone = offline(guest, dimm)
            assert zone == "kernel" or gone == dimm
            check_total(guest, balloon.base_total_kb, 300 * MIB, len(gone))
            if gone == dimm:
                unplug_dimm(guest)
                resize(guest, 200 * MIB)
            resize(guest, 0)
            check_total(guest, balloon.base_total_kb, 0, len(gone))


def offline_half(guest, driver, zone, numbers, sizes):
    """Take blocks offline while a balloon is full, at rest or moving; return which went."""
    with loaded(guest, driver) as balloon:
        guest.check("mount -t tmpfs data /mnt && dd if=/dev/urandom of=/mnt/data bs=1M count=40 "
                    "2>/dev/null", 120)
        summed = guest.check("md5sum /mnt/data")
        resize(guest, sizes[-1])
        with moving(guest, sizes) if len(sizes) > 1 else contextlib.nullcontext():
            gone = offline(guest, numbers)
        resize(guest, sizes[-1])
        check_total(guest, balloon.base_total_kb, sizes[-1], len(gone))
        assert guest.check("md5sum /mnt/data") == summed
        online(guest, gone, zone)
        guest.check("umount /mnt")
        resize(guest, 0)
        check_total(guest, balloon.base_total_kb, 0, 0)
    return gone


@pytest.mark.stock
@pytest.mark.parametrize("transfer", ("pfn", "range"))
def test_pages_in_the_movable_zone_move_at_rest(lab, transfer):
    """More than the kernel's own zones have, so that the rest is in ZONE_MOVABLE."""
    size = 600 * MIB
    # nokaslr keeps the kernel itself out of ZONE_MOVABLE
    guest = lab.guest(append="movablecore=512M nokaslr", balloon_opts=NO_OOM)
    guest.hold_reports()
    movable = blocks(guest, "^Movable")
    assert movable
    gone = {}
    for driver in DRIVERS:
        with loaded(guest, driver, f"guard=squeeze transfer={transfer}") as balloon:
            guest.dirty(700)
            resize(guest, size)
            if driver == OURS:
                at_rest(balloon)
            moved = guest.vmstat()["balloon_migrate"]
            gone[driver] = offline_by_turns(guest, movable, "movable")
            moved = guest.vmstat()["balloon_migrate"] - moved
            # the places that pages left are the guest's to use, those that they took the host's
            guest.dirty(260)
            resident_mib = guest.ram_rss_kb() // 1024
            print(f"{driver}: {moved} pages moved, {resident_mib} MiB resident")
            assert moved
            assert resident_mib < guest.mem_mib - size // MIB + 32
            assert guest.inflated_bytes() == size
            check_total(guest, balloon.base_total_kb, size, 0)
            if driver == OURS:
                balloon.check_counts(size)
            resize(guest, 0)
            guest.dirty(700)
    as_good(guest, gone, "movable")


# Memory in one piece


@pytest.mark.stock
def test_a_page_of_1_gib(lab):
    """A balloon that lies all over does not keep the kernel from making a huge page."""
    huge = "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages"
    take = f"echo 1 >/proc/sys/vm/compact_memory; echo 1 >{huge}; cat {huge}"
    made, size = {}, 1200 * MIB
    with lab.fresh(mem_mib=3072, load=False, balloon_opts=NO_OOM, append="nokaslr",
                   extra_qemu=("-cpu", "qemu64,+pdpe1gb")) as guest:
        assert guest.check(take, 600).strip() == "1", "not even without a balloon"
        guest.check(f"echo 0 >{huge}")
        for driver in DRIVERS:
            with loaded(guest, driver) as balloon:
                resize(guest, size)
                if driver == OURS:
                    at_rest(balloon)
                moved = guest.vmstat()["balloon_migrate"]
                made[driver] = any(guest.check(take, 600).strip() == "1" for _ in range(3))
                print(driver, made[driver], guest.vmstat()["balloon_migrate"] - moved, "moved")
                assert guest.inflated_bytes() == size
                check_total(guest, balloon.base_total_kb, size, 0)
                guest.check(f"echo 0 >{huge}")
                resize(guest, 0)
    assert made[OURS] or not made[IN_TREE]


def test_contiguous_memory_is_had(lab, debug_kernel):
    """From an area in which the balloon has pages. Debian's kernel for amd64 has no such areas."""
    area, size, nr_pages = "/sys/kernel/debug/cma/*", 650 * MIB, 224 * MIB // FRAME
    take = f"echo {nr_pages} >$(echo {area}/alloc); cat {area}/used"
    with lab.fresh(kernel=debug_kernel, patience=4, load=False, balloon_opts=NO_OOM,
                   append="cma=256M") as guest:
        for driver in DRIVERS:
            with loaded(guest, driver) as balloon:
                free = guest.vmstat()["nr_free_cma"]
                resize(guest, size)
                held = free - guest.vmstat()["nr_free_cma"]
                assert held > 64 * MIB // FRAME, "the balloon leaves enough of the area"
                moved = guest.vmstat()["balloon_migrate"]
                used = [int(guest.run(take, 300)[1].split()[-1]) for _ in range(3)]
                print(f"{driver}: {held} pages in the area, {used} had of {nr_pages}, "
                      f"{guest.vmstat()['balloon_migrate'] - moved} moved")
                assert used[-1] >= nr_pages
                assert guest.inflated_bytes() == size
                check_total(guest, balloon.base_total_kb, size, 0)
                guest.check(f"echo {used[-1]} >$(echo {area}/free)")
                resize(guest, 0)


# virtio-mem


@pytest.mark.stock
@pytest.mark.parametrize("zone", ("kernel", "movable"))
def test_virtio_mem_grows_and_shrinks(lab, zone):
    reached = {}
    with lab.fresh(mem_mib=768, load=False, balloon_opts=NO_OOM, extra_modules=["virtio_mem"],
                   extra_qemu=("-m", "slots=1,maxmem=4G",
                               "-object", "memory-backend-ram,id=vmem,size=1G",
                               "-device", "virtio-mem-pci,id=vmem0,memdev=vmem"),
                   append=f"memhp_default_state=online_{zone}") as guest:
        for driver in DRIVERS:
            reached[driver] = grow_and_shrink(guest, driver)
        print("virtio-mem's sizes in MiB:", reached)
        late = plugged(guest, 0)
    for ours, theirs in zip(reached[OURS], reached[IN_TREE]):
        assert ours <= max(theirs, late)


def grow_and_shrink(guest, driver):
    """Resize the memory beside a balloon that stays; return the sizes reached, in MiB.

    QEMU counts it neither in `actual` nor in the target.
    """
    size, sizes = 600 * MIB, []
    assert plugged(guest, 1024) == 1024
    with loaded(guest, driver):
        resize(guest, size)
        for mib in (512, 1024, 128):
            sizes.append(plugged(guest, mib))
            assert guest.inflated_bytes() == size
        resize(guest, 0)
    return sizes


def plugged(guest, mib):
    """Ask for that much; return what there is when it is had, or stays the same for long."""
    path, seen = "/machine/peripheral/vmem0", []
    guest.qmp("qom-set", path=path, property="requested-size", value=mib * MIB)

    def ended():
        seen.append(guest.qmp("qom-get", path=path, property="size") // MIB)
        return seen[-1] == mib or len(seen) > 60 and len(set(seen[-60:])) == 1
    guest.wait_for(ended, 300, lambda: f"virtio-mem to come to rest: {seen[-60:]}", 0.5)
    return seen[-1]
