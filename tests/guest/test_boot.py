# SPDX-License-Identifier: GPL-2.0-only
"""Never without a balloon: who has it after a boot, with systemd and Debian's own kernel."""

import re
import sys
from pathlib import Path

import pytest
from conftest import FRAME, MIB

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests/lib"))

from vbaldisk import DRACUT, EARLY, STALE, UNBUILT, Debian, DebianGuest  # noqa: E402
from vbalsecureboot import SecureBootGuest  # noqa: E402
from vbaltree import build_debs  # noqa: E402

SIZE = 100 * MIB + 5 * FRAME
UNIT = "vballoon.service"
TAKEOVER = "/usr/libexec/vballoon/takeover"
PASSWORD = "balloon"
ENFORCED = "module.sig_enforce=1"
# The last thing in a module that is signed, without which it is not.
SIGNATURE_MARK = "~Module signature appended~\n"

pytestmark = pytest.mark.stock


@pytest.fixture(scope="module", name="debian")
def fixture_debian():
    return Debian(build_debs(REPO)["vballoon-dkms"])


def boot(debian, guest=DebianGuest, **options):
    """Return a guest to be used in a with statement. Booting is much to emulate: no hurry.

    With two processors QEMU 7.2 once hung in both of them at early user space, for ever.
    """
    return guest(debian=debian, mem_mib=768, smp=1, patience=4, **options)


def modules(guest):
    """The balloon drivers that are loaded."""
    return {line.split()[0] for line in guest.check("cat /proc/modules").splitlines()
            if "balloon" in line.split()[0]}


def check_works(guest, driver):
    """That driver has the balloon, and it follows the host."""
    assert guest.owner() == driver
    for size in (SIZE, 0):
        guest.inflate(size)
        guest.wait_inflated(size, 300)
    guest.check_clean()


def test_boots_with_vballoon_and_a_purge_hands_the_balloon_back_at_once(debian):
    with boot(debian) as guest:
        assert guest.failed_units() == set()
        assert modules(guest) == {"vballoon"}
        check_works(guest, "vballoon")
        guest.inflate(SIZE)
        guest.wait_inflated(SIZE, 300)
        guest.check("apt-get purge -q -y vballoon-dkms", 900)
        assert guest.owner() == "virtio_balloon"
        assert modules(guest) == {"virtio_balloon"}
        # the host's target counts, without the host saying it again
        guest.wait_inflated(SIZE, 300)
        check_works(guest, "virtio_balloon")

        guest.reboot()
        assert modules(guest) == {"virtio_balloon"}
        check_works(guest, "virtio_balloon")


def test_boots_with_virtio_balloon_when_dkms_built_nothing_for_this_kernel(debian):
    with boot(debian, disk=UNBUILT) as guest:
        assert guest.failed_units() == {UNIT}
        assert modules(guest) == {"virtio_balloon"}
        check_works(guest, "virtio_balloon")


def test_boots_with_virtio_balloon_when_the_kernel_refuses_the_signature(debian):
    with boot(debian, append=ENFORCED) as guest:
        assert guest.failed_units() == {UNIT}
        assert "Loading of module with unavailable key is rejected" in guest.dmesg()
        assert modules(guest) == {"virtio_balloon"}
        check_works(guest, "virtio_balloon")

        # not signed by anybody
        guest.check(f"truncate -s -{len(SIGNATURE_MARK)} $(modinfo -n vballoon)")
        status, said = guest.run(f"{TAKEOVER} vballoon")
        assert status
        assert "stays as it is" in said
        # Debian 13's dkms signs by itself, with a key that nobody has enrolled
        assert re.search("Loading of (unsigned module|module with unavailable key) is rejected",
                         guest.dmesg())
        check_works(guest, "virtio_balloon")


@pytest.mark.long
def test_takes_over_from_an_initramfs_that_is_older_than_the_package(debian):
    """As where virtio_balloon is built in: it has the device before vballoon can be loaded."""
    with boot(debian, initramfs=STALE) as guest:
        assert "virtio_balloon.ko" in names(debian, STALE)
        assert "vballoon.ko" not in names(debian, STALE)
        assert guest.failed_units() == set()
        assert modules(guest) == {"vballoon"}
        check_works(guest, "vballoon")


def names(debian, kind):
    """The names of the files in an initramfs, without folders and compression."""
    return {Path(name).name.removesuffix(".xz") for name in debian.initramfs_files(kind)}


@pytest.mark.long
def test_a_parameter_that_is_refused_leaves_virtio_balloon(debian):
    with boot(debian, append="vballoon.transfer=pigeon") as guest:
        assert guest.failed_units() == {UNIT}
        check_works(guest, "virtio_balloon")


@pytest.mark.long
@pytest.mark.parametrize("kind", [EARLY, DRACUT])
def test_initramfs_has_both_drivers_and_vballoon_comes_first(debian, kind):
    assert {"vballoon.ko", "virtio_balloon.ko", "vballoon.conf"} <= names(debian, kind)
    with boot(debian, initramfs=kind) as guest:
        log = guest.dmesg()
        assert 0 < log.index("vballoon") < log.index("EXT4-fs (vda): mounted")
        assert guest.failed_units() == set()
        check_works(guest, "vballoon")


@pytest.mark.long
@pytest.mark.parametrize("kind", [EARLY, DRACUT])
def test_initramfs_gives_the_balloon_to_virtio_balloon_when_vballoon_is_refused(debian, kind):
    with boot(debian, initramfs=kind, append=ENFORCED) as guest:
        log = guest.dmesg()
        assert log.index("unavailable key is rejected") < log.index("EXT4-fs (vda): mounted")
        assert guest.failed_units() == {UNIT}
        check_works(guest, "virtio_balloon")


@pytest.mark.long
def test_secure_boot_takes_the_module_once_dkms_key_is_enrolled(debian, tmp_path):
    """As docs/install.md has it, with the module as DKMS built and signed it."""
    with boot(debian, guest=SecureBootGuest, folder=tmp_path) as guest:
        assert "SecureBoot enabled" in guest.check("mokutil --sb-state")
        assert guest.failed_units() == {UNIT}
        check_works(guest, "virtio_balloon")

        guest.check(f"mokutil --generate-hash={PASSWORD} >/tmp/hash && "
                    "mokutil --import /var/lib/dkms/mok.pub --hash-file /tmp/hash")
        guest.reboot_and_enroll(PASSWORD)
        assert "SecureBoot enabled" in guest.check("mokutil --sb-state")
        assert "DKMS module signing key" in guest.check("modinfo -F signer vballoon")
        assert guest.failed_units() == set()
        check_works(guest, "vballoon")
