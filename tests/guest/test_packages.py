# SPDX-License-Identifier: GPL-2.0-only
"""Installing, taking over and removing: in a Debian tree, in an initramfs, in a guest."""

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import FRAME, MIB

REPO = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPO / "tests/lib"))

from vbalguest import Guest, Kernel, build_module  # noqa: E402
from vbalguest.cache import cache_dir  # noqa: E402
from vbalguest.image import build_image  # noqa: E402
from vbalguest.kernels import tool  # noqa: E402
from vbaltree import Tree, build_debs, own_suite, version_key  # noqa: E402

ALIAS = "virtio:d00000005v00001AF4"
SIZE = 100 * MIB + 5 * FRAME
NEXT_VERSION = "9.9.9"
BOTH = ["vballoon", "virtio_balloon"]
# What installing anything at all changes.
NOISE = re.compile(r"/(var/log|var/cache|var/lib/apt|var/lib/dpkg|tmp|proc|boot/initrd|vballoon)"
                   r"|/modules\.[a-z.]+$|__pycache__")

pytestmark = pytest.mark.stock


class DebianSystem:
    """A Debian with the stock kernel, its headers and DKMS, in a folder."""

    def __init__(self):
        suite = own_suite()
        path = cache_dir("trees") / f"{suite}-packages"
        self.tree = Tree(suite, path=path).make(
            "linux-image-amd64", "linux-headers-amd64", "dkms", "initramfs-tools", "udev", "kmod",
            "busybox", "zstd", "python3-rich")
        releases = [folder.name for folder in (path / "lib/modules").iterdir()]
        self.release = sorted(releases, key=version_key)[-1]
        self.run("sh", "-c", "apt-get purge -q -y vballoon-dkms balloonctl; true")

    def run(self, *command):
        """Run a command in it; return what it printed."""
        return self.tree.run(*command).stdout

    def install(self, deb, *options):
        """Install a package file."""
        shutil.copy(deb, self.tree.path / "tmp")
        self.run("apt-get", "install", "-q", "-y", "--no-install-recommends", *options,
                 f"/tmp/{deb.name}")

    def drivers(self):
        """Return the balloon drivers that udev would load, in order: the first has the device."""
        said = self.run("modprobe", "-S", self.release, "--use-blacklist", "--dry-run",
                        "--verbose", ALIAS)
        return list(dict.fromkeys(re.findall(r"/(\w*balloon)\.ko", said)))

    def modules(self):
        """Return the installed files of our module."""
        return sorted((self.tree.path / "usr/lib/modules").glob("*/updates/**/vballoon.ko*"))

    def files(self):
        """Return the names of all files that matter."""
        names = self.run("find", "/", "-xdev", "!", "-type", "d").splitlines()
        return {name for name in names if not NOISE.search(name)}


@pytest.fixture(scope="module", name="system")
def fixture_system():
    return DebianSystem()


@pytest.fixture(scope="module", name="debs")
def fixture_debs():
    return build_debs(REPO)


def copy_repo(target, version=None):
    """Copy the sources, with another version if one is given."""
    shutil.copytree(REPO, target, symlinks=True, ignore=shutil.ignore_patterns(
        ".git", "out", "__pycache__", "*.o", "*.ko", "*.cmd"))
    if version:
        old = (target / "VERSION").read_text("ascii").strip()
        (target / "VERSION").write_text(f"{version}\n", "ascii")
        changelog = target / "debian/changelog"
        changelog.write_text(changelog.read_text("utf-8").replace(f"({old})", f"({version})", 1),
                             "utf-8")
    return target


def test_package_hands_the_device_over_and_back(system, debs, tmp_path):
    version = (REPO / "VERSION").read_text("ascii").strip()
    before = system.files()
    assert system.drivers() == ["virtio_balloon"]

    system.install(debs["vballoon-dkms"])
    assert system.drivers() == BOTH
    assert f"vballoon/{version}, {system.release}" in system.run("dkms", "status")
    assert len(system.modules()) == 1
    wanted = system.tree.path / "lib/systemd/system/timers.target.wants"
    assert (wanted / "vballoon-metrics.timer").exists()
    assert "usage" in system.run("/usr/libexec/vballoon/vballoon-metrics", "--help")

    newer = build_debs(copy_repo(tmp_path / "newer", NEXT_VERSION))
    system.install(newer["vballoon-dkms"])
    status = system.run("dkms", "status")
    assert f"vballoon/{NEXT_VERSION}, {system.release}" in status
    assert f"vballoon/{version}" not in status
    assert system.run("modinfo", "-k", system.release, "-F", "version",
                      "vballoon").strip() == NEXT_VERSION
    assert system.drivers() == BOTH

    # what udev does for a kernel that DKMS could not build for
    system.run("dkms", "uninstall", "-m", "vballoon", "-v", NEXT_VERSION, "-k", system.release)
    assert system.drivers() == ["virtio_balloon"]

    # back, which is an installation like any other
    system.install(debs["vballoon-dkms"], "--allow-downgrades")
    assert system.drivers() == BOTH
    assert system.run("modinfo", "-k", system.release, "-F", "version",
                      "vballoon").strip() == version

    # not purged: a plain removal has to be enough
    system.run("apt-get", "remove", "-q", "-y", "vballoon-dkms")
    assert system.drivers() == ["virtio_balloon"]
    assert system.files() == before


def test_dkms_script_leaves_nothing_behind(system):
    before = system.files()
    target = system.tree.path / "vballoon"
    shutil.rmtree(target, ignore_errors=True)
    copy_repo(target)
    system.run("/vballoon/scripts/dkms", "install")
    assert system.drivers() == BOTH
    assert len(system.modules()) == 1
    # once more: installing over itself is no error
    system.run("/vballoon/scripts/dkms", "install")
    system.run("/vballoon/scripts/dkms", "remove")
    shutil.rmtree(target)
    assert system.drivers() == ["virtio_balloon"]
    assert system.files() == before


class InitramfsShell:
    """The shell of Debian's initramfs, which its init starts on the console for break=."""

    def __init__(self, path):
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX)

    def arguments(self):
        """Return the arguments for QEMU: hvc0, as ttyS0 only writes to the guest's log."""
        return ["-chardev", f"socket,id=shell,server=on,wait=off,path={self.path}",
                "-device", "virtio-serial-pci", "-device", "virtconsole,chardev=shell"]

    def connect(self, timeout):
        """Connect; what the guest says earlier is lost. The limit is for each answer."""
        self._socket.settimeout(timeout)
        self._socket.connect(str(self.path))

    def close(self):
        """Hang up."""
        self._socket.close()

    def read_until(self, pattern):
        """Return the match of a pattern in what the shell says from here on."""
        said = ""
        while not (match := re.search(pattern, said, re.DOTALL)):
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError:
                data = b""
            assert data, f"the initramfs says no more; it said: {said}"
            said += data.decode(errors="replace").replace("\r", "")
        return match

    def send(self, command):
        """Type a line."""
        self._socket.sendall(f"{command}\n".encode())

    def check(self, command):
        """Run a command that must succeed; return its output."""
        # in two words, so that the echo of the command is none of its output
        self.send(f"echo BE''GIN; {command}; echo E''ND $?")
        match = self.read_until(r"BEGIN\n(.*)END (\d+)\n")
        assert match[2] == "0", f"'{command}' failed in the initramfs: {match[1]}"
        return match[1]


def make_root_disk(folder):
    """Make a file system with our test guest's init and agent; return its file."""
    root = folder / "root"
    (root / "run").mkdir(parents=True)
    with open(build_image([], [], {}), "rb") as archive:
        subprocess.run(["cpio", "--quiet", "-i", "-d"], stdin=archive, cwd=root, check=True)
    disk = folder / "root.ext4"
    subprocess.run([tool("mke2fs", "e2fsprogs"), "-q", "-t", "ext4", "-d", root, disk, "32M"],
                   check=True)
    return disk


def test_early_inflation_in_an_initramfs(system, debs, tmp_path):
    """As documented: the balloon has its size before the root file system is mounted.

    Only virtio_balloon is asked for; the file in modprobe.d brings vballoon, and before it.
    """
    listed = system.tree.path / "etc/initramfs-tools/modules"
    initrd = f"/boot/initrd.img-{system.release}"
    shell = InitramfsShell(tmp_path / "shell")
    kernel = Kernel(system.tree.path / f"boot/vmlinuz-{system.release}", system.release,
                    system.tree.path)
    # panic= without a number: with one, this initramfs has no shell
    guest = Guest(mem_mib=1024, kernel=kernel, module=None,
                  append="console=hvc0 break=mount panic= root=/dev/vda rw init=/init",
                  extra_qemu=["-S", "-initrd", str(system.tree.path / initrd.lstrip("/")),
                              "-drive", "if=none,id=root,format=raw,cache=unsafe,"
                              f"file={make_root_disk(tmp_path)}",
                              "-device", "virtio-blk-pci,drive=root", *shell.arguments()])
    try:
        listed.write_text("virtio_console\n", "ascii")
        system.install(debs["vballoon-dkms"])
        system.run("sh", "-c", "echo virtio_balloon >> /etc/initramfs-tools/modules")
        system.run("update-initramfs", "-c", "-k", system.release)
        assert balloon_files(system, initrd) == {
            "vballoon.ko", "virtio_balloon.ko", "modprobe.d/vballoon.conf"}

        guest.start()
        guest.inflate(SIZE)
        shell.connect(timeout=300)
        guest.qmp("cont")
        shell.read_until(r"\(initramfs\) ")
        guest.wait_inflated(SIZE, 300)
        assert "/dev/vda" not in shell.check("cat /proc/mounts")
        assert owner(shell) == "vballoon"

        shell.send("exit")
        guest.wait_boot()
        assert "/dev/vda / ext4" in guest.check("cat /proc/mounts")
        assert owner(guest) == "vballoon"
        assert guest.inflated_bytes() == SIZE
        guest.check_clean()

        # the line in the list stays, and does no harm
        system.run("apt-get", "purge", "-q", "-y", "vballoon-dkms")
        assert balloon_files(system, initrd) == {"virtio_balloon.ko"}
    finally:
        guest.close()
        shell.close()
        listed.write_text("", "ascii")
        system.run("update-initramfs", "-d", "-k", system.release)
        system.run("dpkg", "--purge", "vballoon-dkms")


def balloon_files(system, initrd):
    """What of balloon drivers an initramfs holds. Debian 13 compresses modules."""
    return set(re.findall(r"((?:modprobe\.d/)?\w*balloon\.(?:ko|conf))(?:\.xz)?$",
                          system.run("lsinitramfs", initrd), re.MULTILINE))


def test_balloonctl_package(system, debs):
    system.install(debs["balloonctl"])
    assert "usage" in system.run("balloonctl", "--help").lower()
    for name in ("man/man1/balloonctl.1.gz", "bash-completion/completions/balloonctl",
                 "zsh/vendor-completions/_balloonctl"):
        assert (system.tree.path / "usr/share" / name).exists()
    sources = REPO / "host/ballooncontrol"
    installed = system.tree.path / "usr/share/balloonctl/ballooncontrol"
    assert ({path.relative_to(installed) for path in installed.rglob("*.py")}
            == {path.relative_to(sources) for path in sources.rglob("*.py")})
    # the service is there, and off
    assert "balance" in system.run("balloonctl", "balance", "--help")
    assert list(system.tree.path.glob("*/systemd/system/balloonctl-balance.service"))
    assert not list(system.tree.path.glob("etc/systemd/system/*/balloonctl-balance.service"))
    assert "_balloonctl" in system.run("cat", "/etc/passwd")
    assert "listen" in system.run("balloonctl", "export", "--help")
    assert list(system.tree.path.glob("*/systemd/system/balloonctl-export.service"))
    assert not list(system.tree.path.glob("etc/systemd/system/*/balloonctl-export.service"))
    system.run("apt-get", "remove", "-q", "-y", "balloonctl")
    assert not (system.tree.path / "usr/share/balloonctl").exists()


def test_install_script_leaves_nothing_behind(tmp_path):
    kernel = Kernel.stock()
    for folder in ("modprobe.d", "systemd", "scripts"):
        shutil.copytree(REPO / folder, tmp_path / "repo" / folder)
    shutil.copy(build_module(kernel), tmp_path / "repo")
    stage = tmp_path / "stage"
    stage.mkdir()
    command = tmp_path / "repo/scripts/install"
    environment = {**os.environ, "DESTDIR": str(stage)}

    subprocess.run([command, kernel.kdir], env=environment, check=True)
    assert (stage / f"lib/modules/{kernel.release}/updates/vballoon.ko").exists()
    assert "softdep virtio_balloon" in (stage / "etc/modprobe.d/vballoon.conf").read_text()
    unit = stage / "etc/systemd/system/vballoon.service"
    program = re.search(r"^ExecStart=(\S+)", unit.read_text("ascii"), re.MULTILINE)[1]
    assert os.access(stage / program.lstrip("/"), os.X_OK)
    subprocess.run([command, "--remove"], env=environment, check=True)
    assert not [path for path in stage.rglob("*") if path.is_file() or path.is_symlink()]


def test_install_script_refuses_a_module_of_another_kernel(tmp_path):
    kernel = Kernel.stock()
    (tmp_path / "repo/scripts").mkdir(parents=True)
    shutil.copy(REPO / "scripts/install", tmp_path / "repo/scripts")
    shutil.copy(build_module(kernel), tmp_path / "repo")
    header = tmp_path / "kdir/include/generated/utsrelease.h"
    header.parent.mkdir(parents=True)
    header.write_text('#define UTS_RELEASE "6.99.0"\n', "ascii")
    result = subprocess.run([tmp_path / "repo/scripts/install", tmp_path / "kdir"], text=True,
                            env={**os.environ, "DESTDIR": str(tmp_path / "stage")},
                            capture_output=True, check=False)
    assert result.returncode
    assert f"built for {kernel.release}, not for 6.99.0" in result.stderr
    assert not (tmp_path / "stage").exists()


def owner(guest):
    """The driver that has the balloon, asked of a guest or of a shell in it."""
    return guest.check("for d in /sys/bus/virtio/devices/*; do "
                       '[ "$(cat $d/device)" = 0x0005 ] && basename $(readlink $d/driver); done; '
                       "true").strip()


def test_take_over_a_running_guest_and_back():
    files = {"bin/takeover": REPO / "scripts/takeover", "modules/vballoon.ko": build_module()}
    with Guest(mem_mib=512, module="virtio_balloon", files=files) as guest:
        guest.inflate(SIZE)
        guest.wait_inflated(SIZE)
        assert owner(guest) == "virtio_balloon"
        for new, old in (("vballoon", "virtio_balloon"), ("virtio_balloon", "vballoon")) * 2:
            said = guest.check(f"takeover {new} /modules/{new}.ko", 300)
            assert f"from {old} to {new}" in said
            assert owner(guest) == new
            assert old not in guest.check("cat /proc/modules").split()
            # the host's target is honoured again, without the host saying it again
            guest.wait_inflated(SIZE)
        assert "already" in guest.check("takeover virtio_balloon /modules/virtio_balloon.ko")
        guest.check_clean()


def test_takeover_without_a_module_changes_nothing(tmp_path):
    """Not even for a moment: the balloon is not emptied before the other driver is loaded."""
    cut = tmp_path / "cut.ko"
    cut.write_bytes(build_module().read_bytes()[:4096])
    files = {"bin/takeover": REPO / "scripts/takeover", "modules/cut.ko": cut}
    with Guest(mem_mib=512, module="virtio_balloon", files=files) as guest:
        guest.inflate(SIZE)
        guest.wait_inflated(SIZE)
        nr_deflated = guest.vmstat()["balloon_deflate"]
        for module in ("none", "cut"):
            status, said = guest.run(f"takeover vballoon /modules/{module}.ko")
            assert status
            assert "stays as it is" in said
            assert owner(guest) == "virtio_balloon"
        assert guest.inflated_bytes() == SIZE
        assert guest.vmstat()["balloon_deflate"] == nr_deflated


def test_removal_in_a_chroot_leaves_the_machines_balloon_alone():
    files = {f"repo/scripts/{name}": REPO / "scripts" / name for name in ("boot-files", "takeover")}
    with Guest(mem_mib=512, files=files) as guest:
        # loaded and idle, it would take the device at once
        guest.check("insmod /modules/virtio_balloon.ko")
        guest.check("mkdir /tree && cp -a /bin /repo /tree && mkdir /tree/sys /tree/proc && "
                    "mount --bind /sys /tree/sys && mount --bind /proc /tree/proc")
        guest.check("chroot /tree /bin/sh /repo/scripts/boot-files remove")
        assert owner(guest) == "vballoon"
        guest.check("sh /repo/scripts/boot-files remove")
        assert owner(guest) == "virtio_balloon"
