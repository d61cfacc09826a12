# SPDX-License-Identifier: GPL-2.0-only
"""`balloonctl status` and `--all` with a real libvirt, whose domains stand still."""

import contextlib
import os

import pytest
from conftest import MIB
from private_libvirt import Libvirt, find

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

GOOD = "<memballoon model='virtio' autodeflate='on' freePageReporting='on'><stats period='10'/>" \
       "</memballoon>"
DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>64</memory>
  {memory}
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <emulator>{qemu}</emulator>
    <controller type='usb' model='none'/>
    {memballoon}
  </devices>
</domain>
"""


@pytest.fixture(scope="module")
def libvirt(tmp_path_factory):
    """A libvirtd of this file's own."""
    with Libvirt(tmp_path_factory.mktemp("lv")) as daemon:
        yield daemon


@contextlib.contextmanager
def domain(libvirt, tmp_path, memballoon=GOOD, memory="", name="still", transient=False):
    """Have a domain that was started and has not run a single instruction."""
    definition = tmp_path / f"{name}.xml"
    definition.write_text(DOMAIN.format(name=name, memory=memory, memballoon=memballoon,
                                        qemu=find("qemu-system-x86_64", "qemu-system-x86")),
                          "ascii")
    try:
        if transient:
            libvirt.virsh("create", "--paused", definition)
        else:
            libvirt.virsh("define", definition)
            libvirt.virsh("start", "--paused", name)
        yield
    finally:
        libvirt._virsh("destroy", name)
        libvirt._virsh("undefine", name)


def test_status_tells_what_libvirt_does(libvirt, tmp_path, balloonctl):
    with domain(libvirt, tmp_path):
        guest, = balloonctl("status", "--json", "--connect", libvirt.uri, "still").json
        told, = balloonctl("status", "--json", "--monitor", "--connect", libvirt.uri,
                           "still").json
    assert guest["ram_bytes"] == 64 * MIB
    assert guest["device"] == {"offered": ["stats", "deflate-on-oom", "free-page-reporting"],
                               "negotiated": None, "state": None, "ranges": None}
    assert told["device"]["state"] == "no-driver"
    assert "free-page-reporting" in told["device"]["offered"]


def test_all_domains(libvirt, tmp_path, balloonctl):
    connect = ("--connect", libvirt.uri)
    with domain(libvirt, tmp_path, name="one"), domain(libvirt, tmp_path, name="two"), \
            domain(libvirt, tmp_path, "<memballoon model='virtio'/>", name="bad"):
        status = balloonctl("status", "--all", *connect)
        also = balloonctl("status", "--all", "--json", *connect, tmp_path / "none")
        watched = balloonctl("watch", "--all", "--count", "1", *connect)
    assert status.status == 0, status.err
    assert [line.split()[0] for line in status.out.splitlines()] == ["GUEST", "bad", "one", "two"]
    assert also.status == 3
    assert len(also.json) == 4
    assert len(watched.out.splitlines()) == 3


def test_all_of_none(libvirt, balloonctl):
    result = balloonctl("status", "--all", "--json", "--connect", libvirt.uri)
    assert (result.status, result.json) == (0, [])
    assert "no domain is running" in result.err
    assert balloonctl("watch", "--all", "--connect", libvirt.uri).status == 0


def test_all_without_libvirt(balloonctl, tmp_path):
    uri = f"qemu+unix:///system?socket={tmp_path}/none"
    result = balloonctl("status", "--all", "--connect", uri)
    assert result.status == 3
    assert "no libvirt to ask" in result.err
