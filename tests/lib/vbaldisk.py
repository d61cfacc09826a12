# SPDX-License-Identifier: GPL-2.0-only
"""Disks with a Debian on them, and guests that boot one: its own kernel, initramfs, systemd.

A disk is made from a Debian tree (vbaltree.py) with vballoon-dkms installed, once for each state
of the package and of the tree. Each guest has a copy, which is gone with it.
"""

import os
import shutil
import subprocess
import tempfile

from vbalguest import Guest, GuestError, Kernel
from vbalguest.cache import cache_dir, drop_old, file_hash, hash_of, locked
from vbalguest.image import ROOTFS
from vbalguest.kernels import tool
from vbaltree import Tree, own_suite, version_key

PACKAGES = ("systemd-sysv", "udev", "kmod", "linux-image-amd64", "linux-headers-amd64", "dkms",
            "openssl", "initramfs-tools", "dracut-core", "zstd", "mokutil")
DISK_BYTES = 3 << 30
LABEL = "debian"
# What no guest of ours reads; nothing is compiled there.
LEFT_OUT = ("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/include", "usr/lib/gcc",
            "usr/src/linux-headers-*", "var/cache/apt", "var/lib/apt/lists", "usr/sbin/policy-rc.d")
MASKED = ("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "fstrim.timer",
          "e2scrub_all.timer", "e2scrub_reap.service", "getty@tty1.service",
          "serial-getty@ttyS0.service")
AGENT = "/usr/local/sbin/vbal-agent"
AGENT_PORT = "/dev/ttyS1"
AGENT_UNIT = f"""[Unit]
Description=Commands of the host

[Service]
ExecStart=/bin/sh -c 'stty raw -echo <{AGENT_PORT}; exec {AGENT} 0<>{AGENT_PORT} 1>&0'
"""
# What the guest needs to mount its root, and no more: emulated guests are slow to unpack.
INITRAMFS_MODULES = ("virtio_pci", "virtio_blk", "ext4")
FILES = {
    "etc/hostname": "guest\n",
    "etc/machine-id": "c0ffee00c0ffee00c0ffee00c0ffee00\n",
    # emulated, that takes minutes; initramfs tests make theirs in the tree
    "etc/initramfs-tools/update-initramfs.conf": "update_initramfs=no\n",
    "etc/systemd/system/vbal-agent.service": AGENT_UNIT,
}
# The states in which a disk or an initramfs can be had.
BUILT, UNBUILT = "built", "unbuilt"
PLAIN, EARLY, STALE, DRACUT = "plain", "early", "stale", "dracut"


class Debian:
    """The tree that disks are made from, and its disks and initramfs, in the cache."""

    def __init__(self, deb):
        suite = own_suite()
        self.tree = Tree(suite, path=cache_dir("trees") / f"{suite}-boot").make(*PACKAGES)
        releases = [folder.name for folder in (self.tree.path / "lib/modules").iterdir()]
        self.release = sorted(releases, key=version_key)[-1]
        self.deb = deb
        self.folder = self._folder()

    def _folder(self):
        status = self.tree.run("dpkg-query", "-W", "-f", "${Package} ${Version}\\n").stdout
        versions = [line for line in status.splitlines() if not line.startswith("vballoon")]
        key = hash_of([*versions, *(file_hash(path) for path in
                                    (__file__, ROOTFS / "agent", self.deb))])
        folder = cache_dir("disk") / key
        folder.mkdir(exist_ok=True)
        os.utime(folder)
        drop_old(folder.parent, folder)
        return folder

    def kernel(self):
        """Return its kernel, which stays when the tree gets a newer one."""
        path = self._made("vmlinuz", lambda partial: shutil.copy(
            self.tree.path / f"boot/vmlinuz-{self.release}", partial))
        return Kernel(path, self.release, self.tree.path)

    def disk(self, state=BUILT):
        """Return a disk: with the module, or as when DKMS could not build for this kernel."""
        return self._made(f"{state}.ext4", lambda partial: self._make_disk(partial, state))

    def initramfs(self, kind=PLAIN):
        """Return an initramfs.

        plain: no balloon driver is in it. early: by docs/install.md, both are. stale: made
        before the package came, with virtio_balloon. dracut: as early, by dracut.
        """
        with_balloon = [*INITRAMFS_MODULES, "virtio_balloon"]
        make = {PLAIN: lambda partial: self._mkinitramfs(partial, INITRAMFS_MODULES),
                EARLY: lambda partial: self._mkinitramfs(partial, with_balloon),
                STALE: lambda partial: shutil.copy(self._stale(), partial),
                DRACUT: lambda partial: self._dracut(partial, with_balloon)}
        return self._made(f"initrd-{kind}", make[kind])

    def _made(self, name, make):
        path = self.folder / name
        with locked(self.tree.path.with_suffix(".boot-lock")):
            if not path.exists():
                self._install()
                partial = path.with_name(f"{name}.partial")
                make(partial)
                partial.rename(path)
        return path

    # The tree

    def _install(self):
        """Install the package; what has to be made without it is made before."""
        stamp = self.tree.path / "var/lib/vballoon-boot"
        state = f"{file_hash(self.deb)} {self.release}"
        if stamp.exists() and stamp.read_text("ascii") == state:
            return
        stamp.unlink(missing_ok=True)
        self.tree.run("dpkg", "--purge", "vballoon-dkms")
        self._mkinitramfs(self._stale(), [*INITRAMFS_MODULES, "virtio_balloon"])
        shutil.copy(self.deb, self.tree.path / "tmp/vballoon.deb")
        self.tree.run("apt-get", "install", "-q", "-y", "--no-install-recommends",
                      "/tmp/vballoon.deb")
        if "installed" not in self.tree.run("dkms", "status", "-k", self.release).stdout:
            raise GuestError(f"DKMS built no module for {self.release}")
        stamp.write_text(state, "ascii")

    def _stale(self):
        return self.tree.path / "var/lib/vballoon-stale-initrd"

    def _mkinitramfs(self, target, modules):
        settings = self.tree.path / "etc/initramfs-tools"
        (settings / "conf.d/boot").write_text("MODULES=list\n", "ascii")
        (settings / "modules").write_text("".join(f"{name}\n" for name in modules), "ascii")
        self.tree.run("mkinitramfs", "-o", "/tmp/initrd", self.release)
        shutil.move(self.tree.path / "tmp/initrd", target)

    def _dracut(self, target, modules):
        self.tree.run("dracut", "--no-hostonly", "--force", "--kver", self.release,
                      "--add-drivers", " ".join(modules), "/tmp/initrd")
        shutil.move(self.tree.path / "tmp/initrd", target)

    def initramfs_files(self, kind):
        """Return the names of the files in an initramfs."""
        shutil.copy(self.initramfs(kind), self.tree.path / "tmp/initrd")
        return self.tree.run("lsinitramfs", "/tmp/initrd").stdout.split()

    # The disk

    def _make_disk(self, target, state):
        root = self.folder / f"{state}.root"
        shutil.rmtree(root, ignore_errors=True)
        # links: nothing in it may be written to, only replaced
        subprocess.run(["cp", "-al", self.tree.path, root], check=True)
        for pattern in LEFT_OUT:
            for path in root.glob(pattern):
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for name, text in FILES.items():
            replace(root / name, text)
        replace(root / AGENT.lstrip("/"), (ROOTFS / "agent").read_text("ascii"), 0o755)
        units = root / "etc/systemd/system"
        for name in MASKED:
            (units / name).symlink_to("/dev/null")
        link = units / "multi-user.target.wants/vbal-agent.service"
        link.parent.mkdir(exist_ok=True)
        link.symlink_to("../vbal-agent.service")
        if state == UNBUILT:
            self._forget_module(root)
        with open(target, "wb") as stream:
            stream.truncate(DISK_BYTES)
        subprocess.run([tool("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-L", LABEL,
                        "-d", root, target], check=True)
        shutil.rmtree(root)

    def _forget_module(self, root):
        """DKMS knows the package, and has no module of it."""
        for path in (root / f"lib/modules/{self.release}/updates/dkms").glob("vballoon.ko*"):
            path.unlink()
        for path in (root / "var/lib/dkms/vballoon").glob(f"*/{self.release}"):
            shutil.rmtree(path)
        for path in (root / "var/lib/dkms/vballoon").glob("kernel-*"):
            path.unlink()
        subprocess.run([tool("depmod", "kmod"), "-b", root, self.release], check=True)


def replace(path, text, mode=0o644):
    """Write a file anew: what it was may have other names."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, "ascii")
    path.chmod(mode)


class DebianGuest(Guest):
    """A guest that boots such a disk, a copy of its own."""

    def __init__(self, debian, disk=BUILT, initramfs=PLAIN, append="", extra_qemu=(), **options):
        self._initramfs = debian.initramfs(initramfs)
        # not the guest's own folder, which goes at each shutdown
        self._disk = tempfile.NamedTemporaryFile(prefix="vballoon-disk-")
        subprocess.run(["cp", "--sparse=always", debian.disk(disk), self._disk.name], check=True)
        super().__init__(
            kernel=debian.kernel(), module=None, append=f"root=LABEL={LABEL} rw {append}",
            extra_qemu=extra_qemu, **options)
        self.add_disk(self._disk.name)

    def __exit__(self, *exception):
        super().__exit__(*exception)
        self._disk.close()

    def image(self):
        """Return its initramfs: Debian's, not ours."""
        return self._initramfs

    def wait_boot(self):
        """Wait until it takes commands and systemd has started all that it will."""
        super().wait_boot()
        # since Debian 13 systemd has started all before udev has looked at all devices
        self.check("udevadm settle --timeout=300", 360)
        self.run("systemctl is-system-running --wait", 300)

    def reboot(self):
        """Boot it once more, with the same kernel and initramfs."""
        self.begin("systemctl reboot")
        self.start_again()
        self.wait_boot()

    def start_again(self):
        """Wait until the machine is reset, which ends QEMU, and start it anew."""
        self.wait_exit(300)
        self.close()
        self.start()

    def owner(self):
        """Return the driver that has the balloon."""
        return self.check("for d in /sys/bus/virtio/devices/*; do "
                          '[ "$(cat $d/device)" = 0x0005 ] && basename $(readlink $d/driver); '
                          "done; true").strip()

    def failed_units(self):
        """Return the names of systemd's units that failed."""
        said = self.check("systemctl list-units --failed --plain --no-legend")
        return {line.split()[0] for line in said.splitlines()}
