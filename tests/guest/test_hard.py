# SPDX-License-Identifier: GPL-2.0-only
"""Sleep, reboot, hot-plug and failing allocations, each with a balloon that is full or moving.

Afterwards the driver reaches the host's target again, and all counts agree to the frame.
"""

import contextlib
import re
import subprocess
from pathlib import Path

import pytest
from conftest import FRAME, MIB, Balloon, Guest, memory

MEM_MIB = 512
SIZE = 200 * MIB + 5 * FRAME
OTHER_SIZE = 90 * MIB + FRAME
LARGE = 240 * MIB
DRIVER = "/sys/bus/virtio/drivers/vballoon"
# The kernel says so when it froze and thawed everything.
PM_TESTS = ("freezer", "devices", "platform")


@pytest.fixture
def small(lab):
    """A guest of half the usual size that the tests here share."""
    return lab.guest(mem_mib=MEM_MIB)


@contextlib.contextmanager
def a_guest(lab, disks=(), **options):
    """A guest of one test's own, with the driver loaded, and its Balloon.

    disks are files, or functions that return one's path when given the guest.
    """
    new = lab.fresh(**{"mem_mib": MEM_MIB, "load": False, **options})
    for disk in disks:
        new.add_disk(disk(new) if callable(disk) else disk)
    with new as guest:
        total_kb = memory(guest)["total"]
        guest.insmod("deflate_on_oom=0")
        yield Balloon(guest, total_kb)
        guest.check_clean()


def works(balloon):
    """The driver still does as it is told, up and down."""
    balloon.resize(OTHER_SIZE)
    balloon.resize(SIZE)
    balloon.resize(0)


def inflating(balloon, size=SIZE):
    """Ask for a balloon and wait until it has begun to grow."""
    balloon.guest.inflate(size)
    balloon.guest.wait_for(balloon.guest.inflated_bytes, 120, "the balloon to grow")


def bound(guest):
    """Has the driver a device."""
    return not guest.run(f"ls -d {DRIVER}/virtio*")[0]


# The device and the machine under it


def test_unplugged_and_plugged_in_while_inflating(lab, small):
    with lab.loaded(small, "deflate_on_oom=0 transfer=pfn") as balloon:
        for _ in range(3):
            inflating(balloon, LARGE)
            seen = len(small.events())
            small.qmp("device_del", id="balloon0")
            small.wait_event("DEVICE_DELETED", since=seen)
            small.wait_for(lambda: not bound(small), 60, "the driver to let go")
            small.wait_for(lambda: small.meminfo()["MemTotal"] == balloon.base_total_kb, 60,
                           "MemTotal to be whole again")
            small.plug_balloon()
            small.wait_for(lambda: bound(small), 60, "the driver to take the new device")
        works(balloon)


def test_machine_is_stopped_while_inflating_and_deflating(lab, small):
    with lab.loaded(small, "deflate_on_oom=0 transfer=pfn") as balloon:
        for size in (LARGE, 7 * FRAME, SIZE):
            small.inflate(size)
            for _ in range(3):
                small.qmp("stop")
                assert not small.qmp("query-status")["running"]
                small.qmp("cont")
            small.wait_inflated(size)
            balloon.check_counts(size)


def test_target_changes_while_the_machine_stands(lab, small):
    with lab.loaded(small, "deflate_on_oom=0") as balloon:
        balloon.resize(SIZE)
        small.qmp("stop")
        for size in (0, LARGE, OTHER_SIZE):
            small.inflate(size)
        small.qmp("cont")
        small.wait_inflated(OTHER_SIZE)
        balloon.check_counts(OTHER_SIZE)


def test_bound_and_unbound_ten_times(lab, small):
    with lab.loaded(small, "deflate_on_oom=0") as balloon:
        device = small.check(f"basename {DRIVER}/virtio*").strip()
        small.inflate(SIZE)
        for _ in range(10):
            small.check(f"echo {device} >{DRIVER}/unbind", 120)
            assert small.inflated_bytes() == 0
            assert small.meminfo()["MemTotal"] == balloon.base_total_kb
            small.check(f"echo {device} >{DRIVER}/bind", 120)
            small.wait_inflated(SIZE)
        balloon.check_counts(SIZE)
        works(balloon)


# Sleep


def sleep_test(guest, level, state):
    """Go to sleep as far as `level`, wake up by itself, and see in the log that it did."""
    guest.check("echo 0 >/sys/module/suspend/parameters/pm_test_delay; dmesg -c >/dev/null")
    guest.check(f"echo {level} >/sys/power/pm_test && echo {state} >/sys/power/state", 240)
    guest.check("echo none >/sys/power/pm_test")
    assert re.search(r"Restarting tasks ?\.\.\.", guest.dmesg())


@pytest.mark.parametrize("level", PM_TESTS)
def test_suspend_in_part(lab, small, level):
    with lab.loaded(small, "deflate_on_oom=0") as balloon:
        balloon.resize(SIZE)
        sleep_test(small, level, "mem")
        small.wait_inflated(SIZE)
        balloon.check_counts(SIZE)
        works(balloon)


def test_suspend_to_ram_with_a_full_balloon(lab):
    with a_guest(lab) as balloon:
        guest = balloon.guest
        balloon.resize(SIZE)
        for _ in range(2):
            seen = len(guest.events())
            asleep = guest.begin("echo mem >/sys/power/state")
            guest.wait_event("SUSPEND", since=seen)
            guest.wait_for(lambda: guest.qmp("query-status")["status"] == "suspended", 60,
                           "the machine to sleep")
            guest.qmp("system_wakeup")
            guest.wait_event("WAKEUP", since=seen)
            assert guest.finish(asleep) == (0, "")
            guest.wait_inflated(SIZE)
            balloon.check_counts(SIZE)
        works(balloon)


@pytest.fixture
def disk(tmp_path):
    """An empty disk that outlives a reboot."""
    image = tmp_path / "swap"
    with open(image, "wb") as stream:
        stream.truncate(768 * MIB)
    return image


def test_hibernation_with_a_full_balloon(lab, disk):
    """First in part, then to the disk, through a reboot, and back."""
    name_disk = "cat /sys/block/vda/dev >/sys/power/resume"
    # the image is made beside what it is an image of, and before the balloon is given back
    with a_guest(lab, mem_mib=2 * MEM_MIB, disks=[disk],
                 extra_modules=["virtio_blk"]) as balloon:
        guest = balloon.guest
        # no image is there yet: this only says where it will be
        guest.check(f"mkswap /dev/vda >/dev/null && swapon /dev/vda && {name_disk}")
        balloon.resize(SIZE)
        guest.check("echo reboot >/sys/power/disk")
        sleep_test(guest, "devices", "disk")
        guest.wait_inflated(SIZE)
        balloon.check_counts(SIZE)

        guest.qmp("set-action", reboot="reset")
        guest.check("echo reboot >/sys/power/disk; echo mine >/tmp/whose")
        asleep = guest.begin("echo disk >/sys/power/state && cat /tmp/whose", 240)
        guest.wait_boot()
        assert guest.run("[ -e /tmp/whose ]")[0], "another kernel has no such file"
        # the kernel that runs now is replaced by the one that went to sleep, which answers
        guest.begin(name_disk)
        assert guest.finish(asleep) == (0, "mine\n")
        guest.wait_inflated(SIZE)
        balloon.check_counts(SIZE)
        works(balloon)


# Another kernel takes over


@pytest.mark.parametrize("how", ("reboot", "reset"))
def test_reboot_with_a_full_balloon(lab, how):
    """The next kernel gets a whole guest, and its driver a host that keeps its wish."""
    with a_guest(lab) as balloon:
        guest = balloon.guest
        balloon.resize(SIZE)
        guest.qmp("set-action", reboot="reset")
        seen = len(guest.events())
        if how == "reboot":
            guest.begin("reboot -f")
        else:
            guest.qmp("system_reset")
        guest.wait_event("RESET", since=seen)
        guest.wait_boot()
        # what QEMU says of the balloon is still what the last kernel's driver told it; where the
        # kernel lies, and with it a page or two of its tables, is another matter at each boot
        total_kb = guest.meminfo()["MemTotal"]
        assert abs(total_kb - balloon.base_total_kb) <= 64
        balloon.base_total_kb = total_kb
        guest.insmod("deflate_on_oom=0")
        guest.wait_inflated(SIZE)
        balloon.check_counts(SIZE)
        works(balloon)


@pytest.fixture
def kexec(tmp_path):
    """A program for the guest, without libraries."""
    program = tmp_path / "kexec"
    subprocess.run(["gcc", "-O2", "-Wall", "-Werror", "-static", "-o", program,
                    Path(__file__).with_name("kexec.c")], check=True)
    return program


def test_kexec_with_a_full_balloon(lab, kexec):
    """No firmware resets the device: the driver has to, before the other kernel starts."""
    with a_guest(lab, disks=[lambda guest: guest.kernel.image, Guest.image],
                 files={"/bin/kexec": kexec}, extra_modules=["virtio_blk"]) as balloon:
        guest = balloon.guest
        guest.check("cat /dev/vda >/tmp/kernel && cat /dev/vdb >/tmp/initrd")
        guest.poll_stats(1)
        balloon.resize(SIZE)
        guest.check("kexec /tmp/kernel /tmp/initrd", 300)
        guest.begin("kexec")
        guest.wait_boot()
        guest.check("[ ! -e /tmp/kernel ]")  # the other kernel has its own /tmp
        assert guest.meminfo()["MemTotal"] == balloon.base_total_kb
        # all of it can be used, and nothing of it goes to the host meanwhile
        guest.check("dd if=/dev/urandom of=/tmp/data bs=1M count=200 2>/dev/null && "
                    "md5sum /tmp/data >/tmp/sum && md5sum -c /tmp/sum && rm /tmp/data", 300)
        guest.insmod("deflate_on_oom=0")
        guest.wait_inflated(SIZE)
        balloon.check_counts(SIZE)
        works(balloon)


# Allocations that fail, and those that are forgotten

FAULTS = """
cd /sys/kernel/debug/fail_page_alloc
echo N >ignore-gfp-highmem; echo 0 >min-order; echo 0 >verbose
echo -1 >times; echo 10 >probability
"""


@pytest.mark.parametrize("transfer", ("pfn", "range"))
def test_every_tenth_allocation_fails(lab, debug_kernel, transfer):
    """Fault injection hits allocations that may not wait, which the driver's are."""
    with lab.fresh(mem_mib=MEM_MIB, kernel=debug_kernel, patience=4,
                   load=False) as guest:
        total_kb = memory(guest)["total"]
        guest.insmod(f"deflate_on_oom=0 transfer={transfer}")
        balloon = Balloon(guest, total_kb)
        guest.check(FAULTS)
        for size in (64 * MIB + FRAME, 20 * MIB + 3 * FRAME, 100 * MIB + 511 * FRAME, 0,
                     30 * MIB + 7 * FRAME):
            guest.inflate(size)
            guest.wait_inflated(size, 300)
        assert int(balloon.attr("allocation_failures")) + int(balloon.attr("order_fallbacks"))
        guest.check("echo 0 >/sys/kernel/debug/fail_page_alloc/probability")
        balloon.check_counts(30 * MIB + 7 * FRAME)
        balloon.resize(0)
        guest.rmmod()
        assert guest.meminfo()["MemTotal"] == total_kb
        guest.check_clean()


def test_ten_lives_leave_no_allocation_behind(lab, debug_kernel):
    with lab.fresh(mem_mib=MEM_MIB, kernel=debug_kernel, patience=4, load=False,
                   append="kmemleak=on") as guest:
        total_kb = memory(guest)["total"]
        guest.poll_stats(1)
        for turn in range(10):
            guest.inflate(OTHER_SIZE)
            guest.insmod(f"deflate_on_oom=0 transfer={('pfn', 'range')[turn % 2]}")
            if turn % 3:  # or unloaded while it inflates
                guest.wait_inflated(OTHER_SIZE)
            guest.rmmod()
            assert guest.meminfo()["MemTotal"] == total_kb
        guest.scan_for_leaks()
        guest.check_clean()
