# SPDX-License-Identifier: GPL-2.0-only
"""Debian trees: other releases of Debian in a folder, with their compilers and kernels.

A tree is made by debootstrap, in the cache, and entered by chroot. Nothing of it is
installed on this machine, and no service of it is ever started.
"""

import contextlib
import os
import platform
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

from vbalguest.arch import AMD64
from vbalguest.cache import cache_dir, locked
from vbalguest.errors import GuestError, Missing

NATIVE = AMD64.debian
UPDATE_SECONDS = 24 * 3600
# Mounts made for a command end with it: the namespace is its own.
ENTER = 'mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": "/root",
               "DEBIAN_FRONTEND": "noninteractive",
               # a tree never boots by itself: no initramfs for each of its kernels
               "INITRD": "No"}


def own_suite():
    """Return the Debian release of this machine; packages that are built here are for it."""
    return platform.freedesktop_os_release().get("VERSION_CODENAME", "bookworm")


class Tree:
    """A Debian release in a folder.

    foreign names other architectures to have packages of, backports those whose backports are
    wanted: a mirror may have some of them, and an index that is missing fails the whole update.
    """

    def __init__(self, suite, backports=(), path=None, foreign=()):
        self.suite = suite
        self.foreign = tuple(foreign)
        self.suites = {suite: (NATIVE, *self.foreign)}
        if backports:
            self.suites[f"{suite}-backports"] = tuple(backports)
        self.path = Path(path) if path else cache_dir("trees") / suite

    def make(self, *packages):
        """Make the tree if it is not there, and see that packages are in it."""
        if os.geteuid():
            raise GuestError("making a Debian tree needs root (chroot)")
        with locked(self.path.with_suffix(".lock")):
            if not self.path.exists():
                self._debootstrap()
            self._update()
            self._install(packages)
        return self

    def _debootstrap(self):
        debootstrap = shutil.which("debootstrap", path=f"{os.environ['PATH']}:/usr/sbin")
        if not debootstrap:
            raise Missing("debootstrap", "matrix")
        partial = self.path.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        log = self.path.with_suffix(".log")
        with open(log, "wb") as stream:
            result = subprocess.run([debootstrap, "--variant=minbase", self.suite, partial,
                                     mirror()], stdin=subprocess.DEVNULL, stdout=stream,
                                    stderr=subprocess.STDOUT, check=False)
        if result.returncode:
            raise GuestError(f"debootstrap {self.suite} failed, see {log}")
        (partial / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n", "ascii")
        (partial / "usr/sbin/policy-rc.d").chmod(0o755)
        partial.rename(self.path)

    def _update(self):
        sources = "".join(f"deb [arch={','.join(architectures)}] {mirror()} {suite} main\n"
                          for suite, architectures in self.suites.items())
        sources_list = self.path / "etc/apt/sources.list"
        stamp = self.path / "var/lib/apt/vballoon-stamp"
        with contextlib.suppress(OSError):
            if (sources_list.read_text("ascii") == sources
                    and time.time() - stamp.stat().st_mtime < UPDATE_SECONDS):
                return
        sources_list.write_text(sources, "ascii")
        for architecture in self.foreign:
            self.run("dpkg", "--add-architecture", architecture)
        if self.run("apt-get", "-q", "update", check=False).returncode == 0:
            stamp.touch()

    def _install(self, packages):
        status = self.run("dpkg-query", "-W", "-f",
                          "${Package}:${Architecture} ${db:Status-Status}\\n").stdout
        there = {re.sub(f":({NATIVE}|all)$", "", line.split()[0])
                 for line in status.splitlines() if line.endswith(" installed")}
        missing = [name for name in packages if name not in there]
        if missing:
            self.run("apt-get", "install", "-q", "-y", "--no-install-recommends",
                     "-t", list(self.suites)[-1], *missing)
            self.run("apt-get", "clean")

    def run(self, *command, check=True, env=None, cwd=None):
        """Run a command inside; return subprocess.CompletedProcess with its output."""
        command = [str(word) for word in command]
        if cwd:
            command = ["env", "-C", str(cwd), *command]
        result = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, str(self.path),
             *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace",
            env={**ENVIRONMENT, **(env or {})}, check=False)
        if check and result.returncode:
            raise GuestError(f"'{' '.join(command)}' failed in the {self.suite} tree:\n"
                             f"{result.stdout[-4000:]}")
        return result

    def unpack(self, package, architecture):
        """Bring a foreign package, as it is, and return the folder that it lies in.

        Installed it would need its architecture's libraries, or be in another one's way.
        """
        folder = Path("/foreign") / architecture
        self._unpack(package, architecture, folder)
        return self.path / folder.relative_to("/")

    def unpack_headers(self, release, architecture):
        """Bring a foreign kernel's headers, less its own architecture's compiler.

        They ask for one, and two gcc packages of one version cannot be installed together.
        """
        package = f"linux-headers-{release}"
        control = self.run("apt-cache", "show", f"{package}:{architecture}").stdout
        depends = re.search(r"^Depends:.*", control, re.MULTILINE)[0]
        with locked(self.path.with_suffix(".lock")):
            self._install(re.findall(r"\blinux-(?:headers|kbuild)-[^\s,]+", depends))
        self._unpack(package, architecture, Path("/"))

    def _unpack(self, package, architecture, folder):
        name = f"{package}:{architecture}"
        done = self.path / "foreign" / f"{name}.done"
        with locked(self.path.with_suffix(".lock")):
            if done.exists():
                return
            # tar keeps /lib a link where dpkg-deb -x would make a folder of it
            self.run("sh", "-e", "-c", f"mkdir -p {folder}\nrm -f {package}_*.deb\n"
                     f"apt-get download {name}\n"
                     f"dpkg-deb --fsys-tarfile {package}_*.deb | "
                     f"tar -x --keep-directory-symlink -C {folder}\n"
                     f"rm {package}_*.deb", cwd="/tmp")
            done.touch()

    def can_have(self, package, architecture):
        """True if a foreign package is here, or the mirror has it: some lag behind their index."""
        name = f"{package}:{architecture}"
        if (self.path / "foreign" / f"{name}.done").exists():
            return True
        address = re.search(r"^'(\S+)'", self.run("apt-get", "download", "--print-uris", name,
                                                  check=False).stdout, re.MULTILINE)
        if not address:
            return False
        try:
            with urllib.request.urlopen(urllib.request.Request(address[1], method="HEAD"),
                                        timeout=60):
                return True
        except OSError:
            return False

    def kernel_releases(self, flavour=NATIVE):
        """Return the releases whose headers and image this Debian has, oldest first."""
        names = self.run("apt-cache", "pkgnames", "linux-headers-").stdout.split()
        releases = [name.removeprefix("linux-headers-") for name in names
                    if re.fullmatch(rf"linux-headers-\d[\d.]+[^-]*(-\d+)?-{flavour}", name)]
        return sorted(releases, key=version_key)

    def program(self, name):
        """Return a command that runs a program of the tree outside of it."""
        libraries = self.path / "usr/lib/x86_64-linux-gnu"
        return [str(self.path / "lib64/ld-linux-x86-64.so.2"), "--library-path",
                f"{libraries}:{libraries}/pulseaudio", str(self.path / "usr/bin" / name)]


def build_debs(repo):
    """Build the packages of a source tree; return their files by package name."""
    result = subprocess.run([repo / "scripts/deb"], stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, check=False)
    if result.returncode:
        raise GuestError(f"{repo}/scripts/deb failed:\n{result.stdout}")
    names = re.findall(r"^out/(\S+\.deb)$", result.stdout, re.MULTILINE)
    return {name.split("_")[0]: repo / "out" / name for name in names}


def version_key(release):
    """Sort key: the numbers in a release string."""
    return [int(number) for number in re.findall(r"\d+", release)]


def mirror():
    """Return the Debian mirror that this machine's apt uses."""
    folder = Path("/etc/apt")
    for file in [folder / "sources.list", *sorted(folder.glob("sources.list.d/*"))]:
        text = file.read_text("utf-8") if file.exists() else ""
        match = (re.search(r"^URIs:\s*(\S+/debian/?)\s*$", text, re.MULTILINE)
                 or re.search(r"^deb\s+(?:\[.*?\]\s+)?(\S+/debian/?)\s", text, re.MULTILINE))
        if match:
            return match[1]
    raise GuestError("no Debian mirror in /etc/apt/sources.list or sources.list.d")
