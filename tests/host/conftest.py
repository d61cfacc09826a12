# SPDX-License-Identifier: GPL-2.0-only
"""What the tests of the host's tools share."""

import json
import re
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BALLOONCTL = ROOT / "host/balloonctl"
sys.path[:0] = [str(ROOT / "host"), str(ROOT / "tests/lib")]

import vbalcount  # noqa: E402
from ballooncontrol.device import FIRST_TO_ANSWER, LAST_TO_ANSWER  # noqa: E402
from vbalguest import tool  # noqa: E402
from vbalguest.arch import AMD64  # noqa: E402

MIB = 1 << 20
RUN_SECONDS = 300


def qemu_tells():
    """True if this machine's QEMU may be asked what a guest negotiated."""
    said = subprocess.run([tool(AMD64.qemu, AMD64.qemu_package), "--version"], check=True,
                          stdout=subprocess.PIPE, text=True).stdout
    version = tuple(map(int, re.search(r"version (\d+)\.(\d+)", said).groups()))
    return FIRST_TO_ANSWER <= version <= LAST_TO_ANSWER


QEMU_TELLS = qemu_tells()


def pytest_sessionfinish(session):
    """A skip that is not allowed is a failure."""
    vbalcount.end_pytest(session)


def pytest_unconfigure(config):
    """End with the line that tests/run/test adds up."""
    vbalcount.close_pytest(config)


def run_program(name):
    """Import a program of tests/run, which have no suffix."""
    loader = SourceFileLoader(f"{name}_program", str(ROOT / "tests/run" / name))
    module = module_from_spec(spec_from_loader(loader.name, loader))
    # where dataclasses look for what their annotations name
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


class Result:
    """What a run of balloonctl came to."""

    def __init__(self, process):
        self.status = process.returncode
        self.out = process.stdout
        self.err = process.stderr

    @property
    def json(self):
        """The output of --json."""
        return json.loads(self.out)


@pytest.fixture
def balloonctl():
    """Run balloonctl; whatever happens, nobody is to see a traceback."""
    def run(*arguments, through=(), **options):
        process = subprocess.run([*through, BALLOONCTL, *map(str, arguments)], capture_output=True,
                                 text=True, timeout=RUN_SECONDS, check=False, **options)
        assert "Traceback" not in process.stderr
        return Result(process)
    return run
