# SPDX-License-Identifier: GPL-2.0-only
"""`balloonctl balance` with real guests: under bare QEMU and under libvirt."""

import contextlib
import os
import re
import signal
from pathlib import Path

import pytest
from balance_process import Balance
from conftest import MIB
from private_libvirt import DomainGuest, Libvirt
from vbalguest import Guest

GUEST_MIB = 640
# QEMU emulating has a few hundred MiB of its own; with both guests full there is too little
HOST = '[host]\nmemory = "1300M"\nmargin = "64M"\n'
LIMIT_S = 240
JOB_MIB = 420
# in pieces, as programs grow; nobody waits for memory
JOB = f"""
mount -t tmpfs -o size={JOB_MIB + 16}M job /mnt
for i in $(seq {JOB_MIB // 16}); do
    dd if=/dev/zero of=/mnt/$i bs=1M count=16 2>/dev/null || exit
    sleep 0.5
done
"""
POLLED = "<memballoon model='virtio' autodeflate='on'/>"

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.slow]


def bare(balance, name, **options):
    """A guest whose second QMP socket lies where the service looks for one."""
    guest = Guest(mem_mib=GUEST_MIB, smp=1, name=name, **options)
    start = guest.start

    def start_and_link():
        start()
        (balance.folder / "guests" / f"{name}.qmp").symlink_to(guest.qmp_socket)
    guest.start = start_and_link
    return guest


@pytest.fixture
def balance(tmp_path):
    """A service that is not started yet, with a part of the host's memory granted."""
    service = Balance(tmp_path, more=HOST)
    service.limit_s = LIMIT_S
    service.set_host(64 << 30, 60 << 30)
    return service


def swapped_out(guest):
    """Pages that the guest has swapped out."""
    return guest.vmstat()["pswpout"]


@pytest.mark.parametrize("module", ["vballoon", "virtio_balloon"])
def test_idle_memory_reaches_the_busy_before_it_swaps(balance, module):
    with bare(balance, "idle") as idle, \
            bare(balance, "busy", swap_mib=256, module=module) as busy:
        with balance:
            balance.wait_for(lambda: max(idle.actual_bytes(), busy.actual_bytes()) < 600 * MIB,
                             "claims to be covered")
            before_bytes = busy.actual_bytes()
            busy.check(JOB, 300)
            balance.wait_for(lambda: busy.actual_bytes() > before_bytes, "the busy to have more")
            assert balance.guests()["busy"]["trouble"] is None
        assert swapped_out(busy) == swapped_out(idle) == 0
        assert idle.actual_bytes() >= GUEST_MIB * MIB // 4
        for guest in (idle, busy):
            guest.check_clean()
    assert re.search(r"MiB for busy \(.*\): .* available, wants ", balance.lines())


def test_host_squeezed_by_another_process(balance):
    with bare(balance, "web") as web, balance:
        balance.wait_for(lambda: (balance.guests().get("web") or {}).get("used_bytes"),
                         "statistics")
        full_bytes = web.actual_bytes()
        # another process takes all but a little of the host
        balance.set_host(64 << 30, 32 * MIB)
        balance.wait_for(lambda: web.actual_bytes() < full_bytes, "the guest to give")
        balance.set_host(64 << 30, 60 << 30)
        web.check_clean()
    assert "the host is short of" in balance.lines()


def test_guest_that_dies(balance):
    with bare(balance, "dies") as dies, bare(balance, "stays") as stays, balance:
        balance.wait_known("dies", "stays")
        dies.close()
        balance.wait_for(lambda: "dies" not in balance.guests()
                         or balance.guests()["dies"]["trouble"], "its death to be noticed")
        balance.set_host(64 << 30, 32 * MIB)
        balance.wait_for(lambda: stays.actual_bytes() < GUEST_MIB * MIB, "the other to give")


def test_libvirt_guests(tmp_path, balloonctl):
    """Metadata, moves, a pause, and a libvirtd that is restarted meanwhile."""
    folder = tmp_path / "lv"
    folder.mkdir()
    with Libvirt(folder) as libvirt, \
            DomainGuest(libvirt, POLLED, mem_mib=GUEST_MIB, smp=1, name="vm1") as one, \
            DomainGuest(libvirt, POLLED, mem_mib=GUEST_MIB, smp=1, name="vm2") as two:
        libvirt.virsh("metadata", "vm1", "--uri", "urn:vballoon:balance:1", "--key", "balance",
                      "--set", "<guest minimum='400M' weight='200'/>", "--live")
        more = f'[libvirt]\nuri = "{libvirt.uri}"\n{HOST}'
        balance = Balance(tmp_path, more=more)
        balance.limit_s = LIMIT_S
        balance.set_host(64 << 30, 60 << 30)
        with balance:
            balance.wait_known("vm1", "vm2")
            known = balance.guests()
            assert known["vm1"]["minimum_bytes"] == 400 * MIB
            assert known["vm1"]["weight"] == 200
            assert known["vm2"]["minimum_bytes"] == GUEST_MIB * MIB // 4
            # libvirt has no statistics unless somebody asks for them
            balance.wait_for(lambda: all(guest["used_bytes"]
                                         for guest in balance.guests().values()), "statistics")
            balance.set_host(64 << 30, 32 * MIB)
            balance.wait_for(lambda: balance.guests()["vm2"]["actual_bytes"] < GUEST_MIB * MIB,
                             "a move")
            libvirt.virsh("suspend", "vm2")
            balance.wait_for(lambda: balance.guests()["vm2"]["trouble"] == "is paused", "a pause")
            libvirt.virsh("resume", "vm2")
            balance.wait_for(lambda: balance.guests()["vm2"]["trouble"] is None, "its end")
            libvirt.restart()
            balance.wait_for(lambda: "reached again" in balance.lines(), "libvirtd to be reached")
            balance.wait_for(lambda: balance.guests()["vm1"]["trouble"] is None, "its guests")
            assert balance.guests()["vm1"]["actual_bytes"] >= 400 * MIB
        # the period is as it was
        assert "<stats period='1'" not in libvirt.virsh("dumpxml", "vm1")
        for guest in (one, two):
            guest.check_clean()


def find_qemu(name):
    """Return the process of a domain."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"guest={name}," in (folder / "cmdline").read_text(errors="replace"):
                return int(folder.name)
    raise AssertionError(f"{name} has no process")


def test_libvirt_domain_that_hangs(tmp_path):
    """It is named; the others go on; and the service can still be ended."""
    folder = tmp_path / "lv"
    folder.mkdir()
    hung = f"hung{os.getpid()}"
    with Libvirt(folder) as libvirt, \
            DomainGuest(libvirt, POLLED, mem_mib=GUEST_MIB, smp=1, name=hung), \
            DomainGuest(libvirt, POLLED, mem_mib=GUEST_MIB, smp=1, name="well") as well:
        balance = Balance(tmp_path, more=f'[libvirt]\nuri = "{libvirt.uri}"\n{HOST}')
        balance.limit_s = LIMIT_S
        balance.set_host(64 << 30, 60 << 30)
        with balance:
            balance.wait_for(lambda: [guest["used_bytes"] is not None for guest
                                      in balance.guests().values()] == [True, True], "statistics")
            os.kill(find_qemu(hung), signal.SIGSTOP)
            balance.wait_for(lambda: f"{hung} is not balanced: libvirt cannot reach its QEMU"
                             in balance.lines(), "the hung one to be named")
            assert balance.guests()["well"]["trouble"] is None
            before_bytes = balance.guests()["well"]["actual_bytes"]
            balance.set_host(64 << 30, 32 * MIB)
            balance.wait_for(lambda: balance.guests()["well"]["actual_bytes"] < before_bytes,
                             "a move")
            balance.process.terminate()
            assert balance.process.wait(LIMIT_S) == 0
        # the connection was not given up for the sake of one
        assert "its guests keep their sizes" not in balance.lines()
        os.kill(find_qemu(hung), signal.SIGCONT)
        well.check_clean()
