# SPDX-License-Identifier: GPL-2.0-only
"""The manual page and the completions know what balloonctl knows."""

import argparse
import re
import shutil
import subprocess

import pytest
from ballooncontrol import cli, errors
from ballooncontrol.base import Statistics, Status
from ballooncontrol.device import FEATURES, STATES, Device
from ballooncontrol.doctor.command import FINDINGS_STATUS
from ballooncontrol.doctor.facts import Finding
from conftest import ROOT

MANUAL = ROOT / "host/balloonctl.1"
BASH = ROOT / "host/completions/balloonctl.bash"
ZSH = ROOT / "host/completions/_balloonctl"


def commands():
    """Return each command's parser."""
    action, = (action for action in cli.build_parser()._actions
               if isinstance(action, argparse._SubParsersAction))
    return action.choices


def options_of(parser):
    """Return the options of a command."""
    return {text for action in parser._actions for text in action.option_strings}


def complete(*words):
    """Return what bash offers for the last of the words."""
    script = (f"source {BASH}; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); _balloonctl; "
              "printf '%s\\n' \"${COMPREPLY[@]}\"")
    result = subprocess.run(["bash", "-c", script, "bash", "balloonctl", *words],
                            capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_version_is_the_trees():
    version = (ROOT / "VERSION").read_text("ascii").strip()
    assert cli.VERSION == version
    assert f"vballoon {version}" in MANUAL.read_text("ascii")


def test_manual_renders_without_warnings():
    if shutil.which("groff") is None:
        pytest.skip("needs groff-base")
    result = subprocess.run(["groff", "-man", "-Tascii", "-P-cbou", "-ww", MANUAL],
                            capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert "EXIT STATUS" in result.stdout


@pytest.mark.parametrize("command", commands())
def test_manual_names_all(command):
    text = MANUAL.read_text("ascii").replace("\\-", "-")
    for option in options_of(commands()[command]):
        assert option in text
    assert f"balloonctl {command}" in text


def test_manual_names_all_that_json_has():
    text = MANUAL.read_text("ascii").replace("\\-", "-").partition(".SH JSON")[2]
    rules = (ROOT / "host/ballooncontrol/doctor/rules.py").read_text("ascii")
    codes = set(re.findall(r'(?:Finding\(|REPORTING, |OOM, )"([a-z-]+)"', rules))
    assert len(codes) > 15
    fields = {*Status.__dataclass_fields__, *Statistics.__dataclass_fields__,
              *Device().as_dict(), *Finding.__dataclass_fields__, *FEATURES.values(), *codes}
    states = {f"driver-{state}" for _, state in STATES if state != "running"}
    for word in (fields | states) - {"driver-"}:
        assert re.search(rf"(?<![a-z-]){word}(?![a-z_-])", text), word


def test_manual_names_all_exit_statuses():
    text = MANUAL.read_text("ascii").partition(".SH EXIT STATUS")[2]
    statuses = {error.exit_status for error in vars(errors).values()
                if isinstance(error, type)} | {0, FINDINGS_STATUS}
    assert statuses == set(map(int, re.findall(r"^\.B (\d)$", text, re.MULTILINE)))
    for status in statuses:
        assert f"{status} " in cli.EPILOG


def test_bash_offers_commands():
    assert complete("") == {*commands(), "--help", "--version"}
    assert complete("st") == {"status", "stats"}


@pytest.mark.parametrize("command", commands())
def test_bash_offers_options(command):
    long_options = {text for text in options_of(commands()[command]) if text.startswith("--")}
    words = (command, "1G", "-") if command == "set" else (command, "-")
    assert complete(*words) == long_options


def test_bash_offers_sizes_and_files(tmp_path):
    (tmp_path / "guest.qmp").touch()
    assert "50%" in complete("set", "")
    assert complete("set", "50%", f"{tmp_path}/gu") == {f"{tmp_path}/guest.qmp"}
    assert complete("status", "--guest", f"{tmp_path}/gu") == {f"{tmp_path}/guest.qmp"}
    assert "50%" in complete("watch", "--set", "")


@pytest.mark.parametrize("command", commands())
def test_zsh_knows_options(command):
    text = ZSH.read_text("ascii")
    for option in options_of(commands()[command]):
        assert option in text


def test_zsh_accepts_its_file():
    if shutil.which("zsh") is None:
        pytest.skip("needs zsh")
    result = subprocess.run(["zsh", "-n", ZSH], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
