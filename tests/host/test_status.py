# SPDX-License-Identifier: GPL-2.0-only
"""What `balloonctl status` says of the device, with stand-ins and a real QEMU that stands still."""

import pytest
from ballooncontrol.device import look_at_device
from ballooncontrol.qmp import CommandError
from bare_qemu import BareQemu
from conftest import QEMU_TELLS
from fake_qemu import ALL_WORDS, BALLOON_PATH, DRIVER_OK, FakeQemu, virtio_status

BALLOON = "virtio-balloon-pci,id=balloon0"
GOOD = "deflate-on-oom=on,free-page-reporting=on"


@pytest.fixture
def path(tmp_path):
    """Where QEMU listens."""
    return tmp_path / "qmp"


@pytest.mark.parametrize("status, driver, ranges, features", [
    (virtio_status(), "running", "yes", "stats deflate-on-oom free-page-reporting"),
    (virtio_status(negotiated=("stats",)), "running", "no",
     "stats (deflate-on-oom free-page-reporting)"),
    (virtio_status(negotiated=()), "running", "no", "(stats deflate-on-oom free-page-reporting)"),
    (virtio_status(offered=("must-tell-host", *ALL_WORDS),
                   negotiated=("must-tell-host", *ALL_WORDS)), "running", "no",
     "must-tell-host stats deflate-on-oom free-page-reporting"),
    (virtio_status(negotiated=(), statuses=[]), "none", "-",
     "(stats deflate-on-oom free-page-reporting)"),
    (virtio_status(statuses=DRIVER_OK[1:]), "starting", "-",
     "(stats deflate-on-oom free-page-reporting)"),
    (virtio_status(statuses=[*DRIVER_OK, "VIRTIO_CONFIG_S_FAILED: Error in guest"]), "failed",
     "-", "(stats deflate-on-oom free-page-reporting)"),
])
def test_status_shows_driver_ranges_and_features(balloonctl, path, status, driver, ranges,
                                                 features):
    with FakeQemu(path) as qemu:
        qemu.virtio_status = status
        result = balloonctl("status", path)
    assert result.status == 0, result.err
    words = result.out.splitlines()[1].split(maxsplit=11)
    assert words[9:] == [driver, ranges, features]


def test_status_of_an_old_qemu_shows_what_it_offers(balloonctl, path):
    with FakeQemu(path) as qemu:
        qemu.properties[BALLOON_PATH, "deflate-on-oom"] = True
        del qemu.properties[BALLOON_PATH, "free-page-reporting"]
        device = balloonctl("status", "--json", path).json[0]["device"]
    assert device == {"offered": ["stats", "deflate-on-oom"], "negotiated": None, "state": None,
                      "ranges": None}


@pytest.mark.parametrize("version", [(11, 1), (10, 1), (7, 1)])
def test_a_qemu_that_may_die_of_it_is_not_asked(balloonctl, path, version):
    """QEMU 11.1 aborts, its guest with it, when it is asked for a virtio device's status."""
    with FakeQemu(path, dies_at="x-query-virtio-status") as qemu:
        qemu.version = version
        result = balloonctl("status", "--json", path)
    assert result.status == 0, result.err
    device = result.json[0]["device"]
    assert device["offered"]
    assert device["negotiated"] is device["state"] is None


def test_status_of_a_device_that_is_its_own_backend():
    """virtio-mmio's; a path below it is refused."""
    def command(name, path=None):
        if name == "query-version":
            return {"qemu": {"major": 7, "minor": 2}}
        assert name == "x-query-virtio-status"
        if path != "/machine/peripheral/balloon0":
            raise CommandError("no such path", "GenericError")
        return virtio_status()
    assert look_at_device(command, "/machine/peripheral/balloon0").state == "running"


@pytest.mark.parametrize("options, offered", [
    ("", ["stats", "page-poison"]),
    (",page-poison=off", ["stats"]),
    (f",{GOOD}", [*ALL_WORDS[:2], "page-poison", ALL_WORDS[2]]),
])
def test_status_of_a_real_qemu_without_a_guest(balloonctl, path, options, offered):
    with BareQemu(path, "-device", BALLOON + options):
        device = balloonctl("status", "--json", path).json[0]["device"]
    assert device == {"offered": offered, "negotiated": None, "ranges": None,
                      "state": "no-driver" if QEMU_TELLS else None}
