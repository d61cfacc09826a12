# SPDX-License-Identifier: GPL-2.0-only
"""`balloonctl doctor`, with stand-ins and with a real QEMU that stands still."""

import json
import os
import xml.etree.ElementTree as ET

import pytest
from ballooncontrol.device import Device
from ballooncontrol.doctor import domain
from ballooncontrol.doctor.facts import Facts
from ballooncontrol.doctor.qemu import Places, with_property
from ballooncontrol.doctor.rules import findings
from bare_qemu import BareQemu
from conftest import MIB
from fake_qemu import ALL_WORDS, BALLOON_PATH, FakeQemu, virtio_status

BALLOON = "virtio-balloon-pci,id=balloon0"
GOOD = "deflate-on-oom=on,free-page-reporting=on,guest-stats-polling-interval=10"
PAGE_SIZES = [4096, 2 * MIB, 1 << 30]


@pytest.fixture
def path(tmp_path):
    """Where QEMU listens."""
    return tmp_path / "qmp"


def codes(result):
    """Return the codes of what was found in the one guest."""
    return [finding["code"] for finding in result.json[0]["findings"]]


# What the doctor finds through QMP

def test_a_healthy_guest(balloonctl, path):
    with FakeQemu(path, polling_s=10) as qemu:
        qemu.virtio_status = virtio_status()
        result = balloonctl("doctor", path)
    assert result.status == 0
    assert result.out == "fake: nothing to change\n"


def test_a_guest_that_has_it_all(balloonctl, path):
    with FakeQemu(path) as qemu:
        qemu.virtio_status = virtio_status(offered=("stats",), negotiated=("stats",))
        qemu.devices = ["vfio-pci", "vhost-vdpa-device-pci", "virtio-net-pci"]
        qemu.properties["/machine", "confidential-guest-support"] = "/objects/sev0"
        qemu.backends = [{"id": "m", "prealloc": True, "share": True}]
        qemu.properties["/objects/m", "hugetlb"] = True
        qemu.properties["/objects/m", "hugetlbsize"] = 1 << 30
        qemu.migration = {"status": "active"}
        result = balloonctl("doctor", "--json", path)
    assert result.status == 7
    assert codes(result) == ["no-reporting", "no-deflate-on-oom", "discards-inhibited",
                             "confidential", "huge-pages", "no-statistics",
                             "preallocated", "migrating"]
    problems = {finding["code"]: finding["problem"] for finding in result.json[0]["findings"]}
    assert "vfio-pci device0, vhost-vdpa-device-pci device1" in problems["discards-inhibited"]
    assert "virtio-net" not in problems["discards-inhibited"]
    assert "1.00 GiB" in problems["huge-pages"]
    for finding in result.json[0]["findings"]:
        assert finding.keys() == {"code", "level", "problem", "cost", "change"}
        assert all(finding.values())


def test_a_device_that_may_discard_is_no_obstacle(balloonctl, path):
    with FakeQemu(path, polling_s=10) as qemu:
        qemu.virtio_status = virtio_status()
        qemu.devices = ["vfio-pci", "vfio-ap"]
        qemu.properties["/machine/peripheral/device0", "x-balloon-allowed"] = True
        assert codes(balloonctl("doctor", "--json", path)) == []


def test_huge_pages_that_a_block_fills_are_only_noted(balloonctl, path):
    with FakeQemu(path, polling_s=10) as qemu:
        qemu.virtio_status = virtio_status()
        qemu.properties["/objects/pc.ram", "hugetlb"] = True
        qemu.properties["/objects/pc.ram", "hugetlbsize"] = 2 * MIB
        result = balloonctl("doctor", "--json", path)
    assert (result.status, codes(result)) == (0, ["huge-pages"])


def test_an_old_qemu_says_what_it_cannot_see(balloonctl, path):
    with FakeQemu(path, polling_s=10) as qemu:
        qemu.properties[BALLOON_PATH, "deflate-on-oom"] = True
        qemu.properties[BALLOON_PATH, "free-page-reporting"] = True
        result = balloonctl("doctor", path)
    assert result.status == 0
    assert "not seen  driver: this QEMU does not tell" in result.out


def test_output_for_people_fits_its_terminal(balloonctl, path):
    with FakeQemu(path) as qemu:
        qemu.devices = ["vfio-pci"]
        result = balloonctl("doctor", path)
    lines = result.out.splitlines()
    assert lines[0] == "fake: 3 problems, 1 note"
    assert all(len(line) <= 100 for line in lines)
    assert lines[1] == "  problem   the device has no free page reporting"
    # what a line begins stays aligned over its further lines
    assert {len(line) - len(line.lstrip()) for line in lines[1:]} <= {2, 4, 12}


def test_several_guests_end_with_the_highest_status(balloonctl, path, tmp_path):
    with FakeQemu(path, polling_s=10) as qemu:
        qemu.virtio_status = virtio_status()
        result = balloonctl("doctor", "--json", path, tmp_path / "none")
    assert result.status == 3
    assert [guest["exit_status"] for guest in result.json] == [0, 3]


# What it finds in a real QEMU

def test_a_real_qemu_with_all_set(balloonctl, path):
    with BareQemu(path, "-device", f"{BALLOON},{GOOD}"):
        result = balloonctl("doctor", "--json", path)
    assert (result.status, codes(result)) == (0, ["paused"])
    assert result.json[0]["unseen"] == {}


def test_a_real_qemu_names_the_line_to_change(balloonctl, path):
    with BareQemu(path, "-device", f"{BALLOON},free-page-reporting=off"):
        result = balloonctl("doctor", "--json", path)
    assert result.status == 7
    found = {finding["code"]: finding for finding in result.json[0]["findings"]}
    assert list(found) == ["no-reporting", "no-deflate-on-oom", "paused", "no-statistics"]
    assert found["no-reporting"]["change"] == (
        f"QEMU's command line: -device {BALLOON},free-page-reporting=on")


def test_what_it_says_of_a_real_qemu_is_a_line_that_qemu_takes(balloonctl, tmp_path):
    """The advice is followed until nothing but the pause is left."""
    device = BALLOON
    for turn in range(4):
        path = tmp_path / f"qmp{turn}"
        with BareQemu(path, "-device", device):
            found, = balloonctl("doctor", "--json", path).json
        changes = [finding["change"] for finding in found["findings"]
                   if finding["code"] != "paused"]
        if not changes:
            break
        device = changes[0].partition("-device ")[2].partition(";")[0]
    assert turn == 3
    assert found["exit_status"] == 0


@pytest.mark.parametrize("backend, expected", [
    ("memory-backend-ram,prealloc=on", "preallocated"),
    ("memory-backend-memfd,share=on", None),
    ("memory-backend-file,share=off,mem-path={folder}/ram", "private-file"),
    ("memory-backend-file,share=on,mem-path={folder}/ram", None),
])
def test_memory_backends_of_a_real_qemu(balloonctl, path, tmp_path, backend, expected):
    machine = ("-accel", "tcg", "-machine", "q35,memory-backend=m", "-m", "32", "-object",
               f"{backend.format(folder=tmp_path)},id=m,size=32M")
    with BareQemu(path, "-device", f"{BALLOON},{GOOD}", machine=machine):
        found = codes(balloonctl("doctor", "--json", path))
    assert found == ["paused", expected] if expected else ["paused"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_locked_memory_of_a_real_qemu(balloonctl, path):
    with BareQemu(path, "-device", f"{BALLOON},{GOOD}", "-overcommit", "mem-lock=on"):
        assert "locked-memory" in codes(balloonctl("doctor", "--json", path))


def test_the_types_that_pin_memory_are_qemus(path):
    """QEMU's own names of them are those that are looked for."""
    from ballooncontrol.pinning import NOT_PINNING, pins
    from ballooncontrol.qmp import QmpConnection
    with BareQemu(path):
        connection = QmpConnection(path)
        types = [kind["name"] for kind in connection.command("qom-list-types",
                                                             implements="device")]
        connection.close()
    assert "vfio-pci" in types
    for kind in types:
        if "vfio" in kind and "bridge" not in kind:
            assert pins(f"child<{kind}>") or kind in NOT_PINNING, kind


# Rules and places

def find(**facts):
    """Return the findings' codes about a guest that is as it should be but for these facts."""
    usual = {"name": "web", "places": Places([], BALLOON_PATH), "polling_seconds": 10,
             "device": Device(ALL_WORDS, ALL_WORDS, "running"),
             "last_update_unix_s": 1000, "now_unix_s": 1010}
    return [finding.code for finding in findings(Facts(**usual | facts))]


@pytest.mark.parametrize("facts, expected", [
    ({}, []),
    ({"device": Device(ALL_WORDS, None, "no-driver")}, ["no-driver"]),
    ({"device": Device(ALL_WORDS, None, "no-driver"), "standstill": "paused"}, ["paused"]),
    ({"device": Device(ALL_WORDS, None, "no-driver"), "standstill": "suspended"}, ["paused"]),
    ({"device": Device(ALL_WORDS, None, "failed")}, ["driver-failed"]),
    ({"device": Device(ALL_WORDS, None, "starting")}, ["driver-starting"]),
    ({"device": Device(ALL_WORDS, ("stats",), "running")},
     ["reporting-declined", "deflate-on-oom-declined"]),
    ({"polling_seconds": 300}, ["old-statistics"]),
    ({"now_unix_s": 1041}, ["silent"]),
    ({"now_unix_s": 1041, "standstill": "suspended"}, ["paused"]),
    ({"now_unix_s": 1041, "device": Device(ALL_WORDS, ALL_WORDS[1:], "running")}, []),
    ({"last_update_unix_s": 0}, []),
    ({"last_update_unix_s": 0, "device": Device(offered=ALL_WORDS)}, ["silent"]),
    ({"locked": True}, ["locked-memory"]),
    ({"locked": True, "pinning": ("vfio-pci a",)}, ["discards-inhibited"]),
    ({"host_page_bytes": 65536}, ["host-pages"]),
    ({"host_page_bytes": 65536, "huge_bytes": 2 * MIB}, ["huge-pages"]),
    ({"migrating": True}, ["migrating"]),
])
def test_rules(facts, expected):
    assert find(**facts) == expected


@pytest.mark.parametrize("status, problem, change", [
    ("paused", "paused", "cont"), ("suspended", "suspended", "system_wakeup"),
    ("inmigrate", "on its way between two hosts", "wait for its end"),
    ("postmigrate", "on another host now", "examine it there"), ("io-error", "io-error", "cont")])
def test_a_guest_that_stands_still_lacks_no_driver(balloonctl, path, status, problem, change):
    with FakeQemu(path, polling_s=10) as qemu:
        qemu.status = status
        qemu.virtio_status = virtio_status(negotiated=(), statuses=[])
        result = balloonctl("doctor", "--json", path)
    assert (result.status, codes(result)) == (0, ["paused"])
    finding, = result.json[0]["findings"]
    assert finding["problem"] == f"the guest is {problem}"
    assert change in finding["change"]


@pytest.mark.parametrize("name, reason, expected", [
    ("RUNNING", 0, ""), ("PAUSED", 1, "paused"), ("PMSUSPENDED", 0, "suspended"),
    ("PAUSED", 2, "on its way between two hosts"), ("SHUTDOWN", 0, "shutting down")])
def test_states_of_a_domain(name, reason, expected):
    libvirt = pytest.importorskip("libvirt")
    from ballooncontrol.domain import find_standstill
    assert find_standstill(getattr(libvirt, f"VIR_DOMAIN_{name}"), reason) == expected


def test_only_a_migration_asks_for_hints():
    def change(offered):
        facts = Facts("web", Device(offered, offered, "running"),
                      Places(["-device", BALLOON], BALLOON_PATH), polling_seconds=10,
                      last_update_unix_s=1, migrating=True)
        return findings(facts)[0].change
    assert "free-page-hint=on,iothread=hint0" in change(ALL_WORDS)
    assert change((*ALL_WORDS, "free-page-hint")) == "wait for its end"


# What a domain's XML says

@pytest.mark.parametrize("inside, expected", [
    ("", {}),
    ("<memoryBacking><locked/></memoryBacking>", {"locked": True}),
    ("<memoryBacking><allocation mode='immediate'/></memoryBacking>", {"preallocated": True}),
    ("<memoryBacking><allocation mode='ondemand'/></memoryBacking>", {}),
    ("<memoryBacking><hugepages><page size='2048' unit='KiB' nodeset='0'/>"
     "<page size='1' unit='G' nodeset='1'/></hugepages></memoryBacking>", {"huge_bytes": 1 << 30}),
    ("<launchSecurity type='sev'><cbitpos>47</cbitpos></launchSecurity>",
     {"confidential": "sev"}),
    ("<devices><hostdev mode='subsystem' type='pci'><source><address domain='0x0000' bus='0x81' "
     "slot='0x02' function='0x1'/></source></hostdev></devices>",
     {"pinning": ("hostdev pci 0000:81:02.1",)}),
    ("<devices><hostdev mode='subsystem' type='mdev'><source><address uuid='a-b'/></source>"
     "</hostdev></devices>", {"pinning": ("hostdev mdev a-b",)}),
    ("<devices><interface type='vdpa'><source dev='/dev/vhost-vdpa-0'/></interface></devices>",
     {"pinning": ("interface vdpa /dev/vhost-vdpa-0",)}),
    ("<devices><interface type='hostdev'/></devices>", {"pinning": ("interface hostdev",)}),
    ("<devices><disk type='nvme'><source type='pci' namespace='1'><address bus='0x03'/></source>"
     "</disk></devices>", {"pinning": ("disk nvme 0000:03:00.0",)}),
    ("<devices><hostdev type='mdev' model='vfio-ap'/></devices>", {}),
    ("<devices><interface type='network'/><hostdev type='usb'/></devices>", {}),
])
def test_running_xml(inside, expected):
    usual = {"pinning": (), "confidential": None, "huge_bytes": 0, "locked": False,
             "preallocated": False}
    root = ET.fromstring(f"<domain>{inside}</domain>")
    assert domain.read_running(root, PAGE_SIZES) == usual | expected


def test_huge_pages_of_no_given_size_are_the_hosts():
    root = ET.fromstring("<domain><memoryBacking><hugepages/></memoryBacking></domain>")
    assert domain.read_running(root, PAGE_SIZES)["huge_bytes"] == 2 * MIB


@pytest.mark.parametrize("place, line, words", [
    ("unlock", 3, "take <locked/> out"), ("huge_pages", 4, "take <hugepages> out"),
    ("preallocation", 5, "mode='immediate'"), ("devices", 7, "<hostdev>"),
])
def test_places_in_a_definition(place, line, words):
    places = domain.Places("web", "<domain>\n<memoryBacking>\n  <locked/>\n  <hugepages/>\n"
                           "  <allocation mode='immediate'/>\n</memoryBacking><devices>\n"
                           "  <hostdev type='pci'/>\n</devices></domain>")
    text = getattr(places, place)()
    assert text.startswith(f"virsh edit web, line {line}: ")
    assert words in text


@pytest.mark.parametrize("devices, line, tag", [
    ("<hostdev type='usb'/>\n<interface type='network'/>\n<interface type='hostdev'/>", 4,
     "<interface>"),
    ("<hostdev type='usb'/>\n<hostdev type='pci'/>", 3, "<hostdev>"),
    ("<disk type='file'/>\n<disk type='nvme'/>", 3, "<disk>")])
def test_the_line_is_that_of_the_device_that_pins(devices, line, tag):
    places = domain.Places("web", f"<domain><devices>\n{devices}\n</devices></domain>")
    assert places.devices().startswith(f"virsh edit web, line {line}: take the {tag} away")


@pytest.mark.parametrize("word, expected", [
    ("virtio-balloon", "virtio-balloon,deflate-on-oom=on"),
    ("virtio-balloon,deflate-on-oom=off,id=b", "virtio-balloon,id=b,deflate-on-oom=on"),
])
def test_properties_are_set(word, expected):
    assert with_property(word, "deflate-on-oom", "on") == expected


def test_properties_are_set_in_json():
    word = '{"driver":"virtio-balloon-pci","id":"balloon0","deflate-on-oom":false}'
    changed = with_property(word, "deflate-on-oom", "on")
    assert json.loads(changed.strip("'")) == {"driver": "virtio-balloon-pci", "id": "balloon0",
                                              "deflate-on-oom": True}
