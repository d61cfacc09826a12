# SPDX-License-Identifier: GPL-2.0-only
"""Guests for the tests. A boot costs seconds, so tests share guests where they can."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "lib"))

import vbalcount  # noqa: E402
from vbalguest import Guest, Kernel  # noqa: E402

MIB = 1 << 20
FRAME = 4096
MAX_GUESTS = 2
ALL_FEATURES = "deflate-on-oom=on,free-page-reporting=on,free-page-hint=on"


def pytest_addoption(parser):
    """Add our options to pytest's."""
    parser.addoption("--kernel", metavar="PATH",
                     help="bzImage or build folder to boot instead of the stock Debian kernel")
    parser.addoption("--patience", type=float, metavar="FACTOR",
                     help="multiply every time limit (default: 1, with --kernel 4)")


def pytest_collection_modifyitems(config, items):
    """Skip what another kernel cannot do."""
    if not config.getoption("--kernel"):
        return
    skip = pytest.mark.skip(reason="needs the stock Debian kernel")
    for item in items:
        if item.get_closest_marker("stock"):
            item.add_marker(skip)


def pytest_sessionfinish(session):
    """A skip that is not allowed is a failure."""
    vbalcount.end_pytest(session)


def pytest_unconfigure(config):
    """End with the line that tests/run/test adds up."""
    vbalcount.close_pytest(config)


def debug_mib(mem_mib):
    """What a debug kernel takes for itself: KASAN an eighth of all, and the rest."""
    return mem_mib // 7 + 64


class Balloon:
    """The driver in a guest, loaded by `Lab.loaded`, seen from both sides."""

    def __init__(self, guest, base_total_kb):
        self.guest = guest
        self.base_total_kb = base_total_kb
        self.page_bytes = guest.page_bytes()

    def attr(self, name):
        """Read an attribute of the driver in sysfs."""
        return self.guest.check(f"cat /sys/bus/virtio/drivers/vballoon/virtio*/balloon/{name}"
                                ).strip()

    def features(self):
        """Return the negotiated feature bits."""
        text = self.guest.check("cat /sys/bus/virtio/drivers/vballoon/virtio*/features")
        return {bit for bit, value in enumerate(text.strip()) if value == "1"}

    def met(self, target_bytes):
        """Return what a target comes to: one between two pages is met with the next page."""
        return -(-target_bytes // self.page_bytes) * self.page_bytes

    def resize(self, inflated_bytes, timeout=180):
        """Ask for a balloon of that size, and wait until it is met."""
        self.guest.inflate(inflated_bytes)
        self.wait_met(inflated_bytes, timeout)

    def wait_met(self, target_bytes, timeout=120):
        """Wait until a target is met, and compare all who count it."""
        self.guest.wait_inflated(self.met(target_bytes), timeout)
        self.check_counts(self.met(target_bytes))

    def check_counts(self, inflated_bytes):
        """Host, driver and the guest's own MemTotal agree to the frame."""
        assert self.guest.inflated_bytes() == inflated_bytes
        # `actual` is told before the pages in flight are all accounted for, so wait
        self.guest.wait_for(lambda: int(self.attr("held_bytes")) == inflated_bytes, 60,
                            lambda: f"held_bytes {self.attr('held_bytes')} to be {inflated_bytes}")
        total_kb = self.guest.meminfo()["MemTotal"]
        fallen = 0 if 2 in self.features() else inflated_bytes // 1024
        assert self.base_total_kb - total_kb == fallen


class Lab:
    """Boots guests, keeps the last few, and throws away those in which a test failed."""

    def __init__(self, kernel, patience):
        self.defaults = {"kernel": kernel, "patience": patience, "mem_mib": 1024,
                         "balloon_opts": ALL_FEATURES, "module": "vballoon"}
        self._guests = {}

    def guest(self, **options):
        """Return a running guest with these options, without a balloon driver loaded."""
        key = repr(sorted(options.items()))
        guest = self._guests.pop(key, None)
        if guest is None or not guest.alive:
            while len(self._guests) >= MAX_GUESTS:
                self._guests.pop(next(iter(self._guests))).close()
            guest = self.fresh(**options)
            guest.start()
            guest.wait_boot()
        self._guests[key] = guest
        return guest

    def fresh(self, **options):
        """Return a guest of one test's own, not started."""
        options = {**self.defaults, **options}
        if options["kernel"] and Kernel.find(options["kernel"]).root is None:
            options["mem_mib"] += debug_mib(options["mem_mib"])
        return Guest(**options)

    def drop(self, guest):
        """Close a guest whose state is not to be trusted any more."""
        self._guests = {key: other for key, other in self._guests.items() if other != guest}
        guest.close()

    def close(self):
        """Close all guests."""
        for guest in self._guests.values():
            guest.close()

    @contextlib.contextmanager
    def loaded(self, guest, params="", target_bytes=0, allow=None):
        """Load vballoon, hand out a Balloon, unload it, and see that nothing is left behind."""
        try:
            guest.inflate(target_bytes)
            before_kb = memory(guest)
            guest.insmod(params)
            balloon = Balloon(guest, before_kb["total"])
            yield balloon
            guest.run("[ ! -e /sys/module/vballoon ] || rmmod vballoon", 300)
            check_unloaded(guest, before_kb)
            guest.inflate(0)
            guest.check_clean(allow)
        except BaseException:
            self.drop(guest)
            raise


def memory(guest):
    """What check_unloaded() compares, before the module is loaded."""
    return {"total": guest.meminfo()["MemTotal"], "free": guest.free_kb()}


def check_unloaded(guest, before_kb):
    """After rmmod the guest has its memory again and the host knows."""
    assert "vballoon" not in guest.check("cat /proc/modules")
    assert guest.meminfo()["MemTotal"] == before_kb["total"]
    assert guest.inflated_bytes() == 0
    # what else happens in a guest moves this by a few MiB
    slack_kb = 8 * 1024 + guest.quarantine_kb
    guest.wait_for(lambda: guest.free_kb() > before_kb["free"] - slack_kb, 60,
                   lambda: f"free memory to come back: {memory(guest)} from {before_kb}")


@pytest.fixture(scope="session")
def lab(request):
    """The session's guests."""
    kernel = request.config.getoption("--kernel")
    patience = request.config.getoption("--patience") or (4 if kernel else 1)
    lab = Lab(kernel, patience)
    yield lab
    lab.close()


@pytest.fixture(scope="session")
def debug_kernel(request):
    """The kernel that makes allocations fail, knows of those that nobody frees, and has CMA."""
    if request.config.getoption("--kernel"):
        return request.config.getoption("--kernel")
    return subprocess.run([TESTS / "run/testkernel", "debug"], check=True, text=True,
                          stdout=subprocess.PIPE).stdout.strip()


@pytest.fixture
def guest(lab):
    """The guest that most tests share: every feature that QEMU has is offered."""
    return lab.guest()
