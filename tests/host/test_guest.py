# SPDX-License-Identifier: GPL-2.0-only
"""balloonctl against a real guest with our driver."""

import contextlib
import socket

import pytest
from conftest import MIB, QEMU_TELLS
from prometheus_client.parser import text_string_to_metric_families
from vbalguest import Guest

pytestmark = pytest.mark.slow
RAM_BYTES = 512 * MIB
STEADY_BYTES = 16 * MIB
SYSFS = "/sys/bus/virtio/drivers/vballoon/virtio*/balloon"


@pytest.fixture(scope="module")
def booted():
    """A guest whose balloon driver is not loaded yet."""
    with Guest(mem_mib=RAM_BYTES // MIB, smp=1) as guest:
        guest.rmmod()
        yield guest


@pytest.fixture
def guest(booted):
    """The guest, its balloon empty and no driver loaded."""
    yield booted
    booted.inflate(0)
    if booted.run("grep -q ^vballoon /proc/modules")[0] == 0:
        booted.wait_inflated(0)
        booted.rmmod()


@contextlib.contextmanager
def driver(guest, parameters=""):
    """Have our driver loaded."""
    guest.insmod(parameters)
    yield


def test_no_driver_is_noticed(guest, balloonctl):
    result = balloonctl("set", "256M", "--timeout", "5", guest.qmp_socket)
    assert result.status == 5
    assert "is a balloon driver loaded in the guest?" in result.err
    result = balloonctl("stats", "--timeout", "5", guest.qmp_socket)
    assert result.status == 5


@pytest.mark.parametrize("size, size_bytes", [
    ("300M", 300 * MIB), ("75%", 384 * MIB), ("314576896B", 314576896)])
def test_set_reaches_size(guest, balloonctl, size, size_bytes):
    with driver(guest):
        result = balloonctl("set", size, "--timeout", "120", guest.qmp_socket)
        assert result.status == 0, result.err
        assert guest.actual_bytes() == size_bytes
        status, = balloonctl("status", "--json", guest.qmp_socket).json
    assert status["actual_bytes"] == size_bytes
    assert status["ram_bytes"] == RAM_BYTES
    assert status["resident_bytes"] > 0


def test_driver_that_keeps_what_the_guest_needs(guest, balloonctl):
    with driver(guest, "guard=protect"):
        result = balloonctl("set", "8M", "--timeout", "20", guest.qmp_socket)
        assert result.status == 6, result.err
        assert "keeps what the guest needs" in result.err
        assert 8 * MIB < guest.actual_bytes() < RAM_BYTES


def test_stats_are_the_guests_own(guest, balloonctl):
    with driver(guest):
        assert balloonctl("set", "300M", "--timeout", "120", guest.qmp_socket).status == 0
        statistics = balloonctl("stats", "--timeout", "60", "--json",
                                guest.qmp_socket).json[0]["statistics"]
        meminfo = guest.meminfo()
        polling_s = guest.qmp("qom-get", path="/machine/peripheral/balloon0",
                              property="guest-stats-polling-interval")
    assert statistics["total_bytes"] == meminfo["MemTotal"] * 1024
    assert statistics["free_bytes"] == pytest.approx(meminfo["MemFree"] * 1024,
                                                     abs=STEADY_BYTES)
    assert statistics["available_bytes"] == pytest.approx(meminfo["MemAvailable"] * 1024,
                                                          abs=STEADY_BYTES)
    assert statistics["swap_out_bytes"] == 0
    assert statistics["minor_faults"] > 0
    assert polling_s == 0


def device_and_codes(guest, balloonctl):
    """Return what status says of the device, and what the doctor finds."""
    if not QEMU_TELLS:
        pytest.skip("this QEMU is not asked what was negotiated")
    status, = balloonctl("status", "--json", guest.qmp_socket).json
    examined, = balloonctl("doctor", "--json", guest.qmp_socket).json
    return status["device"], {finding["code"] for finding in examined["findings"]}


def test_host_sees_that_there_is_no_driver(guest, balloonctl):
    device, codes = device_and_codes(guest, balloonctl)
    assert (device["state"], device["negotiated"], device["ranges"]) == ("no-driver", None, None)
    assert codes == {"no-driver", "no-statistics"}


@pytest.mark.parametrize("parameters, declined", [
    ("", []), ("reporting=0", ["free-page-reporting"]),
    ("stats=0 deflate_on_oom=0", ["stats", "deflate-on-oom"])])
def test_host_sees_what_the_guest_negotiated(guest, balloonctl, parameters, declined):
    with driver(guest, parameters):
        device, codes = device_and_codes(guest, balloonctl)
        sysfs = {name: guest.check(f"cat {SYSFS}/{name}").strip()
                 for name in ("negotiated_features", "transfer")}
    assert device["state"] == "running"
    assert device["negotiated"] == sysfs["negotiated_features"].split()
    assert device["ranges"] == (sysfs["transfer"] == "range")
    assert set(device["offered"]) == {"page-poison", *device["negotiated"], *declined}
    assert codes == {"no-statistics"} | {f"{word.removeprefix('free-page-')}-declined"
                                         for word in declined if word != "stats"}


def test_host_sees_what_the_kernels_own_driver_negotiated(guest, balloonctl):
    guest.insmod(module="virtio_balloon")
    try:
        device, codes = device_and_codes(guest, balloonctl)
    finally:
        guest.rmmod("virtio_balloon")
    assert (device["state"], device["negotiated"]) == (
        "running", ["stats", "deflate-on-oom", "free-page-reporting"])
    assert codes == {"no-statistics"}


def exported(balloonctl, *arguments):
    """Return name -> {last label: value} of what `export` prints."""
    result = balloonctl("export", "--timeout", "60", *arguments)
    assert (result.status, result.err) == (0, "")
    found = {}
    for family in text_string_to_metric_families(result.out):
        for sample in family.samples:
            last = sample.labels.get("property") or sample.labels.get("reason")
            found.setdefault(sample.name, {})[last] = sample.value
    return found


def test_export_is_the_guests_own(guest, balloonctl):
    def export():
        return exported(balloonctl, "--poll", "1", guest.qmp_socket)
    with driver(guest):
        assert balloonctl("set", "300M", "--timeout", "120", guest.qmp_socket).status == 0
        # from the second report on it knows the size
        before = export()["balloonctl_guest_statistics_timestamp_seconds"][None]
        guest.wait_for(lambda: export()["balloonctl_guest_statistics_timestamp_seconds"][None] >
                       max(before, 1) + 1, 120, "two reports")
        found, meminfo = export(), guest.meminfo()
    guest.poll_stats(0)
    assert found["libvirt_domain_memory_stats_actual_balloon_bytes"] == {None: 300 * MIB}
    assert found["balloonctl_guest_balloon_bytes"] == {None: RAM_BYTES - 300 * MIB}
    assert found["libvirt_domain_memory_stats_rss_bytes"][None] > 0
    for name, own in (("available", "MemTotal"), ("unused", "MemFree"),
                      ("usable", "MemAvailable")):
        assert found[f"libvirt_domain_memory_stats_{name}_bytes"][None] == pytest.approx(
            meminfo[own] * 1024, abs=STEADY_BYTES)
    assert found["balloonctl_guest_statistics_interval_seconds"] == {None: 1}
    assert found["balloonctl_guest_running"] == {None: 1}
    assert found["balloonctl_guest_device_property"] == {
        "free-page-reporting": 1, "deflate-on-oom": 1}
    assert found["balloonctl_guest_discards_inhibited"] == {"vfio": 0, "hugetlb": 0, "pinned": 0}


def test_export_without_a_driver(guest, balloonctl):
    found = exported(balloonctl, guest.qmp_socket)
    assert found["balloonctl_guest_up"] == {None: 1}
    assert found["balloonctl_guest_statistics_interval_seconds"] == {None: 0}


def test_watch_sees_the_guest_move(guest, balloonctl):
    with driver(guest):
        result = balloonctl("watch", "--count", "5", "--set", "320M", guest.qmp_socket)
        guest.wait_actual(320 * MIB)
    assert result.status == 0, result.err
    assert len(result.out.splitlines()) == 5
    assert "target 320.0 MiB" in result.out


def test_socket_in_use(guest, balloonctl):
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(str(guest.qmp_socket))
        assert other.recv(100)
        result = balloonctl("status", guest.qmp_socket)
    assert result.status == 3
    assert "QMP serves one client at a time" in result.err


def test_guest_without_balloon_device(balloonctl):
    with Guest(mem_mib=256, smp=1, module=None, balloon_opts=None) as bare:
        result = balloonctl("status", bare.qmp_socket)
        socket_path = bare.qmp_socket
    assert result.status == 4
    assert "has no balloon device" in result.err
    assert balloonctl("status", socket_path).status == 3
