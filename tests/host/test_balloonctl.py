# SPDX-License-Identifier: GPL-2.0-only
"""balloonctl against a QMP server that misbehaves on request."""

import json
import os
import pty
import select
import signal
import socket
import subprocess
import time

import pytest
from conftest import BALLOONCTL
from fake_qemu import MIB, FakeQemu

GENERIC_ERROR = {"error": {"class": "GenericError", "desc": "not today"}}
NOT_ACTIVE = {"error": {"class": "DeviceNotActive", "desc": "No balloon device"}}
NO_STATS_YET = {"error": {"class": "GenericError",
                          "desc": "guest hasn't updated any stats yet"}}


@pytest.fixture
def path(tmp_path):
    """Where the fake QEMU listens."""
    return tmp_path / "qmp"


def wait_until(condition, seconds=60):
    """Poll for a condition."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


# Status

def test_status_shows_sizes(balloonctl, path):
    with FakeQemu(path) as qemu:
        qemu.actual_bytes = 640 * MIB
        result = balloonctl("status", path)
    assert result.status == 0
    title, row = result.out.splitlines()
    assert title.split() == ["GUEST", "RAM", "ACTUAL", "BALLOON", "RESIDENT", "DRIVER",
                             "RANGES", "FEATURES"]
    assert row.split()[:7] == ["fake", "1.00", "GiB", "640.0", "MiB", "384.0", "MiB"]


def test_status_as_json(balloonctl, path):
    with FakeQemu(path) as qemu:
        qemu.actual_bytes = 640 * MIB
        sizes, = balloonctl("status", "--json", path).json
    assert sizes["guest"] == str(path)
    assert sizes["ram_bytes"] == 1024 * MIB
    assert sizes["actual_bytes"] == 640 * MIB
    assert sizes["balloon_bytes"] == 384 * MIB
    # the fake QEMU is this very process
    assert sizes["resident_bytes"] > 0


def test_status_finds_device_without_id(balloonctl, path):
    with FakeQemu(path, folder="peripheral-anon"):
        assert balloonctl("status", path).status == 0


def test_status_of_several(balloonctl, tmp_path):
    with FakeQemu(tmp_path / "a"), FakeQemu(tmp_path / "b") as second:
        second.actual_bytes = 512 * MIB
        results = balloonctl("status", tmp_path / "a", "--json", "--guest", tmp_path / "b").json
    assert [result["actual_bytes"] for result in results] == [1024 * MIB, 512 * MIB]


def test_several_fail_with_highest_status(balloonctl, tmp_path):
    with FakeQemu(tmp_path / "a"), FakeQemu(tmp_path / "b", follow=False, driver=False):
        result = balloonctl("set", "512M", "--timeout", "1", tmp_path / "a",
                            tmp_path / "none", tmp_path / "b")
    assert result.status == 5
    assert "fake: 512.0 MiB" in result.out
    assert "No such file or directory" in result.err
    assert "is a balloon driver loaded in the guest?" in result.err


def test_several_as_json_carry_their_errors(balloonctl, tmp_path):
    with FakeQemu(tmp_path / "a"):
        result = balloonctl("status", "--json", tmp_path / "a", tmp_path / "none")
    assert result.status == 3
    assert "error" not in result.json[0]
    assert result.json[1]["exit_status"] == 3


# Set

@pytest.mark.parametrize("text, expected_bytes", [
    ("512M", 512 * MIB), ("0.5G", 512 * MIB), ("512MiB", 512 * MIB), ("524288k", 512 * MIB),
    ("50%", 512 * MIB), ("100%", 1024 * MIB), ("1G", 1024 * MIB), ("8191B", 4096),
])
def test_set_asks_for_size(balloonctl, path, text, expected_bytes):
    with FakeQemu(path) as qemu:
        result = balloonctl("set", text, path)
    assert result.status == 0, result.err
    assert qemu.asked_bytes == [expected_bytes]


@pytest.mark.parametrize("text, reason", [
    ("512", "is no size"), ("lots", "is no size"), ("-5M", "is no size"), ("5%%", "is no size"),
    ("1e3M", "is no size"), ("", "is no size"),
    ("0M", "leaves the guest nothing"), ("1K", "leaves the guest nothing"),
    ("1025M", "more than the guest's RAM of 1.00 GiB"), ("101%", "more than the guest's RAM"),
])
def test_set_refuses_size(balloonctl, path, text, reason):
    with FakeQemu(path) as qemu:
        result = balloonctl("set", "--", text, path)
    assert result.status == 2
    assert reason in result.err
    assert qemu.asked_bytes == []


def test_set_notices_missing_driver(balloonctl, path):
    with FakeQemu(path, follow=False, driver=False) as qemu:
        result = balloonctl("set", "512M", "--timeout", "1", path)
    assert result.status == 5
    assert "actual stayed at 1.00 GiB" in result.err
    assert "is a balloon driver loaded in the guest?" in result.err
    assert qemu.polling_s == 0


def test_set_notices_driver_that_stops_short(balloonctl, path):
    with FakeQemu(path, follow=700 * MIB):
        result = balloonctl("set", "512M", "--timeout", "1", path)
    assert result.status == 6
    assert "stopped at 700.0 MiB, 188.0 MiB away from the target of 512.0 MiB" in result.err


def test_set_does_not_blame_driver_that_answers(balloonctl, path):
    with FakeQemu(path, follow=False, driver=True) as qemu:
        result = balloonctl("set", "512M", "--timeout", "1", path)
    assert result.status == 6
    assert "is a balloon driver loaded" not in result.err
    assert qemu.polling_log == [1, 0]


def test_set_without_waiting(balloonctl, path):
    with FakeQemu(path, follow=False) as qemu:
        result = balloonctl("set", "512M", "--no-wait", path)
    assert result.status == 0
    assert "asked for 512.0 MiB, now 1.00 GiB" in result.out
    assert qemu.asked_bytes == [512 * MIB]


def test_set_as_json(balloonctl, path):
    with FakeQemu(path):
        change, = balloonctl("set", "512M", "--json", path).json
    assert (change["before_bytes"], change["target_bytes"], change["actual_bytes"]) == (
        1024 * MIB, 512 * MIB, 512 * MIB)


# Statistics

def test_stats_shows_what_was_reported(balloonctl, path):
    with FakeQemu(path):
        result = balloonctl("stats", path)
    assert result.status == 0
    words = [line.split() for line in result.out.splitlines()]
    assert ["Available", "400.0", "MiB"] in words
    assert ["Major", "faults", "7"] in words
    # not reported, or unknown to us
    assert "caches" not in result.out and "OOM" not in result.out


def test_stats_as_json_has_null_for_missing(balloonctl, path):
    with FakeQemu(path):
        statistics = balloonctl("stats", "--json", path).json[0]["statistics"]
    assert statistics["total_bytes"] == 970 * MIB
    assert statistics["disk_caches_bytes"] is None
    assert statistics["oom_kills"] is None


@pytest.mark.parametrize("before_s, log", [(0, [1, 0]), (10, [1, 10]), (1, [])])
def test_stats_restores_polling(balloonctl, path, before_s, log):
    with FakeQemu(path, polling_s=before_s) as qemu:
        assert balloonctl("stats", path).status == 0
    assert qemu.polling_log == log


def test_stats_without_driver(balloonctl, path):
    with FakeQemu(path, driver=False) as qemu:
        result = balloonctl("stats", "--timeout", "1", path)
    assert result.status == 5
    assert "sends no statistics" in result.err
    assert qemu.polling_log == [1, 0]


def test_stats_of_qemu_that_has_none_yet(balloonctl, path):
    """QEMU 7.2 refuses guest-stats before the first report; that is no error of ours."""
    with FakeQemu(path) as qemu:
        real, refusals = qemu._answer, iter([NO_STATS_YET] * 3)

        def answer(command, arguments):
            if arguments.get("property") == "guest-stats":
                return next(refusals, None) or real(command, arguments)
            return real(command, arguments)
        qemu._answer = answer
        assert balloonctl("stats", path).status == 0


# Errors

def test_socket_missing(balloonctl, path):
    result = balloonctl("status", path)
    assert result.status == 3
    assert result.err == f"balloonctl: {path}: No such file or directory\n"


def test_socket_is_a_file(balloonctl, path):
    path.touch()
    result = balloonctl("status", path)
    assert result.status == 3
    assert "is not a socket" in result.err


def test_socket_is_stale(balloonctl, path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    result = balloonctl("status", path)
    assert result.status == 3
    assert "nobody listens" in result.err


def test_socket_forbidden(balloonctl, path):
    # root without its capabilities; another user might not see the tree in root's home
    through = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    with FakeQemu(path):
        path.chmod(0)
        result = balloonctl("status", path, through=through)
    assert result.status == 3
    assert "Permission denied" in result.err


def test_socket_in_use(balloonctl, path):
    with FakeQemu(path), socket.socket(socket.AF_UNIX) as other:
        other.connect(str(path))
        other.recv(100)
        result = balloonctl("status", path)
    assert result.status == 3
    assert "QMP serves one client at a time" in result.err


@pytest.mark.parametrize("greeting", ["SSH-2.0-OpenSSH_9.2", "[]", '{"hello": 1}', "\xff"])
def test_socket_of_something_else(balloonctl, path, greeting):
    with FakeQemu(path, greeting=greeting):
        result = balloonctl("status", path)
    assert result.status == 3
    assert "does not speak QMP" in result.err


@pytest.mark.parametrize("command", ["qmp_capabilities", "query-balloon", "balloon"])
def test_qemu_ends_meanwhile(balloonctl, path, command):
    with FakeQemu(path, dies_at=command):
        result = balloonctl("set", "512M", path)
    assert result.status == 3
    assert "lost QEMU" in result.err


def test_no_balloon_device(balloonctl, path):
    with FakeQemu(path, answers={"qom-list": {"return": []}}):
        result = balloonctl("status", path)
    assert result.status == 4
    assert "fake: the guest has no balloon device" in result.err


def test_no_active_balloon(balloonctl, path):
    with FakeQemu(path, answers={"query-balloon": NOT_ACTIVE}):
        result = balloonctl("status", path)
    assert result.status == 4
    assert "has no balloon device" in result.err


def test_qemu_refuses(balloonctl, path):
    with FakeQemu(path, answers={"balloon": GENERIC_ERROR}):
        result = balloonctl("set", "512M", path)
    assert result.status == 1
    assert "QEMU refuses 'balloon': not today" in result.err


def test_no_guest_named(balloonctl):
    result = balloonctl("status")
    assert result.status == 2
    assert "no guest named" in result.err


@pytest.mark.parametrize("arguments", [
    [], ["inflate"], ["set"], ["status", "--frobnicate", "x"], ["stats", "--timeout", "0", "x"],
    ["watch", "--interval", "soon", "x"],
])
def test_usage(balloonctl, arguments):
    assert balloonctl(*arguments).status == 2


def test_domain_without_python_libvirt(balloonctl, tmp_path):
    (tmp_path / "libvirt.py").write_text("raise ImportError('not installed')\n", "ascii")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    for target in ("libvirt:some-domain", "some-domain"):
        result = balloonctl("status", target, env=environment)
        assert result.status == 3
        assert "apt-get install python3-libvirt" in result.err


def test_domain_without_libvirt(balloonctl, tmp_path):
    uri = f"qemu+unix:///system?socket={tmp_path}/none"
    result = balloonctl("status", "--connect", uri, "libvirt:some-domain")
    assert result.status == 3
    assert "no libvirt to ask" in result.err
    # the library's own complaint does not come on top of ours
    assert len(result.err.splitlines()) == 1


# Watch

def test_watch_prints_lines(balloonctl, path):
    with FakeQemu(path) as qemu:
        result = balloonctl("watch", "--count", "2", "--interval", "0.1", "--set", "512M", path)
    assert result.status == 0
    lines = result.out.splitlines()
    assert len(lines) == 2
    assert "actual 512.0 MiB  target 512.0 MiB  free 300.0 MiB" in lines[1]
    assert qemu.polling_log == [1, 0]


def test_watch_prints_json_lines(balloonctl, path):
    with FakeQemu(path):
        result = balloonctl("watch", "--count", "2", "--interval", "0.1", "--json", path)
    first, second = map(json.loads, result.out.splitlines())
    assert first["rates"] == {}
    assert second["rates"]["actual_bytes_per_s"] == 0
    assert second["statistics"]["available_bytes"] == 400 * MIB


def test_watch_draws_on_a_terminal(tmp_path):
    ours, theirs = pty.openpty()
    with FakeQemu(tmp_path / "qmp"):
        process = subprocess.Popen(
            [BALLOONCTL, "watch", "--count", "2", "--interval", "0.1", "--set", "50%",
             tmp_path / "qmp", tmp_path / "none"], stdout=theirs, stderr=theirs,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "100", "LANG": "C.UTF-8"})
        os.close(theirs)
        screen = read_terminal(ours)
        assert process.wait(60) == 3
    os.close(ours)
    assert "█" in screen and "┃" in screen
    assert "fake: RAM 1.00 GiB" in screen
    assert "to 512.0 MiB" in screen
    assert "none: No such file or directory" in screen.replace("\r\n", "")
    assert "Traceback" not in screen


def read_terminal(terminal):
    """Return all that a program writes to a terminal until it ends."""
    screen = b""
    while select.select([terminal], [], [], 60)[0]:
        try:
            screen += os.read(terminal, 1 << 16)
        except OSError:
            break
    return screen.decode()


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_watch_restores_polling_when_interrupted(path, number, status):
    with FakeQemu(path, polling_s=7) as qemu:
        # started as from a terminal: a job in the background ignores SIGINT and hands that on
        process = subprocess.Popen([BALLOONCTL, "watch", "--interval", "0.1", path],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   preexec_fn=lambda: signal.signal(number, signal.SIG_DFL))
        process.stdout.readline()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert errors == ""
    assert qemu.polling_log == [1, 7]


def test_watch_restores_polling_when_nobody_reads(path):
    with FakeQemu(path) as qemu:
        process = subprocess.Popen([BALLOONCTL, "watch", "--interval", "0.1", path],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 128 + signal.SIGPIPE
        assert process.stderr.read() == ""
    assert qemu.polling_log == [1, 0]


def test_watch_ends_when_all_guests_have(path):
    with FakeQemu(path) as qemu:
        process = subprocess.Popen([BALLOONCTL, "watch", "--interval", "0.1", path],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.stdout.readline()
        qemu._dies_at = "query-balloon"
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "lost QEMU" in output
    assert "Traceback" not in errors
