# SPDX-License-Identifier: GPL-2.0-only
"""A guest that is carried elsewhere while its balloon is on the way: migration, snapshots.

The machine is stopped between two sizes, with requests in the rings; where it goes on, the driver
knows nothing of that, and has to arrive to the page.
"""

import contextlib
import subprocess
import time

import pytest
from conftest import ALL_FEATURES, FRAME, MIB, check_unloaded, memory
from vbalguest import tool

# So far, and by pfn, that a machine can be stopped on the way, on a busy host too: with a third of
# it, what came between cont and stop was all of it again and again.
LARGE, SMALL = 1050 * MIB + 3 * FRAME, 30 * MIB + FRAME
PARAMS = "transfer=pfn deflate_on_oom=0"
WAYS = {"inflating": (SMALL, LARGE), "deflating": (LARGE, SMALL)}
OPTIONS = {"mem_mib": 1536, "odd_ram": True, "balloon_opts": ALL_FEATURES}


def begin(guest, size):
    """Load the driver, take a balloon of that size, and write down what must survive."""
    before_kb = memory(guest)
    guest.insmod(PARAMS)
    guest.inflate(size)
    guest.wait_inflated(size)
    guest.check("mount -t tmpfs -o size=90M data /mnt && "
                "dd if=/dev/urandom of=/mnt/data bs=1M count=60 2>/dev/null", 300)
    return before_kb, guest.check("md5sum /mnt/data", 120)


def stop_between(guest, start, end):
    """Let the machine run, a moment at a time, until its balloon is between two sizes.

    On a busy machine a guest gets nothing of a short moment, and all it wants of a long one.
    """
    seconds = 0.001

    def moved():
        nonlocal seconds
        seconds *= 1.25
        guest.qmp("cont")
        time.sleep(seconds)
        guest.qmp("stop")
        return guest.inflated_bytes() != start

    def caught():
        nonlocal seconds
        guest.qmp("stop")
        guest.inflate(end)
        guest.wait_for(moved, 120, "the balloon to move", interval=0)
        if guest.inflated_bytes() != end:
            return True
        # too late: once more
        seconds /= 4
        guest.qmp("cont")
        guest.inflate(start)
        guest.wait_inflated(start)
        return False
    guest.wait_for(caught, 300, f"the balloon to be between {start} and {end} bytes")


def check(guest, before_kb, summed, size):
    """The balloon arrives, the content is there, and all of it comes back."""
    guest.wait_inflated(size, 300)
    assert guest.check("md5sum /mnt/data", 120) == summed
    assert before_kb["total"] - guest.meminfo()["MemTotal"] == size // 1024
    guest.check("umount /mnt")
    guest.dirty(200)
    guest.inflate(FRAME)
    guest.wait_inflated(FRAME, 300)
    assert before_kb["total"] - guest.meminfo()["MemTotal"] == FRAME // 1024
    guest.rmmod("vballoon")
    check_unloaded(guest, before_kb)
    guest.check_clean()


@contextlib.contextmanager
def two_places(lab, size):
    """Yield a guest with a balloon of that size, where it can go to, and what must survive."""
    with lab.fresh(**OPTIONS, name="source", load=False) as source, \
            lab.fresh(**OPTIONS, name="target", incoming=True) as target:
        yield source, target, begin(source, size)


@pytest.mark.parametrize("way", WAYS)
def test_migration_on_the_way(lab, way):
    start, end = WAYS[way]
    with two_places(lab, start) as (source, target, known):
        stop_between(source, start, end)
        source.migrate_to(target, stopped=True)
        source.close()
        assert start != target.inflated_bytes() != end
        target.qmp("cont")
        check(target, *known, end)


@pytest.mark.parametrize("way", WAYS)
def test_postcopy_on_the_way(lab, way):
    """The machine runs at its new place before its memory is there, and the balloon moves."""
    start, end = WAYS[way]
    with two_places(lab, start) as (source, target, known):
        # slow enough for the balloon to move meanwhile
        source.qmp("migrate-set-parameters", **{"max-bandwidth": 16 * MIB,
                                                "max-postcopy-bandwidth": 32 * MIB})
        source.migrate_to(target, postcopy=lambda: target.inflate(end))
        source.close()
        check(target, *known, end)


@pytest.mark.parametrize("way", WAYS)
def test_snapshot_on_the_way(lab, way, tmp_path):
    """What was between two sizes when it was saved is so when it is loaded, and arrives."""
    start, end = WAYS[way]
    disk = tmp_path / "disk.qcow2"
    subprocess.run([tool("qemu-img", "qemu-utils"), "create", "-q", "-f", "qcow2", disk, "64M"],
                   check=True)
    guest = lab.fresh(**OPTIONS, load=False, extra_qemu=(
        "-drive", f"if=none,id=saved,format=qcow2,cache=unsafe,file={disk}",
        "-device", "virtio-blk-pci,drive=saved"))
    with guest:
        known = begin(guest, start)
        stop_between(guest, start, end)
        between = guest.inflated_bytes()
        guest.snapshot("save")
        guest.qmp("cont")
        guest.wait_inflated(end, 300)
        guest.check("rm /mnt/data; dd if=/dev/urandom of=/mnt/other bs=1M count=80 2>/dev/null",
                    300)
        guest.inflate(0)
        guest.wait_inflated(0, 300)
        guest.snapshot("load")
        assert guest.inflated_bytes() == between
        guest.qmp("cont")
        # the host's wish is not part of what was saved
        guest.inflate(end)
        check(guest, *known, end)
