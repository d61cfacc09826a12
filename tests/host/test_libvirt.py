# SPDX-License-Identifier: GPL-2.0-only
"""libvirt for real: what it asks of a guest and what it hears from our driver."""

import os
import re
import time

import pytest
from conftest import MIB
from private_libvirt import DomainGuest, Libvirt
from prometheus_client.parser import text_string_to_metric_families

RAM_KIB = 512 * 1024
SMALL_KIB = 320 * 1024
STEADY_KIB = 16 * 1024
LIMIT_SECONDS = 180
POLLED = "<memballoon model='virtio' autodeflate='{}'><stats period='1'/></memballoon>"

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root"), pytest.mark.slow]


@pytest.fixture(scope="module")
def libvirt(tmp_path_factory):
    """A libvirtd of this file's own."""
    with Libvirt(tmp_path_factory.mktemp("lv")) as daemon:
        yield daemon


@pytest.fixture(scope="module", params=["off", "on"])
def guest(libvirt, request):
    """A domain with our driver, without and with DEFLATE_ON_OOM."""
    with DomainGuest(libvirt, POLLED.format(request.param), mem_mib=RAM_KIB // 1024, smp=1,
                     name=f"vballoon-{request.param}") as domain:
        domain.deflates_on_oom = request.param == "on"
        yield domain


def numbers(text):
    """Return virsh's lines of `name value` and `name=value`."""
    return {name: int(value) for name, value in
            re.findall(r"^\s*([\w.]+)[ =](\d+)$", text, re.MULTILINE)}


def wait_for(look, what):
    """Poll until look() is true."""
    limit = time.monotonic() + LIMIT_SECONDS
    while not look():
        assert time.monotonic() < limit, what
        time.sleep(0.2)


def dommemstat(libvirt, guest):
    """Return what `virsh dommemstat` prints."""
    return numbers(libvirt.virsh("dommemstat", guest.name))


def fresh_dommemstat(libvirt, guest):
    """Return statistics that the guest sent after this call."""
    before = dommemstat(libvirt, guest).get("last_update", 0)
    # the next report may have been under way already
    wait_for(lambda: dommemstat(libvirt, guest).get("last_update", 0) > before + 1,
             "no new statistics")
    return dommemstat(libvirt, guest)


def setmem(libvirt, guest, size_kib):
    """Have libvirt resize the guest, and wait for it."""
    libvirt.virsh("setmem", guest.name, f"{size_kib}KiB", "--live")
    wait_for(lambda: dommemstat(libvirt, guest)["actual"] == size_kib,
             f"actual did not become {size_kib} KiB")


def check_statistics(reported, guest, prefix=""):
    """libvirt's figures are the guest's own."""
    meminfo, vmstat = guest.meminfo(), guest.vmstat()
    assert reported[f"{prefix}available"] == meminfo["MemTotal"]
    for name, own in (("unused", "MemFree"), ("usable", "MemAvailable")):
        assert reported[prefix + name] == pytest.approx(meminfo[own], abs=STEADY_KIB)
    assert reported[f"{prefix}disk_caches"] == pytest.approx(
        4 * vmstat["nr_file_pages"], abs=STEADY_KIB)
    assert 0 < reported[f"{prefix}minor_fault"] <= vmstat["pgfault"]
    for name in ("swap_in", "swap_out", "hugetlb_pgalloc", "hugetlb_pgfail"):
        assert reported[prefix + name] == 0


def test_setmem_resizes_the_guest(libvirt, guest):
    full_kib = guest.meminfo()["MemTotal"]
    setmem(libvirt, guest, SMALL_KIB)
    taken_kib = full_kib - guest.meminfo()["MemTotal"]
    assert taken_kib == (0 if guest.deflates_on_oom else RAM_KIB - SMALL_KIB)
    setmem(libvirt, guest, RAM_KIB)
    assert guest.meminfo()["MemTotal"] == full_kib


@pytest.mark.parametrize("size_kib", [RAM_KIB, SMALL_KIB])
def test_dommemstat_tells_the_guests_figures(libvirt, guest, size_kib):
    setmem(libvirt, guest, size_kib)
    reported = fresh_dommemstat(libvirt, guest)
    assert reported["actual"] == size_kib
    assert reported["rss"] > 0
    check_statistics(reported, guest)


def test_domstats_tells_the_guests_figures(libvirt, guest):
    setmem(libvirt, guest, SMALL_KIB)
    fresh_dommemstat(libvirt, guest)
    reported = numbers(libvirt.virsh("domstats", "--balloon", guest.name))
    assert reported["balloon.current"] == SMALL_KIB
    assert reported["balloon.maximum"] == RAM_KIB
    check_statistics(reported, guest, "balloon.")


def test_statistics_follow_the_guest(libvirt, guest):
    setmem(libvirt, guest, RAM_KIB)
    before = fresh_dommemstat(libvirt, guest)
    guest.check("mount -t tmpfs -o size=128M fill /mnt && "
                "dd if=/dev/zero of=/mnt/fill bs=1M count=96 2>/dev/null")
    after = fresh_dommemstat(libvirt, guest)
    guest.check("umount /mnt")
    assert before["unused"] - after["unused"] == pytest.approx(96 * 1024, abs=STEADY_KIB)
    assert after["disk_caches"] - before["disk_caches"] == pytest.approx(96 * 1024,
                                                                         abs=STEADY_KIB)


def test_balloonctl_speaks_libvirt(libvirt, guest, balloonctl):
    connect = ("--connect", libvirt.uri)
    result = balloonctl("set", "320M", "--timeout", "120", f"libvirt:{guest.name}", *connect)
    assert result.status == 0, result.err
    # a plain name will do where no socket has it
    status, = balloonctl("status", "--json", guest.name, *connect).json
    assert status["actual_bytes"] == 320 * MIB
    assert status["ram_bytes"] == RAM_KIB * 1024
    assert status["resident_bytes"] > 0
    statistics = balloonctl("stats", "--json", guest.name, *connect).json[0]["statistics"]
    assert statistics["total_bytes"] == guest.meminfo()["MemTotal"] * 1024
    assert balloonctl("set", "100%", "--timeout", "120", guest.name, *connect).status == 0


def test_balloonctl_asks_a_domains_qemu(libvirt, guest, balloonctl):
    fresh_dommemstat(libvirt, guest)
    words = ("--json", "--connect", libvirt.uri, guest.name)
    known = balloonctl("doctor", *words).json[0]["findings"]
    device = balloonctl("status", "--monitor", *words).json[0]["device"]
    asked = balloonctl("doctor", "--monitor", *words).json[0]
    assert (device["state"], device["ranges"]) == ("running", False)
    assert ("deflate-on-oom" in device["negotiated"]) == guest.deflates_on_oom
    expected = ["no-reporting"] + ["no-deflate-on-oom"] * (not guest.deflates_on_oom)
    for findings in (known, asked["findings"]):
        # on a busy machine a report may come late
        assert [finding["code"] for finding in findings if finding["code"] != "silent"] == expected
    assert (asked["exit_status"], asked["unseen"]) == (7, {})


def test_balloonctl_restores_the_period(libvirt, guest, balloonctl):
    libvirt.virsh("dommemstat", guest.name, "--period", "9", "--live")
    try:
        result = balloonctl("stats", "--connect", libvirt.uri, guest.name)
        assert result.status == 0, result.err
        assert "<stats period='9'/>" in libvirt.virsh("dumpxml", guest.name)
    finally:
        libvirt.virsh("dommemstat", guest.name, "--period", "1", "--live")


@pytest.mark.parametrize("named", [True, False])
def test_export_tells_the_guests_figures(libvirt, guest, balloonctl, named):
    setmem(libvirt, guest, SMALL_KIB)
    fresh_dommemstat(libvirt, guest)
    words = (f"libvirt:{guest.name}", "libvirt:no-such-domain") if named else ("--all",)
    result = balloonctl("export", "--timeout", "60", "--connect", libvirt.uri, *words)
    assert result.status == 0, result.err
    found = {(sample.name, *sample.labels.values()): sample.value
             for family in text_string_to_metric_families(result.out)
             for sample in family.samples}
    who = (guest.name, f"libvirt:{guest.name}")
    assert found["balloonctl_libvirt_up",] == 1
    assert found["balloonctl_guest_up", who[1]] == 1
    assert found.get(("balloonctl_guest_up", "libvirt:no-such-domain")) == (0 if named else None)
    assert found["libvirt_domain_memory_stats_actual_balloon_bytes", *who] == SMALL_KIB * 1024
    assert found["balloonctl_guest_balloon_bytes", *who] == (RAM_KIB - SMALL_KIB) * 1024
    assert found["balloonctl_guest_statistics_interval_seconds", *who] == 1
    meminfo = guest.meminfo()
    for name, own in (("unused", "MemFree"), ("usable", "MemAvailable")):
        assert found[f"libvirt_domain_memory_stats_{name}_bytes", *who] == pytest.approx(
            meminfo[own] * 1024, abs=STEADY_KIB * 1024)
    assert found["balloonctl_guest_device_property", *who, "deflate-on-oom"] == (
        guest.deflates_on_oom)
    assert found["balloonctl_guest_device_property", *who, "free-page-reporting"] == 0


def test_export_has_statistics_asked_for(libvirt, guest, balloonctl):
    libvirt.virsh("dommemstat", guest.name, "--period", "9", "--live")
    try:
        for arguments, seconds in (((), 9), (("--poll", "3"), 3)):
            result = balloonctl("export", "--timeout", "60", "--connect", libvirt.uri,
                                guest.name, *arguments)
            assert (result.status, result.err) == (0, "")
            assert f"<stats period='{seconds}'/>" in libvirt.virsh("dumpxml", guest.name)
    finally:
        libvirt.virsh("dommemstat", guest.name, "--period", "1", "--live")


def test_balloonctl_on_unknown_domain(libvirt, balloonctl):
    result = balloonctl("status", "--connect", libvirt.uri, "no-such-domain")
    assert result.status == 3
    assert "Domain not found" in result.err


def test_balloonctl_on_domain_without_balloon(libvirt, balloonctl):
    with DomainGuest(libvirt, "<memballoon model='none'/>", mem_mib=256, smp=1,
                     module=None, name="vballoon-none") as domain:
        result = balloonctl("status", "--connect", libvirt.uri, domain.name)
        assert result.status == 4
        assert "has no balloon device" in result.err
        libvirt.virsh("destroy", domain.name)
        result = balloonctl("status", "--connect", libvirt.uri, domain.name)
        assert result.status == 3
        assert "is not running" in result.err
