# SPDX-License-Identifier: GPL-2.0-only
"""balloonctl export: its figures, its three ways out, and guests that misbehave."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from balance_process import Balance
from ballooncontrol.export.arguments import parse_listen
from ballooncontrol.export.metrics import METRICS
from conftest import BALLOONCTL, MIB, ROOT
from fake_qemu import BALLOON_PATH, FakeQemu
from prometheus_client.openmetrics.parser import \
    text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

LIMIT_SECONDS = 60
# a busy machine makes no guest look dead
PATIENT = ("--timeout", str(LIMIT_SECONDS))
NO_BALLOON = {"return": [{"name": "type", "type": "string"}]}
NOT_ACTIVE = {"error": {"class": "DeviceNotActive", "desc": "No balloon device"}}
NO_REPORT = {"error": {"class": "GenericError", "desc": "guest hasn't updated any stats yet"}}


def read(text, parse=parse_text):
    """Return name -> {labels: value} of a text; labels are the label values in their order."""
    found = {}
    for family in parse(text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            assert labels not in found.setdefault(sample.name, {})
            found[sample.name][labels] = sample.value
    return found


def check_by_promtool(text):
    """promtool has nothing to say."""
    result = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True,
                            text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@contextlib.contextmanager
def listening(*arguments):
    """Run `export --listen` at a free port; gives the process and its URL."""
    process = subprocess.Popen([BALLOONCTL, "export", *PATIENT, "--listen", "127.0.0.1:0",
                                *map(str, arguments)], stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline()
        process.url = re.fullmatch(r"balloonctl: serving (http://127\.0\.0\.1:\d+/metrics)\n",
                                   line)[1]
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.stderr.close()
        process.wait(LIMIT_SECONDS)


def fetch(url, **headers):
    """Return what the endpoint says."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers),
                                timeout=LIMIT_SECONDS) as answer:
        return answer.read().decode()


# Figures

def test_figures_are_the_guests(balloonctl, tmp_path):
    path = tmp_path / "web.qmp"
    with FakeQemu(path, polling_s=5) as qemu:
        qemu.actual_bytes = 640 * MIB
        qemu.stats["stat-oom-kills"] = 2
        qemu.properties[BALLOON_PATH, "free-page-reporting"] = True
        result = balloonctl("export", *PATIENT, path)
    assert (result.status, result.err) == (0, "")
    check_by_promtool(result.out)
    found = read(result.out)
    assert found["balloonctl_guest_up"] == {(str(path),): 1}
    wanted = {
        "libvirt_domain_info_maximum_memory_bytes": 1024 * MIB,
        "libvirt_domain_memory_stats_actual_balloon_bytes": 640 * MIB,
        "libvirt_domain_memory_stats_available_bytes": 970 * MIB,
        "libvirt_domain_memory_stats_unused_bytes": 300 * MIB,
        "libvirt_domain_memory_stats_usable_bytes": 400 * MIB,
        "libvirt_domain_memory_stats_major_fault_total": 7,
        "kubevirt_vmi_memory_swap_in_traffic_bytes": 0,
        "balloonctl_guest_oom_kills_total": 2,
        "balloonctl_guest_balloon_bytes": 384 * MIB,
        "balloonctl_guest_running": 1,
        "balloonctl_guest_statistics_interval_seconds": 5,
    }
    assert {name: found[name] for name in wanted} == {
        name: {("fake", str(path)): value} for name, value in wanted.items()}
    # the fake QEMU is this very process
    assert found["libvirt_domain_memory_stats_rss_bytes"]["fake", str(path)] > MIB
    assert found["balloonctl_guest_statistics_timestamp_seconds"]["fake", str(path)] > 1e9
    assert found["balloonctl_guest_device_property"] == {
        ("fake", str(path), "free-page-reporting"): 1, ("fake", str(path), "deflate-on-oom"): 0}
    # what the guest does not report is left out, not 0
    assert "libvirt_domain_memory_stats_disk_cache_bytes" not in found
    assert "kubevirt_vmi_memory_swap_out_traffic_bytes" not in found


def test_every_metric_has_help_and_type(balloonctl, tmp_path):
    with FakeQemu(tmp_path / "qmp"):
        families = {family.name: family for family in
                    parse_text(balloonctl("export", *PATIENT, tmp_path / "qmp").out)}
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert family.documentation == metric.help
        assert (family.type == "counter") == metric.name.endswith("_total")


class SilentAboutStatistics(FakeQemu):
    """A guest whose driver has not reported yet."""

    def _answer(self, command, arguments):
        if arguments.get("property") == "guest-stats":
            return NO_REPORT
        return super()._answer(command, arguments)


def test_guest_that_never_reported(balloonctl, tmp_path):
    with SilentAboutStatistics(tmp_path / "qmp"):
        found = read(balloonctl("export", *PATIENT, tmp_path / "qmp").out)
    assert set(found["balloonctl_guest_up"].values()) == {1}
    assert set(found["balloonctl_guest_statistics_timestamp_seconds"].values()) == {0}
    assert "libvirt_domain_memory_stats_unused_bytes" not in found


def test_paused_guest_does_not_run(balloonctl, tmp_path):
    with FakeQemu(tmp_path / "qmp") as qemu:
        qemu.status = "paused"
        found = read(balloonctl("export", *PATIENT, tmp_path / "qmp").out)
    assert set(found["balloonctl_guest_running"].values()) == {0}


@pytest.mark.parametrize("devices, allowed, inhibited", [
    ([], False, 0), (["vfio-pci"], False, 1), (["vfio-pci"], True, 0), (["vfio-ap"], False, 0),
    (["vfio-ap", "vhost-vdpa-device-pci"], False, 1)])
def test_discards_inhibited_by_vfio(balloonctl, tmp_path, devices, allowed, inhibited):
    with FakeQemu(tmp_path / "qmp") as qemu:
        qemu.devices = devices
        qemu.properties["/machine/peripheral/device0", "x-balloon-allowed"] = allowed
        found = read(balloonctl("export", *PATIENT, tmp_path / "qmp").out)
    by_reason = {labels[-1]: value for labels, value in
                 found["balloonctl_guest_discards_inhibited"].items()}
    assert by_reason == {"vfio": inhibited, "hugetlb": 0, "pinned": 0}


def test_guest_without_a_balloon_is_up(balloonctl, tmp_path):
    with FakeQemu(tmp_path / "qmp", answers={"qom-list": NO_BALLOON, "query-balloon": NOT_ACTIVE}):
        result = balloonctl("export", *PATIENT, "--poll", 5, tmp_path / "qmp")
    assert (result.status, result.err) == (0, "")
    found = read(result.out)
    assert set(found["balloonctl_guest_up"].values()) == {1}
    assert set(found["balloonctl_guest_balloon_present"].values()) == {0}
    assert set(found["balloonctl_guest_balloon_bytes"].values()) == {0}
    assert set(found["libvirt_domain_memory_stats_actual_balloon_bytes"].values()) == {1024 * MIB}
    for name in ("statistics_interval_seconds", "statistics_timestamp_seconds", "device_property"):
        assert f"balloonctl_guest_{name}" not in found


def test_plugged_virtio_mem_is_no_balloon(balloonctl, tmp_path):
    with FakeQemu(tmp_path / "qmp") as qemu:
        qemu.memory_devices = [{"type": "virtio-mem", "data": {"size": 512 * MIB}}]
        found = read(balloonctl("export", *PATIENT, tmp_path / "qmp").out)
    assert set(found["balloonctl_guest_balloon_bytes"].values()) == {0}
    assert set(found["libvirt_domain_info_maximum_memory_bytes"].values()) == {1536 * MIB}


@pytest.mark.parametrize("before_s, arguments, after_s, log", [
    (0, (), 0, []), (0, ("--poll", 5), 5, [5]), (60, ("--poll", 5), 5, [5]),
    (2, ("--poll", 5), 2, [])])
def test_polling_changes_on_request_only(balloonctl, tmp_path, before_s, arguments, after_s, log):
    with FakeQemu(tmp_path / "qmp", polling_s=before_s) as qemu:
        found = read(balloonctl("export", *PATIENT, *arguments, tmp_path / "qmp").out)
    assert set(found["balloonctl_guest_statistics_interval_seconds"].values()) == {after_s}
    assert (qemu.polling_s, qemu.polling_log) == (after_s, log)


def test_documented_are_all_and_no_other(balloonctl, tmp_path):
    """The table of docs/metrics.md has each of the host's metrics, and its type."""
    with FakeQemu(tmp_path / "qmp"):
        uri = f"qemu+unix:///system?socket={tmp_path}/none"
        with StandInBalance(tmp_path / "balance"):
            out = balloonctl("export", *PATIENT, "--connect", uri, "libvirt:web", tmp_path / "qmp",
                             "--balance", "--socket", tmp_path / "balance").out
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", out, re.MULTILINE))
    text = (ROOT / "docs/metrics.md").read_text("utf-8")
    host = text[text.index("## What the host knows"):text.index("## What the guest knows")]
    assert dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", host, re.MULTILINE)) == types


# Guests that misbehave

@pytest.mark.parametrize("options, why", [
    ({"answers": {"query-balloon": NOT_ACTIVE}}, "No balloon device"),
    ({"dies_at": "query-balloon"}, "closed the connection"),
    ({"greeting": "SSH-2.0-OpenSSH"}, "does not speak QMP"),
    ({"greeting": "[]"}, "does not speak QMP"),
    ({"answers": {"query-balloon": {"return": {}}}}, "makes no sense"),
    ({"answers": {"query-status": {"return": []}}}, "makes no sense"),
], ids=lambda value: value if isinstance(value, str) else "")
def test_one_bad_guest_leaves_the_others_alone(balloonctl, tmp_path, options, why):
    with FakeQemu(tmp_path / "good"), FakeQemu(tmp_path / "bad", **options):
        result = balloonctl("export", *PATIENT, tmp_path / "bad", tmp_path / "good")
    assert result.status == 0
    assert result.err.startswith(f"balloonctl: {tmp_path}/bad: ") and why in result.err
    check_by_promtool(result.out)
    found = read(result.out)
    assert found["balloonctl_guest_up"] == {
        (str(tmp_path / "bad"),): 0, (str(tmp_path / "good"),): 1}
    assert len(found["balloonctl_guest_running"]) == 1


def test_silent_guest_is_given_up(balloonctl, tmp_path):
    with socket.socket(socket.AF_UNIX) as listener, FakeQemu(tmp_path / "good"):
        listener.bind(str(tmp_path / "silent"))
        listener.listen()
        result = balloonctl("export", "--timeout", "10", tmp_path / "silent", tmp_path / "good")
    assert result.status == 0
    assert "silent: does not answer within 10 s" in result.err
    assert read(result.out)["balloonctl_guest_up"] == {
        (str(tmp_path / "good"),): 1, (str(tmp_path / "silent"),): 0}


def test_all_are_asked_at_once(balloonctl, tmp_path):
    """Each of them hangs up, but not before all are connected."""
    count = 40
    everybody = threading.Barrier(count, timeout=LIMIT_SECONDS)

    def serve(listener):
        connection, _ = listener.accept()
        with connection:
            everybody.wait()
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(count))
        for number in range(count):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(str(tmp_path / f"{number}.qmp"))
            listener.settimeout(LIMIT_SECONDS)
            listener.listen()
            pool.submit(serve, listener)
        result = balloonctl("export", *PATIENT, f"{tmp_path}/*.qmp")
    lines = result.err.splitlines()
    assert len(lines) == count
    assert all("QEMU closed the connection" in line for line in lines)


def test_missing_and_foreign_sockets(balloonctl, tmp_path):
    (tmp_path / "file").write_text("no socket")
    result = balloonctl("export", *PATIENT, tmp_path / "none", tmp_path / "file")
    assert result.status == 0
    assert set(read(result.out)["balloonctl_guest_up"].values()) == {0}
    assert len(result.err.splitlines()) == 2


def test_same_guest_named_twice_is_one(balloonctl, tmp_path):
    with FakeQemu(tmp_path / "qmp"):
        found = read(balloonctl("export", *PATIENT, tmp_path / "qmp", f"{tmp_path}/*", "--guest",
                                tmp_path / "qmp").out)
    assert len(found["balloonctl_guest_up"]) == 1


def test_guest_of_two_names_is_one(balloonctl, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "qmp")
    uri = f"qemu+unix:///system?socket={tmp_path}/none"
    with FakeQemu(tmp_path / "qmp"):
        found = read(balloonctl("export", *PATIENT, "--connect", uri, "web", "libvirt:web",
                                tmp_path / "link", f"{tmp_path}/q*").out)
    assert found["balloonctl_guest_up"] == {("libvirt:web",): 0, (str(tmp_path / "link"),): 1}


def test_unreachable_libvirt_is_down(balloonctl, tmp_path):
    uri = f"qemu+unix:///system?socket={tmp_path}/none"
    with FakeQemu(tmp_path / "qmp"):
        found = read(balloonctl("export", *PATIENT, "--connect", uri,
                                "libvirt:web", tmp_path / "qmp").out)
    assert found["balloonctl_libvirt_up"] == {(): 0}
    assert found["balloonctl_guest_up"] == {("libvirt:web",): 0, (str(tmp_path / "qmp"),): 1}


# The balance

class StandInBalance:
    """Says one line to whoever connects, as the service does."""

    STATUS = {
        "host": {"total_bytes": 800, "available_bytes": 300, "margin_bytes": 400,
                 "state": "short"},
        "room_bytes": -100, "demand_bytes": 50,
        "counts": {"gives": 3, "takes": 2, "given_bytes": 30, "taken_bytes": 20},
        "guests": [{"name": "web", "source": "qmp:/run/web.qmp", "target_bytes": None,
                    "need_bytes": 7, "minimum_bytes": 5, "maximum_bytes": 9, "trouble": "late"}]}

    def __init__(self, path, line=json.dumps(STATUS)):
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._line = line
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()

    def __exit__(self, *_):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(LIMIT_SECONDS)
        self._listener.close()

    def _serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    connection.sendall(self._line.encode() + b"\n")


def test_balance_is_told(balloonctl, tmp_path):
    with StandInBalance(tmp_path / "status"):
        result = balloonctl("export", *PATIENT, "--balance", "--socket", tmp_path / "status")
    assert (result.status, result.err) == (0, "")
    check_by_promtool(result.out)
    found = {name.removeprefix("balloonctl_balance_"): values
             for name, values in read(result.out).items()}
    web = ("web", "/run/web.qmp")
    assert found["up"] == {(): 1}
    assert found["host_available_bytes"] == {(): 300}
    assert found["room_bytes"] == {(): -100}
    assert found["host_state"] == {("well",): 0, ("short",): 1, ("critical",): 0}
    assert found["moves_total"] == {("give",): 3, ("take",): 2}
    assert found["moved_bytes_total"] == {("give",): 30, ("take",): 20}
    assert found["guest_need_bytes"] == {web: 7}
    assert found["guest_balanced"] == {web: 0}
    assert "guest_target_bytes" not in found


def test_real_balance_is_told(balloonctl, tmp_path):
    balance = Balance(tmp_path)
    with balance.guest("web") as qemu, balance:
        qemu.stats |= {"stat-disk-caches": 0, "stat-swap-out": 0}
        balance.wait_known("web")
        # the balance has the socket, so the export does not
        found = read(balloonctl("export", *PATIENT, "--balance", "--socket", balance.socket).out)
    assert found["balloonctl_balance_up"] == {(): 1}
    assert found["balloonctl_balance_host_total_bytes"] == {(): 8 << 30}
    assert sum(found["balloonctl_balance_host_state"].values()) == 1
    assert found["balloonctl_balance_guest_maximum_bytes"] == {
        ("web", f"{tmp_path}/guests/web"): 1024 * MIB}


@pytest.mark.parametrize("line, why", [
    (None, "No such file or directory"), ("{}", "this is no balance"), ("[]", "no balance"),
    ("no JSON", "this is no balance"), ('{"host": {}, "counts": {}}', "this is no balance")])
def test_balance_that_does_not_answer_is_down(balloonctl, tmp_path, line, why):
    with contextlib.ExitStack() as stack:
        stack.enter_context(FakeQemu(tmp_path / "qmp"))
        if line:
            stack.enter_context(StandInBalance(tmp_path / "status", line))
        result = balloonctl("export", *PATIENT, "--balance", "--socket", tmp_path / "status",
                            tmp_path / "qmp")
    assert result.status == 0
    assert why in result.err and len(result.err.splitlines()) == 1
    found = read(result.out)
    assert found["balloonctl_balance_up"] == {(): 0}
    assert set(found["balloonctl_guest_up"].values()) == {1}


# Wrong usage

@pytest.mark.parametrize("arguments, status, why", [
    ((), 2, "no guest named"),
    (("--listen", "here", "qmp"), 2, "'here' is no place to listen at"),
    (("--listen", "127.0.0.1:99999", "qmp"), 2, "no place to listen at"),
    (("--listen", "192.0.2.1:9911", "./qmp"), 1, "cannot listen at 192.0.2.1:9911"),
    (("--poll", "0", "qmp"), 2, "'0' is no whole number of seconds above 0"),
    (("--poll", "1.5", "qmp"), 2, "is no whole number"),
    (("--timeout", "0", "qmp"), 2, "is no number of seconds above 0"),
    (("--textfile", "a", "--listen", ":0", "qmp"), 2, "not allowed with argument"),
    (("--textfile", "/nonexistent/a.prom", "./qmp"), 1, "No such file or directory"),
])
def test_wrong_usage(balloonctl, arguments, status, why):
    result = balloonctl("export", *arguments)
    assert result.status == status
    assert why in result.err


@pytest.mark.parametrize("text, place", [
    ("127.0.0.1:9911", ("127.0.0.1", 9911)), ("[::1]:9911", ("::1", 9911)),
    (":9911", ("", 9911)), ("localhost:0", ("localhost", 0))])
def test_places_to_listen_at(text, place):
    assert parse_listen(text) == place


def test_without_the_library_it_says_what_to_install(balloonctl, tmp_path):
    (tmp_path / "prometheus_client.py").write_text("raise ImportError('planted')")
    result = balloonctl("export", "./qmp", env=os.environ | {"PYTHONPATH": str(tmp_path)})
    assert result.status == 1
    assert "apt-get install python3-prometheus-client" in result.err


# The textfile

def test_textfile_is_replaced(balloonctl, tmp_path):
    file = tmp_path / "balloon.prom"
    file.write_text("old")
    with FakeQemu(tmp_path / "qmp"), open(file, encoding="ascii") as old:
        result = balloonctl("export", *PATIENT, "--textfile", file, tmp_path / "qmp")
        # whoever had it open reads on as before
        assert old.read() == "old"
    assert (result.status, result.out, result.err) == (0, "", "")
    assert set(read(file.read_text())["balloonctl_guest_up"].values()) == {1}
    # node_exporter is another user
    assert file.stat().st_mode & 0o004
    assert sorted(path.name for path in tmp_path.iterdir()) == ["balloon.prom"]


# The endpoint

def test_endpoint_sees_guests_come_and_go(tmp_path):
    def up(url):
        return read(fetch(url)).get("balloonctl_guest_up", {})
    with listening(f"{tmp_path}/*.qmp") as process:
        assert up(process.url) == {}
        with FakeQemu(tmp_path / "a.qmp"):
            assert up(process.url) == {(f"{tmp_path}/a.qmp",): 1}
            with FakeQemu(tmp_path / "b.qmp") as second:
                assert list(up(process.url).values()) == [1, 1]
                second.actual_bytes = 256 * MIB
                found = read(fetch(process.url))
                assert found["balloonctl_guest_balloon_bytes"][
                    "fake", f"{tmp_path}/b.qmp"] == 768 * MIB
        assert up(process.url) == {}


def test_endpoint_speaks_both_formats(tmp_path):
    with FakeQemu(tmp_path / "qmp"), listening(tmp_path / "qmp") as process:
        text = fetch(process.url)
        check_by_promtool(text)
        fancy = fetch(process.url, Accept="application/openmetrics-text; version=1.0.0")
    assert fancy.endswith("# EOF\n")
    names = set(read(text))
    assert set(read(fancy, parse_openmetrics)) == names


def test_endpoint_refuses_politely(tmp_path):
    with listening(tmp_path / "qmp") as process:
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetch(process.url + "/other")
        with pytest.raises(urllib.error.HTTPError, match="405"):
            urllib.request.urlopen(process.url, data=b"x", timeout=LIMIT_SECONDS)


def test_askers_at_the_same_time_all_get_an_answer(tmp_path):
    with FakeQemu(tmp_path / "qmp"), listening(tmp_path / "qmp") as process:
        with ThreadPoolExecutor(16) as pool:
            texts = list(pool.map(fetch, [process.url] * 64))
    for text in texts:
        assert set(read(text)["balloonctl_guest_up"].values()) == {1}


def test_whoever_connects_and_says_nothing_holds_up_nobody(tmp_path):
    with FakeQemu(tmp_path / "qmp"), listening(tmp_path / "qmp") as process:
        port = int(process.url.split(":")[2].split("/")[0])
        with contextlib.ExitStack() as stack:
            for _ in range(20):
                stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            assert read(fetch(process.url))["balloonctl_guest_up"]


def has_ipv6():
    """Return whether this host can be asked by IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("place, addresses", [
    (":0", ("127.0.0.1", "[::1]")), ("127.0.0.1:0", ("127.0.0.1",)),
    *([("[::1]:0", ("[::1]",))] if has_ipv6() else [])])
def test_endpoint_serves_all_addresses_that_it_should(tmp_path, place, addresses):
    process = subprocess.Popen([BALLOONCTL, "export", "--listen", place, tmp_path / "qmp"],
                               stderr=subprocess.PIPE, text=True)
    try:
        port = re.search(r":(\d+)/metrics$", process.stderr.readline())[1]
        # a host without IPv6 serves what it has
        for address in addresses if has_ipv6() else ("127.0.0.1",):
            assert "balloonctl_guest_up" in fetch(f"http://{address}:{port}/metrics")
    finally:
        process.kill()
        process.stderr.close()
        process.wait(LIMIT_SECONDS)


def test_endpoint_ends_well_at_sigterm(tmp_path):
    with FakeQemu(tmp_path / "qmp"), listening(tmp_path / "qmp") as process:
        fetch(process.url)
        process.send_signal(signal.SIGTERM)
        assert process.wait(LIMIT_SECONDS) == 0
        assert process.stderr.read() == ""


def test_taken_port_is_named(balloonctl, tmp_path):
    with listening(tmp_path / "qmp") as process:
        place = process.url.removeprefix("http://").removesuffix("/metrics")
        result = balloonctl("export", "--listen", place, "./qmp")
    assert result.status == 1
    assert f"cannot listen at {place}: Address already in use" in result.err


def test_silence_is_told_once(tmp_path):
    path = tmp_path / "qmp"
    with listening(path) as process:
        for _ in range(3):
            fetch(process.url)
        with FakeQemu(path):
            fetch(process.url)
        process.terminate()
        lines = process.stderr.read().splitlines()
    assert lines == [f"balloonctl: {path}: No such file or directory",
                     f"balloonctl: {path} answers again"]


# Many

def test_a_fleet_with_odd_guests(tmp_path):
    """Answers that come late, in pieces, or are refusals are answers all the same."""
    process = subprocess.Popen(["/usr/bin/python3", ROOT / "tests/lib/fake_fleet.py", tmp_path,
                                "120", "--odd", "0.05"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        with listening(f"{tmp_path}/*.qmp", "--poll", "1") as export:
            for _ in range(2):
                started = time.time()
                found = read(fetch(export.url))
                assert list(found["balloonctl_guest_up"].values()) == [1] * 120
                newest = max(found["balloonctl_guest_statistics_timestamp_seconds"].values())
                assert newest >= int(started)
        process.terminate()
        told = json.loads(process.communicate(timeout=LIMIT_SECONDS)[0])
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(LIMIT_SECONDS)
    assert all(guest["asked"] == 0 for guest in told)
