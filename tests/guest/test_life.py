# SPDX-License-Identifier: GPL-2.0-only
"""Loading, unloading, another driver on the device, the device itself coming and going."""

import pytest
from conftest import FRAME, MIB, check_unloaded, memory

MODES = ("pfn", "range")
SIZE = 400 * MIB + 3 * FRAME


@pytest.mark.core
@pytest.mark.parametrize("transfer", MODES)
def test_unload_gives_every_page_back(lab, guest, transfer):
    """`loaded` compares memory before and after, here with a full balloon at unload."""
    with lab.loaded(guest, f"transfer={transfer} deflate_on_oom=0") as balloon:
        balloon.resize(SIZE)


@pytest.mark.core
@pytest.mark.parametrize("transfer", MODES)
def test_unload_while_inflating(lab, guest, transfer):
    """The guest itself waits for the first page and unloads: a host would come too late."""
    unload = ("cd /sys/bus/virtio/drivers/vballoon/virtio*/balloon; held=0; "
              "while [ $held = 0 ]; do read -r held <held_bytes; done; "
              "cd /; rmmod vballoon && echo $held >/tmp/held")
    in_the_middle = 0
    for _ in range(20):
        with lab.loaded(guest, f"transfer={transfer}"):
            guest.check(f"rm -f /tmp/held; ({unload}) >/dev/null 2>&1 &")
            guest.inflate(700 * MIB)
            guest.wait_for(lambda: not guest.run("[ -s /tmp/held ]")[0], 180, "the unload")
            in_the_middle += int(guest.check("cat /tmp/held")) < 700 * MIB
        if in_the_middle >= 2:
            break
    assert in_the_middle


@pytest.mark.core
def test_reload_ten_times_while_the_host_keeps_its_wish(lab, guest):
    free_kb = guest.free_kb()
    for turn in range(10):
        with lab.loaded(guest, "deflate_on_oom=0", target_bytes=SIZE) as balloon:
            balloon.wait_met(SIZE)
        assert guest.free_kb() > free_kb - 12 * 1024 - guest.quarantine_kb, f"turn {turn}"


@pytest.mark.core
def test_another_driver_owns_the_device(lab, guest):
    """The message names the other driver and the way out, and the way out works."""
    before_kb = memory(guest)
    guest.check("dmesg -c >/dev/null")
    try:
        guest.insmod(module="virtio_balloon")
        guest.inflate(64 * MIB)
        guest.wait_inflated(64 * MIB)
        guest.insmod()
        assert "owned by virtio_balloon; unload that driver (rmmod virtio_balloon)" \
            in guest.dmesg()
        assert guest.inflated_bytes() == 64 * MIB
        guest.rmmod("virtio_balloon")
        guest.rmmod("vballoon")
        guest.insmod()
        guest.wait_inflated(64 * MIB)
        guest.rmmod("vballoon")
        check_unloaded(guest, before_kb)
        guest.check_clean()
    except BaseException:
        lab.drop(guest)
        raise


def test_device_is_unplugged_and_plugged_in_again(lab, guest):
    with lab.loaded(guest) as balloon:
        balloon.resize(SIZE)
        seen = len(guest.events())
        guest.qmp("device_del", id="balloon0")
        guest.wait_event("DEVICE_DELETED", since=seen)
        guest.wait_for(lambda: guest.run("ls /sys/bus/virtio/drivers/vballoon/virtio*")[0],
                       60, "the driver to let go of its device")
        guest.wait_for(lambda: guest.free_kb() > 600 * 1024, 60,
                       "the pages to come back")
        guest.plug_balloon()
        guest.wait_for(lambda: not guest.run("ls /sys/bus/virtio/drivers/vballoon/virtio*")[0],
                       60, "the driver to take the new device")
        balloon.resize(SIZE)
        balloon.resize(0)


def test_a_reset_by_others_is_got_over(lab):
    """As by who hands the function to a guest, or a bus error: nobody tells the driver."""
    name = "/sys/bus/virtio/drivers/vballoon/virtio*"
    # alone behind a bridge it can be reset by itself
    with lab.fresh(load=False, balloon_opts="",
                   extra_qemu=("-device", "pci-bridge,id=bridge0,chassis_nr=1")) as guest:
        guest.qmp("device_del", id="balloon0")
        guest.wait_event("DEVICE_DELETED")
        guest.qmp("device_add", driver="virtio-balloon-pci", id="balloon0", bus="bridge0",
                  addr="1")
        guest.insmod()
        guest.wait_for(lambda: not guest.run(f"ls {name}")[0], 120, "the driver to take it")
        guest.inflate(SIZE)
        guest.wait_inflated(SIZE)
        assert guest.check(f"cat {name}/balloon/recoveries").strip() == "0"
        guest.check(f"f=$(echo {name}); echo 1 >$(readlink -f $f)/../reset")
        guest.wait_for(lambda: guest.check(f"cat {name}/balloon/recoveries").strip() != "0", 120,
                       "the driver to notice")
        guest.inflate(2 * SIZE)
        guest.wait_inflated(2 * SIZE)
        guest.inflate(0)
        guest.wait_inflated(0)
        guest.rmmod("vballoon")
        guest.check_clean()
