# SPDX-License-Identifier: GPL-2.0-only
"""What the guest can see: sysfs, debugfs and tracepoints, compared with QEMU and the docs."""

import re
from pathlib import Path

import pytest
from conftest import ALL_FEATURES, MIB

REPO = Path(__file__).resolve().parents[2]
PAGE_BYTES = 4096
DIRECTORY = "/sys/bus/virtio/drivers/vballoon/virtio*/balloon"
DEBUGFS = "/sys/kernel/debug/vballoon"
TRACING = "/sys/kernel/tracing"
METRICS = REPO / "guest/vballoon-metrics"
ORDERS = [0, 9, 10]
SETTINGS = ("floor_bytes", "reserve_bytes", "policy")
WORDS = ("state", "reason", "policy", "negotiated_features", "transfer", "transfer_reason")


def documented():
    """Return name -> (access, unit) of every file in docs/sysfs-abi.md."""
    text = (REPO / "docs/sysfs-abi.md").read_text("utf-8")
    files = {}
    for name, access, unit in re.findall(
            r"^What: +\S+/balloon/(\S+)\nSince: .*\nAccess: +(\S+)\nUnit: +(.*)\nMeaning: +\S",
            text, re.MULTILINE):
        for order in ORDERS if name.endswith("N") else [None]:
            files[name if order is None else f"{name[:-1]}{order}"] = (access, unit)
    return files


def read_all(guest):
    """Return name -> text of all files."""
    values = {}
    for line in guest.check(f"cd {DIRECTORY} && grep -H '' *").splitlines():
        name, _, value = line.partition(":")
        assert name not in values, f"{name} has more than one line"
        values[name] = value
    return values


def read(guest, name):
    """Return one file's value, as a number where it is one."""
    text = guest.check(f"cat {DIRECTORY}/{name}")
    assert text.endswith("\n") and text.count("\n") == 1
    return text[:-1] if name in WORDS else int(text)


def write(guest, name, value):
    """Write a setting; return the shell's status and message."""
    # cat: the shell's printf does not notice when a write fails
    return guest.run(f"cd {DIRECTORY} && printf '%s' '{value}' >/tmp/value && "
                     f"cat /tmp/value >{name}")


def settle(guest, inflated_bytes):
    """Ask for a balloon and wait until the guest is at rest there."""
    guest.inflate(inflated_bytes)
    guest.wait_inflated(inflated_bytes)
    guest.wait_for(lambda: read(guest, "state") == "at-target", 120, "state at-target")


@pytest.fixture(scope="module", name="guest")
def fixture_guest(lab):
    """One guest with every feature QEMU has, for all tests that leave it as it was."""
    with lab.fresh(balloon_opts=ALL_FEATURES, files={"bin/vballoon-metrics": METRICS}) as guest:
        yield guest
        guest.check_clean()


@pytest.fixture(name="settings", autouse=True)
def fixture_settings(request):
    """Put the shared guest's settings and balloon back after each test."""
    if "guest" not in request.fixturenames:
        yield
        return
    guest = request.getfixturevalue("guest")
    before = {name: read(guest, name) for name in SETTINGS}
    yield
    for name, value in before.items():
        assert write(guest, name, value)[0] == 0
    settle(guest, 0)


def test_every_file_is_documented_and_the_other_way_round(guest):
    assert set(read_all(guest)) == set(documented())


def test_access_is_as_documented(guest):
    out = guest.check(f"cd {DIRECTORY} && stat -c '%n 0%a %u' *")
    modes = {name: (access, owner) for name, access, owner in map(str.split, out.splitlines())}
    assert modes == {name: (access, "0") for name, (access, _) in documented().items()}


def test_one_value_per_file_with_its_unit_in_the_name(guest):
    values = read_all(guest)
    for name, (_, unit) in documented().items():
        if name in WORDS:
            assert values[name] and not values[name].isdigit()
            continue
        assert re.fullmatch(r"\d+", values[name]), name
        suffixes = {"bytes": "_bytes", "milliseconds": "_ms",
                    "bytes a second": "_bytes_per_second", "pages": "_pages"}
        for word, suffix in suffixes.items():
            assert (unit == word) == name.endswith(suffix), f"{name} counts {unit}"


def test_at_rest_all_agree_on_the_size(guest):
    size = 301 * MIB + 3 * PAGE_BYTES
    settle(guest, size)
    values = {name: value if name in WORDS else int(value)
              for name, value in read_all(guest).items()}
    assert values["target_bytes"] == values["actual_bytes"] == values["held_bytes"] == size
    assert size == sum(values[f"held_blocks_order{order}"] * PAGE_BYTES << order
                       for order in ORDERS)
    assert values["given_bytes"] - values["taken_back_bytes"] == size
    assert values["requests_in_flight"] == 0
    assert values["retry_in_ms"] == 0
    assert values["last_inflate_bytes_per_second"] > 0


def test_totals_count_what_was_given_and_taken_back(guest):
    settle(guest, 100 * MIB)
    before = read_all(guest)
    settle(guest, 228 * MIB)
    settle(guest, 36 * MIB)
    after = read_all(guest)

    def grown(name):
        return int(after[name]) - int(before[name])
    assert grown("given_bytes") == 128 * MIB
    assert grown("taken_back_bytes") == 192 * MIB
    assert grown("requests") > 0 and grown("notifications") > 0
    assert int(after["last_deflate_bytes_per_second"]) > 0


def test_a_target_inside_a_block_splits_it(guest):
    settle(guest, 256 * MIB)
    splits = read(guest, "block_splits")
    settle(guest, 255 * MIB)
    assert read(guest, "block_splits") > splits
    assert read(guest, "held_blocks_order0") > 0


def test_memtotal_stays_with_deflate_on_oom_and_memfree_falls(guest):
    before = guest.meminfo()
    settle(guest, 256 * MIB)
    after = guest.meminfo()
    assert after["MemTotal"] == before["MemTotal"]
    fallen_kb = before["MemFree"] - after["MemFree"]
    assert abs(fallen_kb - 256 * 1024) < 32 * 1024


def test_features_and_transfer(guest):
    assert read(guest, "negotiated_features").split() == [
        "stats", "deflate-on-oom", "free-page-hint", "free-page-reporting"]
    assert read(guest, "transfer") == "range"
    assert read(guest, "transfer_reason") == "the device takes free page reports"
    assert "transfer is range: the device takes free page reports" in guest.dmesg()


def test_a_guest_without_reporting_says_why_it_is_slow(lab):
    with lab.fresh(mem_mib=512, balloon_opts="deflate-on-oom=on") as guest:
        assert read(guest, "transfer") == "pfn"
        why = read(guest, "transfer_reason")
        assert why == "the device has no free page reporting (in QEMU free-page-reporting=on)"
        assert f"transfer is pfn: {why}" in guest.dmesg()
        guest.rmmod()
        guest.insmod("transfer=range")
        assert f"no transfer=range here, but pfn: {why}" in guest.dmesg()
        guest.check_clean()


def test_metrics_are_what_the_files_say(guest):
    size = 201 * MIB
    settle(guest, size)
    guest.check("vballoon-metrics /tmp/vballoon.prom")
    metrics = dict(line.rsplit(" ", 1) for line in
                   guest.check("cat /tmp/vballoon.prom").splitlines() if not line.startswith("#"))
    by_name = {name.partition("{")[0]: number for name, number in metrics.items()}
    values = read_all(guest)
    for name, (_, unit) in documented().items():
        if name in WORDS or name.startswith("held_blocks") or unit == "milliseconds":
            continue
        plain, total = f"vballoon_{name}", f"vballoon_{name}_total"
        assert (plain in by_name) != (total in by_name)
        # some count on while this looks
        assert int(by_name.get(plain) or by_name[total]) <= int(values[name]), name
    assert by_name["vballoon_held_bytes"] == by_name["vballoon_target_bytes"] == str(size)
    device = guest.check(f"basename {DIRECTORY[:-len('/balloon')]}").strip()
    for labels in ('state="at-target"', 'feature="free-page-reporting"', 'driver="vballoon"'):
        name, = (name for name in metrics if f'device="{device}",{labels}' in name)
        assert metrics[name] == "1"
    assert sum(int(number) * PAGE_BYTES << int(re.search(r'order="(\d+)"', name)[1])
               for name, number in metrics.items() if "held_blocks" in name) == size


def test_stats_sent_counts(guest):
    before = read(guest, "stats_sent")
    guest.fresh_stats()
    guest.wait_for(lambda: read(guest, "stats_sent") >= before + 3, 120, "three statistics")
    guest.poll_stats(0)


def test_reported_bytes_grow_when_memory_is_freed(guest):
    before = read(guest, "reported_bytes")
    guest.dirty(256)
    guest.wait_for(lambda: read(guest, "reported_bytes") >= before + 64 * MIB, 120,
                   "free memory to be reported")
    assert read(guest, "report_calls") > 0
    assert read(guest, "report_failures") == 0


def test_a_floor_holds_and_says_so(guest):
    assert write(guest, "floor_bytes", "600M")[0] == 0
    guest.inflate(900 * MIB)
    guest.wait_for(lambda: read(guest, "state") == "held-by-floor", 120, "the floor to hold")
    values = read_all(guest)
    total = guest.meminfo()["MemTotal"] * 1024
    assert total - int(values["held_bytes"]) >= 600 * MIB
    assert int(values["target_bytes"]) == 900 * MIB
    assert int(values["actual_bytes"]) == guest.inflated_bytes() < 900 * MIB
    assert "floor" in values["reason"]
    guest.wait_for(lambda: read(guest, "retry_in_ms") > 0, 120, "a next attempt to be planned")


def test_a_lower_floor_counts_at_once(guest):
    assert write(guest, "floor_bytes", "600M")[0] == 0
    guest.inflate(512 * MIB)
    guest.wait_for(lambda: read(guest, "state") == "held-by-floor", 120, "the floor to hold")
    assert write(guest, "floor_bytes", "128M")[0] == 0
    guest.wait_inflated(512 * MIB)


def test_the_time_in_a_state_grows_until_it_changes(guest):
    settle(guest, 64 * MIB)
    guest.wait_for(lambda: read(guest, "state_age_ms") > 1000, 120, "a second to pass")
    settle(guest, 128 * MIB)
    first = read(guest, "state_age_ms")
    guest.wait_for(lambda: read(guest, "state_age_ms") > first, 120, "time to pass")


@pytest.mark.parametrize("name", ["floor_bytes", "reserve_bytes"])
def test_sizes_are_taken_in_every_form(guest, name):
    for text in ("67108864", "65536K", "64M", "64M\n", " 64M "):
        assert write(guest, name, "0") == (0, "")
        assert read(guest, name) == 0
        assert write(guest, name, text) == (0, ""), text
        assert read(guest, name) == 64 * MIB, text
    assert write(guest, name, "10%") == (0, "")
    tenth = guest.meminfo()["MemTotal"] * 1024 // 10
    assert abs(read(guest, name) - tenth) <= 2 * PAGE_BYTES


BAD_SIZES = ["\n", "-1", "x", "12Q", "1.5G", "0x1000", "101%", "64M 64M", "1024G", "M", "%",
             "99999999999999999999999", "9" * 200]
BAD_POLICIES = ["\n", "squeezed", "PROTECT", "0", "protect squeeze"]


@pytest.mark.parametrize("name, texts", [
    ("floor_bytes", BAD_SIZES), ("reserve_bytes", BAD_SIZES), ("policy", BAD_POLICIES)])
def test_a_bad_write_fails_and_changes_nothing(guest, name, texts):
    before = read(guest, name)
    for text in texts:
        code, out = write(guest, name, text)
        assert code != 0 and "Invalid argument" in out, text
        assert read(guest, name) == before, text


@pytest.mark.parametrize("policy", ["squeeze", "protect"])
def test_policy_is_read_as_written(guest, policy):
    assert write(guest, "policy", policy) == (0, "")
    assert read(guest, "policy") == policy


def test_files_that_only_show_cannot_be_written(guest):
    for name, (access, _) in documented().items():
        if access == "0444":
            assert write(guest, name, "1")[0] != 0, name


def test_reading_while_it_moves_never_fails(guest):
    guest.check(f"cd {DIRECTORY} && (while :; do cat * {DEBUGFS}/*/* >/dev/null || "
                "echo failed >>/tmp/failed; done) >/dev/null 2>&1 & echo $! >/tmp/pid")
    for size in (500, 3, 411, 0):
        guest.inflate(size * MIB)
        guest.wait_inflated(size * MIB)
    guest.check("kill $(cat /tmp/pid); test ! -e /tmp/failed")


def test_debugfs_logs_each_resize(guest):
    for size in (64 * MIB, 16 * MIB):
        settle(guest, size)
    table = [line.split() for line in guest.check(f"cat {DEBUGFS}/*/resizes").splitlines()]
    assert table[0] == ["start_ms", "from_bytes", "to_bytes", "target_bytes", "duration_us",
                        "alloc_us", "host_us", "free_us", "nr_pauses", "state"]
    assert len(table) <= 17
    rows = [dict(zip(table[0], row)) for row in table[1:]]
    assert [(int(row["to_bytes"]), int(row["target_bytes"])) for row in rows[-2:]] == [
        (64 * MIB, 64 * MIB), (16 * MIB, 16 * MIB)]
    for row in rows:
        spent = sum(int(row[name]) for name in ("alloc_us", "host_us", "free_us"))
        assert 0 < spent <= int(row["duration_us"])


def test_debugfs_counts_latencies(guest):
    def count():
        section, counts = None, {}
        for line in guest.check(f"cat {DEBUGFS}/*/latency").splitlines():
            if not line.startswith(" "):
                section = line.split()[0]
            else:
                counts[section] = counts.get(section, 0) + int(line.split()[-1])
        return counts
    before = count()
    settle(guest, 200 * MIB)
    after = count()
    for section in ("allocation", "host", "resize"):
        assert after[section] > before.get(section, 0)


def test_debugfs_shows_the_guards_signals(guest):
    settle(guest, 200 * MIB)
    signals = dict(map(str.split, guest.check(f"cat {DEBUGFS}/*/signals").splitlines()))
    info = guest.meminfo()
    assert int(signals["total_bytes"]) == info["MemTotal"] * 1024
    assert int(signals["held_bytes"]) == 200 * MIB
    for name, field in (("free_bytes", "MemFree"), ("available_bytes", "MemAvailable")):
        assert abs(int(signals[name]) - info[field] * 1024) < 16 * MIB
    assert int(signals["floor_bytes"]) == read(guest, "floor_bytes")
    assert int(signals["reserve_bytes"]) == read(guest, "reserve_bytes")


def test_tracepoints_tell_a_resize(guest):
    guest.check(f"cd {TRACING} && echo >trace && echo 1 >events/vballoon/enable")
    settle(guest, 96 * MIB)
    settle(guest, 0)
    guest.fresh_stats()
    guest.poll_stats(0)
    guest.check(f"echo 0 >{TRACING}/events/vballoon/enable")
    trace = guest.check(f"cat {TRACING}/trace")

    def events(name):
        return [dict(re.findall(r"(\w+)=(\S+)", line)) for line in trace.splitlines()
                if f" vbal_{name}: " in line]
    assert events("resize_begin")[0]["target_bytes"] == str(96 * MIB)
    assert events("resize_end")[0]["held_bytes"] == str(96 * MIB)
    assert [(e["from"], e["to"]) for e in events("state")] == [
        ("at-target", "inflating"), ("inflating", "at-target"),
        ("at-target", "deflating"), ("deflating", "at-target")]
    inflated = [e for e in events("batch_submit") if e["batch"] in
                {a["batch"] for a in events("batch_ack")}]
    assert sum(int(e["bytes"]) for e in inflated) >= 96 * MIB
    assert len(events("batch_ack")) == len(events("batch_submit"))
    assert sum(PAGE_BYTES << int(e["order"]) for e in events("block_alloc")) == 96 * MIB
    assert int(events("guard")[0]["grant_bytes"]) > 0
    assert events("stats_sent")[0]["error"] == "0"


def test_reload_leaves_nothing_behind(lab):
    with lab.fresh(mem_mib=512, module_params="transfer=pfn") as guest:
        assert read(guest, "transfer") == "pfn"
        settle(guest, 64 * MIB)
        assert read(guest, "held_bytes") == 64 * MIB
        for _ in range(5):
            guest.rmmod()
            assert guest.run(f"ls -d {DEBUGFS} {TRACING}/events/vballoon "
                             "/sys/devices/*/*/virtio*/balloon")[1].count("No such file") == 3
            guest.insmod()
            guest.wait_for(lambda: read(guest, "held_bytes") == 64 * MIB, 120,
                           "the balloon to come back")
        assert read(guest, "given_bytes") == 64 * MIB
        guest.check_clean()


def test_unbinding_while_files_are_read(lab):
    with lab.fresh(mem_mib=512) as guest:
        driver = "/sys/bus/virtio/drivers/vballoon"
        device = guest.check(f"basename {driver}/virtio*").strip()
        settle(guest, 64 * MIB)
        guest.check(f"(while :; do cat {DIRECTORY}/* {DEBUGFS}/*/*; done) >/dev/null 2>&1 & "
                    "echo $! >/tmp/pid")
        for _ in range(5):
            guest.check(f"echo {device} >{driver}/unbind")
            assert guest.check(f"ls {DEBUGFS}") == ""
            guest.check(f"echo {device} >{driver}/bind")
            guest.wait_for(lambda: read(guest, "held_bytes") == 64 * MIB, 120,
                           "the balloon to come back")
        guest.check("kill $(cat /tmp/pid)")
        guest.check_clean()
