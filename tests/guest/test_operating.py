# SPDX-License-Identifier: GPL-2.0-only
"""docs/operating.md: its blocks for the guest, in a Debian that booted from a disk.

Those for the host are run by tests/host/test_operating.py.
"""

import shlex
import shutil
import sys
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests/lib"))

import guide  # noqa: E402
from test_packages import DebianSystem  # noqa: E402
from vbaldisk import Debian, DebianGuest  # noqa: E402
from vbaltree import build_debs  # noqa: E402

# building for a kernel, and giving all memory back, emulated
RUN_S = 900

pytestmark = pytest.mark.stock


@pytest.fixture(scope="module", name="deb")
def fixture_deb():
    return build_debs(REPO)["vballoon-dkms"]


def test_commands_in_a_guest(deb):
    """One after another, as they stand: the last ones purge the package."""
    with DebianGuest(debian=Debian(deb), mem_mib=768, smp=1, patience=4) as guest:
        assert guest.owner() == "vballoon"
        blocks = guide.blocks("sh guest")
        assert len(blocks) > 2
        for block in blocks:
            guest.check(f"sh -e -c {shlex.quote(block.text)}", RUN_S)
            if "floor_bytes reserve_bytes" in block.text:
                assert "at-target" in guest.check(block.text)
            if "tee" in block.text:
                assert guest.check("cat /sys/bus/virtio/drivers/vballoon/virtio*/balloon/"
                                   "reserve_bytes").strip() == str(64 << 20)
        assert guest.owner() == "virtio_balloon"
        assert "vballoon" not in guest.check("cat /proc/modules").split()
        guest.check_clean()


def test_commands_in_an_image(deb):
    system = DebianSystem()
    block, = guide.blocks("sh image")
    shutil.copy(deb, system.tree.path / "tmp")
    try:
        said = system.tree.run("sh", "-e", "-c", block.text, cwd="/tmp").stdout
        assert f"{system.release}, x86_64: installed" in said
        assert system.drivers() == ["vballoon", "virtio_balloon"]
    finally:
        system.run("dpkg", "--purge", "vballoon-dkms")
        (system.tree.path / "tmp" / deb.name).unlink()
