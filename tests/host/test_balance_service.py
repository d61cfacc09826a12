# SPDX-License-Identifier: GPL-2.0-only
"""`balloonctl balance` as a process, between stand-ins for QEMU and a /proc of its own."""

import contextlib
import ctypes
import json
import mmap
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from balance_process import Balance
from conftest import ROOT
from conftest import MIB

GIB = 1 << 30
FLEET = ROOT / "tests/lib/fake_fleet.py"


@pytest.fixture
def balance(tmp_path):
    """A service that is not started yet."""
    return Balance(tmp_path)


def set_load(qemu, available_bytes):
    """Have the guest report so much available; the driver counts the balloon as used."""
    qemu.stats |= {"stat-available-memory": available_bytes,
                   "stat-free-memory": available_bytes // 2}


# What it does

def test_idle_memory_goes_to_the_needy(balance):
    balance.set_host(4 * GIB, GIB)
    with balance.guest("idle") as idle, balance.guest("needy") as needy:
        set_load(idle, 800 * MIB)
        needy.actual_bytes = 300 * MIB
        set_load(needy, 70 * MIB)
        with balance:
            balance.wait_known("idle", "needy")
            balance.wait_for(lambda: idle.asked_bytes, "the idle guest to be asked")
            set_load(idle, 300 * MIB)
            set_load(needy, 10 * MIB)
            balance.set_host(4 * GIB, 2 * GIB)
            balance.wait_for(lambda: needy.asked_bytes, "the needy guest to get memory")
            set_load(needy, 200 * MIB)
            status = balance.status()
        assert needy.asked_bytes[0] > 300 * MIB
        assert min(idle.asked_bytes) >= 256 * MIB
    assert " from idle " in balance.lines()
    assert " for needy " in balance.lines()
    assert status["counts"]["gives"] >= 1


def test_what_a_killed_qemu_had_is_free_again(balance):
    """It leaves its socket behind."""
    with contextlib.ExitStack() as stack:
        killed = balance.guest("killed").__enter__()
        stack.enter_context(balance)
        balance.wait_known("killed")
        assert balance.guests()["killed"]["resident_bytes"]
        killed.__exit__(None, None, None)
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(killed.path))
        balance.wait_for(lambda: "killed" in balance.guests()
                         and not balance.guests()["killed"]["resident_bytes"],
                         "its memory to be no longer its own")


def test_host_in_need_is_helped(balance):
    with balance.guest("web") as web:
        set_load(web, 700 * MIB)
        with balance:
            balance.wait_known("web")
            balance.set_host(8 * GIB, 300 * MIB)
            balance.wait_for(lambda: web.asked_bytes, "the guest to be asked")
    assert "the host is short of" in balance.lines()


def test_guests_come_and_go(balance):
    with balance:
        assert balance.guests() == {}
        with balance.guest("web"):
            balance.wait_known("web")
        balance.wait_for(lambda: not balance.guests(), "the guest to be gone")
        with balance.guest("web"):
            balance.wait_known("web")
    assert "web is gone" in balance.lines()


def test_two_guests_of_one_name(balance):
    with balance.guest("a") as first, balance.guest("b") as second:
        first.name = second.name = "twin"
        with balance:
            balance.wait_known("twin", "twin#2")


# Guests of special kinds

def no_balloon():
    """QEMU without the device."""
    return {"answers": {"qom-list": {"return": []}}}


@pytest.mark.parametrize("options, change, words", [
    ({}, {"status": "paused"}, "is paused"),
    ({}, {"migration": {"status": "active"}}, "is being migrated"),
    ({}, {"devices": ["vfio-pci"]}, "VFIO"),
    (no_balloon(), {}, "has no balloon device"),
    ({"driver": False, "follow": False}, {}, "no statistics"),
    ({"greeting": "SSH-2.0"}, {}, "does not speak QMP"),
    ({"answers": {"query-balloon": {"return": {"actual": "much"}}}}, {}, "makes no sense"),
    ({"answers": {"query-balloon": {"error": {"class": "GenericError", "desc": "no"}}}}, {}, "no"),
    ({"answers": {"query-balloon": {"return": {"actual": 1e999}}}}, {}, "makes no sense"),
    ({"answers": {"query-name": {"return": ["web"]}}}, {}, "makes no sense"),
    ({"answers": {"query-memory-size-summary": {"return": {}}}}, {}, "makes no sense"),
    ({"answers": {"qom-list": {"return": [{}]}}}, {}, "makes no sense"),
    ({"answers": {"qom-get": {"return": {"stats": 7, "last-update": 7}}}}, {}, "makes no sense"),
    ({"answers": {"query-balloon": {"return": json.loads("[" * 900 + "]" * 900)}}}, {},
     "makes no sense"),
    ({"greeting": "[" * 100000}, {}, "does not speak QMP"),
    ({"dies_at": "query-balloon"}, {}, "QEMU closed the connection"),
])
def test_odd_guest_is_named_and_left_alone(balance, options, change, words):
    with balance.guest("odd", **options) as odd, balance.guest("good") as good:
        for name, value in change.items():
            setattr(odd, name, value)
        set_load(good, 700 * MIB)
        balance.set_host(8 * GIB, GIB)
        with balance:
            balance.wait_for(lambda: good.asked_bytes, "the other guest to be asked")
            balance.wait_for(lambda: f"is not balanced: {words}" in balance.lines()
                             or words in balance.lines(), "a word of it")
        assert odd.asked_bytes == []


def test_socket_of_another_client_is_named(balance):
    with balance.guest("taken") as taken, socket.socket(socket.AF_UNIX) as other:
        other.connect(taken.path)
        with balance:
            balance.wait_for(lambda: "another client is connected" in balance.lines(),
                             "a word of it")


def test_guest_that_pauses_between_look_and_ask(balance):
    """What is decided on an old look is looked at again before it is asked for."""
    with balance.guest("web") as web:
        set_load(web, 700 * MIB)
        with balance:
            balance.wait_known("web")
            web.status = "paused"
            balance.set_host(8 * GIB, 300 * MIB)
            balance.wait_for(lambda: "web is not balanced: is paused" in balance.lines(),
                             "the pause to be noticed")
        assert web.asked_bytes == []


def test_plugged_memory_is_nothing_that_the_guest_took(balance):
    with balance.guest("web") as web, balance:
        # less would be a lie: the stand-in's process has touched little
        set_load(web, 700 * MIB)
        balance.wait_for(lambda: (balance.guests().get("web") or {}).get("used_bytes"), "a report")
        # QEMU tells nobody of a DIMM; the balloon's size has it at once
        web.memory_devices = [{"type": "dimm", "data": {"size": 512 * MIB}}]
        web.actual_bytes += 512 * MIB
        balance.wait_for(lambda: balance.guests()["web"]["ram_bytes"] == 1536 * MIB, "the DIMM")
        web_status = balance.guests()["web"]
        assert web_status["actual_bytes"] == web_status["target_bytes"] == 1536 * MIB
        assert web.asked_bytes == []
    assert "by itself" not in balance.lines()


def test_virtio_mem_counts_as_ram(balance):
    """QEMU's balloon does not count it, guests do."""
    with balance.guest("web") as web:
        web.memory_devices = [{"type": "virtio-mem", "data": {"size": 512 * MIB}}]
        web.stats["stat-total-memory"] = 1480 * MIB
        set_load(web, 1200 * MIB)
        with balance:
            balance.wait_known("web")
            assert balance.guests()["web"]["actual_bytes"] == 1536 * MIB
            balance.wait_for(lambda: (balance.guests().get("web") or {}).get("used_bytes"),
                             "a report")
            assert balance.guests()["web"]["used_bytes"] == 336 * MIB
            balance.set_host(8 * GIB, 300 * MIB)
            balance.wait_for(lambda: web.asked_bytes, "the guest to be asked")
            balance.wait_for(lambda: balance.guests()["web"]["target_bytes"]
                             == balance.guests()["web"]["actual_bytes"], "its move")
        assert web.actual_bytes == min(web.asked_bytes) < 1024 * MIB


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_locked_memory_is_seen(balance):
    """VFIO, vDPA and mlock() keep memory on the host; /proc tells of all three."""
    locked = mmap.mmap(-1, 128 * MIB)
    pointer = ctypes.byref(ctypes.c_char.from_buffer(locked))
    libc = ctypes.CDLL(None, use_errno=True)
    with balance.guest("web") as web:
        # the stand-in lives in this process
        assert libc.mlock(pointer, ctypes.c_size_t(len(locked))) == 0
        try:
            set_load(web, 700 * MIB)
            balance.set_host(8 * GIB, 300 * MIB)
            with balance:
                balance.wait_for(lambda: "is not balanced: its memory is locked or pinned"
                                 in balance.lines(), "a word of it")
            assert web.asked_bytes == []
        finally:
            libc.munlock(pointer, ctypes.c_size_t(len(locked)))


@contextlib.contextmanager
def fleet(folder, count, odd):
    """Many servers in a process of their own."""
    process = subprocess.Popen([sys.executable, FLEET, folder, str(count), "--odd", str(odd),
                                "--resident", "200"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_slow_and_wrong_guests_delay_no_other(balance):
    with fleet(balance.folder / "guests", 40, 0.5) as servers, balance:
        balance.set_host(100 * GIB, 90 * GIB)
        balance.wait_for(lambda: len(balance.guests()) == 40, "all guests")
        looks = {"before": None}

        def good_ones_seen():
            # all that answer well have reported, and the silent are known
            known = balance.guests()
            good = [known.get(f"guest{number}") for number in range(20, 40)]
            return all(guest and guest["used_bytes"] for guest in good)
        balance.wait_for(good_ones_seen, "the good guests' reports")
        balance.wait_for(lambda: "QEMU does not answer within" in balance.lines(),
                         "the silent to be named")
        balance.wait_for(lambda: "does not speak QMP" in balance.lines(), "the junk to be named")
        balance.wait_for(good_ones_seen, "the good guests' reports")
        servers.terminate()
        looks = json.loads(servers.stdout.read())
    least = min(guest["looks"] for guest in looks if guest["kind"] == "good")
    assert least >= max(guest["looks"] for guest in looks if guest["kind"] == "silent")


# Its own life

def test_polling_is_restored_and_sizes_stay(balance):
    with balance.guest("web", polling_s=0) as web, balance.guest("db", polling_s=30) as database:
        set_load(web, 700 * MIB)
        set_load(database, 700 * MIB)
        balance.set_host(8 * GIB, GIB)
        with balance:
            balance.wait_for(lambda: web.asked_bytes and database.asked_bytes, "moves")
        assert (web.polling_s, database.polling_s) == (0, 30)
        assert [web.actual_bytes, database.actual_bytes] == [web.asked_bytes[-1],
                                                             database.asked_bytes[-1]]


def test_killed_and_restarted_it_leaves_guests_as_they_are(balance):
    with balance.guest("web") as web:
        set_load(web, 700 * MIB)
        balance.set_host(8 * GIB, 300 * MIB)
        with balance:
            balance.wait_for(lambda: web.asked_bytes, "a move")
            balance.set_host(8 * GIB, 3 * GIB)
            balance.process.send_signal(signal.SIGKILL)
            balance.process.wait()
        size_bytes = web.actual_bytes
        assert size_bytes == web.asked_bytes[-1]
        set_load(web, size_bytes - 324 * MIB)
        asked = list(web.asked_bytes)
        with balance:
            balance.wait_for(lambda: (balance.guests().get("web") or {}).get("used_bytes"),
                             "a report")
            assert balance.guests()["web"]["target_bytes"] == size_bytes
    assert web.asked_bytes == asked


def test_reload_keeps_the_old_settings_when_the_new_are_bad(balance):
    with balance.guest("web") as web, balance:
        balance.wait_known("web")
        good = balance.config.read_text()
        balance.config.write_text(good + "[guests]\nminimum = 5\n")
        balance.process.send_signal(signal.SIGHUP)
        balance.wait_for(lambda: "the old settings stay" in balance.lines(), "the refusal")
        assert "balance.toml:5: minimum: 5 is no size" in balance.lines()
        assert balance.guests()["web"]["minimum_bytes"] == 256 * MIB
        balance.config.write_text(good + '[guests]\nminimum = "384M"\n')
        balance.process.send_signal(signal.SIGHUP)
        balance.wait_for(lambda: balance.guests()["web"]["minimum_bytes"] == 384 * MIB,
                         "the new settings")
        assert web.actual_bytes == web.ram_bytes


def test_reload_of_settings_that_leave_nothing_changes_nothing(balance):
    with balance.guest("web") as web, balance:
        balance.wait_known("web")
        set_load(web, 300 * MIB)
        good = balance.config.read_text()
        for text, words in ((good + '[host]\nmargin = "9G"\n[guests]\nminimum = "400M"\n',
                             "balance.toml:5: margin: 9G leaves the guests nothing"),
                            ("interval = 2\n", "names no guests")):
            balance.config.write_text(text)
            balance.process.send_signal(signal.SIGHUP)
            balance.wait_for(lambda words=words: words in balance.lines(), "the refusal")
        assert balance.guests()["web"]["minimum_bytes"] == 256 * MIB
        assert web.asked_bytes == []
    assert balance.lines().count("the old settings stay") == 2


def test_a_second_service_is_refused(balance, balloonctl):
    with balance.guest("web"), balance:
        balance.wait_known("web")
        second = balloonctl("balance", "--config", balance.config, "--socket", balance.socket,
                            "--proc", balance.folder)
        assert second.status == 2
        assert "a balance is running already" in second.err
        balance.wait_known("web")


def test_status_socket_that_cannot_be(balance, balloonctl):
    result = balloonctl("balance", "--config", balance.config, "--proc", balance.folder,
                        "--socket", balance.config / "status")
    assert result.status == 1
    assert "--socket names another place" in result.err


def test_talkative_reader_costs_nothing(balance):
    """Everybody may read the status; nobody shall fill the service's memory by it."""
    with balance, socket.socket(socket.AF_UNIX) as reader:
        reader.connect(str(balance.socket))
        before_bytes = resident_bytes(balance.process.pid)
        for _ in range(64):
            reader.sendall(bytes(MIB))
        assert resident_bytes(balance.process.pid) < before_bytes + 16 * MIB


def resident_bytes(pid):
    """A process's memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_systemd_is_told(balance):
    with balance.listen_for_systemd() as listener:
        with balance:
            heard = ""
            while "WATCHDOG=1" not in heard or "READY=1" not in heard:
                heard += listener.recv(4096).decode() + "\n"
            balance.process.send_signal(signal.SIGHUP)
            while "RELOADING=1\nMONOTONIC_USEC=" not in heard:
                heard += listener.recv(4096).decode() + "\n"
        while "STOPPING=1" not in heard:
            heard += listener.recv(4096).decode() + "\n"
    assert balance.process.returncode == 0


@pytest.mark.parametrize("text, words", [
    ("", "names no guests"),
    ("interval = 0", ":1: interval: 0 is no number"),
    ('[host]\nmemory = "0%"', ":2: memory: '0%' leaves nothing"),
    ('[host]\nmargin = "100%"\n[qmp]\nsockets = "/none"', ":2: margin: 100% leaves the guests"),
])
@pytest.mark.parametrize("more", [(), ("--check",)])
def test_bad_settings_do_not_start(balloonctl, tmp_path, text, words, more):
    path = tmp_path / "balance.toml"
    path.write_text(text)
    result = balloonctl("balance", "--config", path, *more)
    assert result.status == 2
    assert words in result.err


# What it tells

def test_status_shows_guests(balance, balloonctl):
    with balance.guest("web"), balance:
        balance.wait_known("web")
        table = balloonctl("balance", "status", "--socket", balance.socket)
        as_json = balloonctl("balance", "status", "--json", "--socket", balance.socket)
        lines = balloonctl("balance", "watch", "--count", "2", "--socket", balance.socket)
    assert table.status == 0
    assert "web" in table.out and "margin" in table.out and "MINIMUM" in table.out
    assert as_json.json["guests"][0]["name"] == "web"
    assert lines.out.count("GUEST") == 2


def test_status_without_a_service(balloonctl, tmp_path):
    result = balloonctl("balance", "status", "--socket", tmp_path / "none")
    assert result.status == 3
    assert "is the service running?" in result.err


def test_check_tells_and_changes_nothing(balance, balloonctl):
    with balance.guest("web") as web:
        set_load(web, 700 * MIB)
        balance.set_host(8 * GIB, 500 * MIB)
        result = balloonctl("balance", "--check", "--config", balance.config,
                            "--proc", balance.folder)
        assert web.asked_bytes == []
        assert web.polling_s == 0
    assert result.status == 0, result.err
    assert "valid" in result.out
    assert "It would now do:" in result.out and " from web " in result.out


def test_live_view_draws():
    from ballooncontrol.balance.command import draw
    from rich.console import Console
    guest = {"name": "web", "ram_bytes": GIB, "actual_bytes": 512 * MIB, "used_bytes": 256 * MIB,
             "minimum_bytes": 128 * MIB, "target_bytes": 768 * MIB, "trouble": None,
             "want_bytes": 0, "idle_bytes": 64 * MIB, "note": ""}
    status = {"host": {"state": "well", "available_bytes": GIB, "total_bytes": 2 * GIB,
                       "margin_bytes": 128 * MIB, "stalled_percent": 0.0},
              "room_bytes": -MIB, "demand_bytes": 0, "counts": {"takes": 1, "gives": 2},
              "guests": [guest], "moves": [{"text": "16.0 MiB from web"}]}
    console = Console(width=150, record=True, file=open(os.devnull, "w", encoding="utf-8"))
    console.print(draw(status))
    text = console.export_text()
    assert "▓▓▓|▓▓░░░░░░      ┃" in text
    assert "64.0 MiB idle" in text and "lacking 1.0 MiB" in text and "from web" in text
