# SPDX-License-Identifier: GPL-2.0-only
"""`balloonctl doctor`, `status` and `--all` with a real libvirt, whose domains stand still."""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import BALLOONCTL, MIB, QEMU_TELLS, RUN_SECONDS
from private_libvirt import Libvirt, find

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.slow]

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


@pytest.fixture
def examine(libvirt, balloonctl):
    """Return a function that runs doctor and returns its status and code -> finding."""
    def run(*options, name="libvirt:still"):
        result = balloonctl("doctor", "--json", "--connect", libvirt.uri, name, *options)
        assert result.err == ""
        found, = result.json
        return result.status, {finding["code"]: finding for finding in found["findings"]}, found
    return run


def test_a_good_domain(libvirt, tmp_path, examine):
    with domain(libvirt, tmp_path):
        status, found, whole = examine()
    assert (status, list(found)) == (0, ["paused"])
    assert "--monitor" in whole["unseen"]["driver"]


def test_findings_name_the_line_that_virsh_edit_shows(libvirt, tmp_path, examine):
    with domain(libvirt, tmp_path, "<memballoon model='virtio'/>"):
        status, found, _ = examine()
        lines = libvirt.virsh("dumpxml", "--inactive", "still").splitlines()
    assert status == 7
    assert list(found) == ["no-reporting", "no-deflate-on-oom", "paused", "no-statistics"]
    for code, attribute in (("no-reporting", "freePageReporting='on'"),
                            ("no-deflate-on-oom", "autodeflate='on'"),
                            ("no-statistics", "<stats period='10'/>")):
        change = found[code]["change"]
        assert attribute in change
        number = int(re.search(r"virsh edit still, line (\d+):", change)[1])
        assert "<memballoon" in lines[number - 1]


def test_the_advice_helps(libvirt, tmp_path, examine):
    """Each change is made as it says, until only the pause is left."""
    with domain(libvirt, tmp_path, "<memballoon model='virtio'/>"):
        _, found, _ = examine()
        libvirt.virsh(*found["no-statistics"]["change"].partition(";")[0].split()[1:])
        for code in ("no-reporting", "no-deflate-on-oom"):
            _, found, _ = examine()
            element = re.search(r"<memballoon [^>]*>", found[code]["change"])[0]
            changed = re.sub(r"<memballoon [^>]*>", element,
                             libvirt.virsh("dumpxml", "--inactive", "still"))
            (tmp_path / "changed.xml").write_text(changed, "ascii")
            libvirt.virsh("define", tmp_path / "changed.xml")
        _, found, _ = examine()
        assert "on in the domain's definition already" in found["no-reporting"]["change"]
        libvirt.virsh("destroy", "still")
        libvirt.virsh("start", "--paused", "still")
        status, found, _ = examine()
    assert (status, list(found)) == (0, ["paused"])


def test_a_domain_without_a_definition(libvirt, tmp_path, examine):
    with domain(libvirt, tmp_path, "<memballoon model='virtio'/>", transient=True):
        _, found, _ = examine()
    assert "the XML that the domain is made from" in found["no-reporting"]["change"]
    assert found["no-statistics"]["change"] == "virsh dommemstat still --period 10 --live"


@pytest.mark.parametrize("memory, code", [
    ("<memoryBacking><allocation mode='immediate'/></memoryBacking>", "preallocated"),
    ("<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>", None),
])
def test_memory_of_a_domain(libvirt, tmp_path, examine, memory, code):
    with domain(libvirt, tmp_path, memory=memory):
        _, found, _ = examine()
    assert found.keys() == {"paused"} | ({code} if code else set())
    if code:
        assert re.search(r"virsh edit still, line \d+: take <", found[code]["change"])


def test_status_tells_what_libvirt_does(libvirt, tmp_path, balloonctl):
    with domain(libvirt, tmp_path):
        guest, = balloonctl("status", "--json", "--connect", libvirt.uri, "still").json
        told, = balloonctl("status", "--json", "--monitor", "--connect", libvirt.uri,
                           "still").json
    assert guest["ram_bytes"] == 64 * MIB
    assert guest["device"] == {"offered": ["stats", "deflate-on-oom", "free-page-reporting"],
                               "negotiated": None, "state": None, "ranges": None}
    assert told["device"]["state"] == ("no-driver" if QEMU_TELLS else None)
    assert "free-page-reporting" in told["device"]["offered"]


def test_only_the_monitor_taints(libvirt, tmp_path, examine):
    with domain(libvirt, tmp_path):
        assert examine()[0] == 0
        assert "custom monitor" not in libvirt.virsh("dominfo", "still")
        _, _, whole = examine("--monitor")
        assert "custom monitor" in libvirt.virsh("dominfo", "still")
    assert whole["unseen"] == {}


def test_all_domains(libvirt, tmp_path, balloonctl):
    connect = ("--connect", libvirt.uri)
    with domain(libvirt, tmp_path, name="one"), domain(libvirt, tmp_path, name="two"), \
            domain(libvirt, tmp_path, "<memballoon model='virtio'/>", name="bad"):
        status = balloonctl("status", "--all", *connect)
        examined = balloonctl("doctor", "--all", "--json", *connect)
        also = balloonctl("status", "--all", "--json", *connect, tmp_path / "none")
        watched = balloonctl("watch", "--all", "--count", "1", *connect)
    assert status.status == 0, status.err
    assert [line.split()[0] for line in status.out.splitlines()] == ["GUEST", "bad", "one", "two"]
    assert examined.status == 7
    assert [(guest["guest"], guest["exit_status"]) for guest in examined.json] == [
        ("libvirt:bad", 7), ("libvirt:one", 0), ("libvirt:two", 0)]
    assert also.status == 3
    assert len(also.json) == 4
    assert len(watched.out.splitlines()) == 3


def test_all_leaves_out_what_has_no_balloon(libvirt, tmp_path, balloonctl):
    connect = ("--connect", libvirt.uri)
    with domain(libvirt, tmp_path, name="one"), \
            domain(libvirt, tmp_path, "<memballoon model='none'/>", name="bare"):
        for command in (("status",), ("doctor",), ("watch", "--count", "1")):
            result = balloonctl(*command, "--json", "--all", *connect)
            assert result.status == 0
            assert "bare: the domain has no balloon device" in result.err
            assert '"libvirt:one"' in result.out and "bare" not in result.out
        # who names it wants to know
        named = balloonctl("status", "--json", "--all", "bare", *connect)
        exported = balloonctl("export", "--all", "--timeout", "60", *connect)
    assert (named.status, len(named.json)) == (4, 2)
    assert (exported.status, exported.err) == (0, "")
    assert 'balloonctl_guest_up{guest="libvirt:bare"} 1.0' in exported.out
    assert 'balloonctl_guest_balloon_present{domain="bare",guest="libvirt:bare"} 0.0' \
        in exported.out


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


# Domains that hang

@contextlib.contextmanager
def hung(name):
    """Stop the QEMU of a domain; libvirt waits for it for ever."""
    pid, = (int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit()
            and f"guest={name},".encode() in read_if_there(folder / "cmdline"))
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def read_if_there(path):
    """Return what is in a file; nothing if it has gone."""
    try:
        return path.read_bytes()
    except OSError:
        return b""


@pytest.fixture(name="one_hangs")
def fixture_one_hangs(libvirt, tmp_path):
    """Have two domains, one of which hangs; return how to reach libvirt."""
    with domain(libvirt, tmp_path, name="hangs-a-lot"), domain(libvirt, tmp_path, name="well"), \
            hung("hangs-a-lot"):
        yield "--connect", libvirt.uri


@pytest.mark.parametrize("command", ["status", "doctor"])
def test_a_domain_that_hangs_holds_up_nobody(one_hangs, balloonctl, command):
    result = balloonctl(command, "--all", "--json", *one_hangs)
    assert result.status == 3
    first, second = result.json
    assert "libvirt does not answer within" in first["error"]
    assert (second["guest"], "error" in second) == ("libvirt:well", False)


def test_watch_goes_on_without_a_domain_that_hangs(one_hangs, balloonctl):
    result = balloonctl("watch", "--all", "--json", "--count", "2", *one_hangs)
    assert result.status == 3
    looks = [json.loads(line) for line in result.out.splitlines()]
    assert [look["guest"] for look in looks if "error" not in look] == ["libvirt:well"] * 2


def test_export_tells_of_those_that_answer(one_hangs, balloonctl):
    result = balloonctl("export", "--all", "--timeout", "30", *one_hangs)
    assert result.status == 0
    assert 'balloonctl_guest_up{guest="libvirt:hangs-a-lot"} 0.0' in result.out
    assert 'balloonctl_guest_up{guest="libvirt:well"} 1.0' in result.out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_though_a_domain_hangs(one_hangs, number):
    process = subprocess.Popen([BALLOONCTL, "status", "--all", *one_hangs])
    try:
        # libvirt is asked in threads
        wait_until(lambda: len(list(Path(f"/proc/{process.pid}/task").iterdir())) > 3)
        process.send_signal(number)
        assert process.wait(RUN_SECONDS) == 128 + number
    finally:
        process.kill()
        process.wait()


def wait_until(condition):
    """Poll until a condition holds."""
    limit = time.monotonic() + RUN_SECONDS
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.05)
