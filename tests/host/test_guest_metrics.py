# SPDX-License-Identifier: GPL-2.0-only
"""guest/vballoon-metrics on a folder that imitates sysfs; tests/guest runs it in a guest."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT
from fake_sysfs import WORDS, FakeSysfs, documented
from prometheus_client.parser import text_string_to_metric_families

SCRIPT = ROOT / "guest/vballoon-metrics"
DOCUMENT = (ROOT / "docs/metrics.md").read_text("utf-8")
TABLE = DOCUMENT.split("## What the guest knows")[1].split("\n## ")[0]


@pytest.fixture(name="sysfs")
def fixture_sysfs(tmp_path):
    """A guest with one device that vballoon drives."""
    sysfs = FakeSysfs(tmp_path / "sys")
    sysfs.add("virtio3")
    return sysfs


def run(sysfs, *arguments, shell=(), **options):
    """Run the script; whatever it prints, promtool has nothing to say."""
    result = subprocess.run([*shell, SCRIPT, "--sysfs", sysfs.top, *arguments], text=True,
                            capture_output=True, check=False, **options)
    if result.stdout:
        told = subprocess.run(["promtool", "check", "metrics"], input=result.stdout, text=True,
                              capture_output=True, check=False)
        assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
    return result


def read(sysfs, **options):
    """Return (name, labels but for the device) -> value of a guest with one device."""
    result = run(sysfs, **options)
    assert (result.returncode, result.stderr) == (0, "")
    found = {}
    for family in text_string_to_metric_families(result.stdout):
        for sample in family.samples:
            labels = frozenset(item for item in sample.labels.items() if item[0] != "device")
            assert (sample.name, labels) not in found
            found[sample.name, labels] = sample.value
    return found


def value(found, name, **labels):
    """Return one value."""
    return found[name, frozenset(labels.items())]


def documented_metrics():
    """Return metric -> (type, sysfs files) of the table."""
    return {name: (kind, re.findall(r"`(\w+)`", files)) for name, kind, files in re.findall(
        r"^\| `(\w+)` \| (\w+) \|[^|]*\| ([^|]*)\|", TABLE, re.MULTILINE)}


def test_documented_are_all_and_no_other(sysfs):
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", run(sysfs).stdout, re.MULTILINE))
    assert types == {name: kind for name, (kind, _) in documented_metrics().items()}


def test_every_sysfs_file_has_its_metric():
    files = [file for _, files in documented_metrics().values() for file in files]
    # those are for people
    assert sorted(files) == sorted(set(documented()) - {"reason", "transfer_reason"})


def test_values_are_those_of_the_files(sysfs):
    found = read(sysfs)
    for name, (kind, files) in documented_metrics().items():
        if len(files) != 1 or files[0] in WORDS or files[0].endswith("N"):
            continue
        number = int((sysfs.devices / "virtio3/balloon" / files[0]).read_text())
        scale = 1000 if files[0].endswith("_ms") else 1
        assert value(found, name) == number / scale, name
        assert (kind == "counter") == name.endswith("_total")


def test_large_numbers_stay_exact(sysfs):
    # more than a float of awk's prints by itself
    sysfs.set("virtio3", given_bytes=9007199254740991, floor_bytes=1099511627777)
    assert "vballoon_given_bytes_total{device=\"virtio3\"} 9007199254740991\n" in run(sysfs).stdout
    assert "vballoon_floor_bytes{device=\"virtio3\"} 1099511627777\n" in run(sysfs).stdout


@pytest.mark.parametrize("state", ["at-target", "held-by-pressure", "broken", "from-the-future"])
def test_one_state_is_on(sysfs, state):
    sysfs.set("virtio3", state=state)
    states = {dict(labels)["state"]: number for (name, labels), number in read(sysfs).items()
              if name == "vballoon_state"}
    assert [name for name, number in states.items() if number] == [state]
    assert len(states) == (8 if state == "from-the-future" else 7)


@pytest.mark.parametrize("line", ["", "stats", "must-tell-host stats deflate-on-oom "
                                  "free-page-hint page-poison free-page-reporting"])
def test_features(sysfs, line):
    sysfs.set("virtio3", negotiated_features=line)
    features = {dict(labels)["feature"]: number for (name, labels), number in read(sysfs).items()
                if name == "vballoon_negotiated_feature"}
    assert len(features) == 6
    assert {name for name, number in features.items() if number} == set(line.split())


def test_words(sysfs):
    found = read(sysfs)
    assert value(found, "vballoon_devices") == 1
    assert value(found, "vballoon_device_info", driver="vballoon", version="0.1.0") == 1
    assert value(found, "vballoon_settings_info", policy="protect", transfer="range") == 1
    for order in ("0", "9", "10"):
        number = int((sysfs.devices / f"virtio3/balloon/held_blocks_order{order}").read_text())
        assert value(found, "vballoon_held_blocks", order=order) == number


@pytest.mark.parametrize("driver, word", [("virtio_balloon", "virtio_balloon"), (None, "none")])
def test_device_that_is_not_ours(tmp_path, driver, word):
    sysfs = FakeSysfs(tmp_path / "sys")
    sysfs.add("virtio3", driver)
    assert read(sysfs) == {
        ("vballoon_devices", frozenset()): 1,
        ("vballoon_device_info", frozenset({("driver", word), ("version", "")})): 1}


def test_guest_without_device(tmp_path):
    assert read(FakeSysfs(tmp_path / "sys")) == {("vballoon_devices", frozenset()): 0}


def test_guest_without_virtio(tmp_path):
    sysfs = FakeSysfs(tmp_path / "sys")
    shutil.rmtree(sysfs.top / "bus/virtio")
    assert read(sysfs) == {("vballoon_devices", frozenset()): 0}


def test_several_devices(sysfs):
    sysfs.add("virtio4")
    sysfs.add("virtio5", "virtio_balloon")
    sysfs.set("virtio4", held_bytes=4096)
    out = run(sysfs).stdout
    assert "vballoon_devices 3\n" in out
    assert 'vballoon_held_bytes{device="virtio4"} 4096\n' in out
    assert out.count("\nvballoon_held_bytes{") == 2
    assert out.count("\nvballoon_device_info{") == 3


def test_what_is_no_number_is_left_out(sysfs):
    sysfs.set("virtio3", held_bytes="lots", actual_bytes="", target_bytes="-1")
    found = read(sysfs)
    for name in ("vballoon_held_bytes", "vballoon_actual_bytes", "vballoon_target_bytes"):
        assert (name, frozenset()) not in found
    assert value(found, "vballoon_devices") == 1


def test_file_of_a_newer_driver_does_no_harm(sysfs):
    before = read(sysfs)
    sysfs.set("virtio3", from_the_future='a "word" \\')
    assert read(sysfs) == before


def test_label_is_quoted(sysfs):
    (sysfs.top / "module/vballoon/version").write_text('1 "\\\n')
    assert 'driver="vballoon",version="1"' in run(sysfs).stdout
    (sysfs.top / "module/vballoon/version").write_text('1"a\\b\n')
    assert value(read(sysfs), "vballoon_device_info", driver="vballoon", version='1"a\\b') == 1


def test_busybox_will_do(sysfs, tmp_path):
    busybox = Path(shutil.which("busybox"))
    for name in ("sh", "awk", "readlink"):
        (tmp_path / name).symlink_to(busybox)
    wanted = run(sysfs).stdout
    assert run(sysfs, shell=[tmp_path / "sh"], env={"PATH": str(tmp_path)}).stdout == wanted
    assert run(sysfs, shell=["bash"]).stdout == wanted


# The file

def test_file_is_replaced(sysfs, tmp_path):
    folder = tmp_path / "textfile"
    folder.mkdir()
    file = folder / "vballoon.prom"
    file.write_text("old")
    with open(file, encoding="ascii") as old:
        assert run(sysfs, file, shell=["sh", "-c", 'umask 077; "$@"', "sh"]).returncode == 0
        # whoever had it open reads on as before
        assert old.read() == "old"
    assert file.read_text() == run(sysfs).stdout
    # node_exporter is another user
    assert file.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in folder.iterdir()] == ["vballoon.prom"]


def test_failure_leaves_the_old_file(sysfs, tmp_path):
    folder = tmp_path / "textfile"
    folder.mkdir()
    (folder / "vballoon.prom").write_text("old")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/awk").write_text("#!/bin/sh\necho half\nexit 1\n")
    (tmp_path / "bin/awk").chmod(0o755)
    result = run(sysfs, folder / "vballoon.prom",
                 env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin"})
    assert result.returncode == 1
    assert "vballoon.prom could not be written" in result.stderr
    assert [(path.name, path.read_text()) for path in folder.iterdir()] == [
        ("vballoon.prom", "old")]


@pytest.mark.parametrize("arguments, status", [
    (("a", "b"), 2), (("-x",), 2), (("--sysfs", "/nonexistent"), 1), (("--sysfs",), 1),
    (("/nonexistent/file",), 1)])
def test_wrong_usage(arguments, status):
    result = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == status
    assert result.stderr
