# SPDX-License-Identifier: GPL-2.0-only
"""Kernels to boot, their modules, and vballoon.ko built for them."""

import bz2
import gzip
import lzma
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .arch import AMD64, ARM64, I386, PPC64EL, RISCV64, S390X, Arch
from .cache import cache_dir, drop_old, file_hash, hash_of, locked
from .errors import GuestError, Missing

REPO = Path(__file__).resolve().parents[3]
HOLD_REPORTS = Path(__file__).with_name("hold_reports")
STOCK_PATTERN = "vmlinuz-6.1*"
# Variables of our own Makefile that would mean something else to the kernel's.
MAKE_VARIABLES = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "K", "FILTER", "VERSION")


def tool(name, package):
    """Return the path of a program of this machine; sbin counts even for non-root."""
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not path:
        raise Missing(f"{name} (Debian package {package})")
    return path


@dataclass(frozen=True)
class Kernel:
    """A bootable kernel.

    root holds lib/modules/RELEASE ("/" for an installed kernel), or is None when
    all that a guest needs is built in; kdir is where external modules are built
    against.
    """

    image: Path
    release: str
    root: Path | None = None
    kdir: Path | None = None
    arch: Arch = AMD64

    @classmethod
    def stock(cls):
        """The newest Debian 6.1 kernel of /boot that has its headers installed."""
        images = sorted(Path("/boot").glob(STOCK_PATTERN), key=_version_key, reverse=True)
        for image in images:
            release = image.name.removeprefix("vmlinuz-")
            kdir = Path("/lib/modules") / release / "build"
            if (kdir / "Makefile").exists():
                return cls(image, release, Path("/"), kdir)
        if images:
            release = images[0].name.removeprefix("vmlinuz-")
            raise Missing(f"package linux-headers-{release} (headers of {images[0]})", "build")
        raise Missing(f"a Debian kernel image (/boot/{STOCK_PATTERN}, package linux-image-amd64)")

    @classmethod
    def from_build(cls, kdir):
        """A kernel built in a folder (make O=kdir), with its virtio drivers built in."""
        kdir = Path(kdir)
        image = kdir / "arch/x86/boot/bzImage"
        try:
            release = (kdir / "include/config/kernel.release").read_text("ascii").strip()
        except OSError as error:
            raise GuestError(f"{kdir} holds no built kernel: {error}") from error
        return cls(image, release, None, kdir)

    @classmethod
    def find(cls, kernel=None):
        """Turn None, a path of an image or build folder, or a Kernel into a Kernel."""
        if kernel is None:
            return cls.stock()
        if isinstance(kernel, cls):
            return kernel
        path = Path(kernel).resolve()
        if path.is_dir():
            return cls.from_build(path)
        if path.parts[-4:-1] == ("arch", "x86", "boot"):
            return cls.from_build(path.parents[3])
        arch, release = read_image(path)
        # an unpacked linux-image package has boot/ and lib/modules side by side
        for root in (path.parents[1], Path("/")):
            modules = root / "lib/modules" / release
            if modules.is_dir():
                kdir = modules / "build"
                return cls(path, release, root, kdir if kdir.is_dir() else None, arch)
        return cls(path, release, arch=arch)

    def exports(self, symbol):
        """True if modules for this kernel can use a symbol of it."""
        symbols = self.kdir / "Module.symvers" if self.kdir else None
        return bool(symbols and symbols.exists() and
                    re.search(rf"^\S+\t{symbol}\t", symbols.read_text("ascii"), re.MULTILINE))

    def module_files(self, names):
        """Return the files to load, in order, so that the named modules work.

        What the kernel has built in is left out.
        """
        if self.root is None:
            return _built_modules(self.kdir, names)
        folder = self.root / "lib/modules" / self.release
        if not (folder / "modules.dep.bin").exists():
            subprocess.run([tool("depmod", "kmod"), "-b", str(self.root), self.release],
                           check=True)
        files = []
        for name in names:
            command = [tool("modprobe", "kmod"), "-d", str(self.root), "-S", self.release,
                       "-C", "/dev/null", "--show-depends", name]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                raise GuestError(f"kernel {self.release} has no module {name}: "
                                 f"{result.stderr.strip()}")
            for line in result.stdout.splitlines():
                words = line.split()
                if words[0] == "insmod" and Path(words[1]) not in files:
                    files.append(Path(words[1]))
        return files


def _version_key(path):
    return [int(number) for number in re.findall(r"\d+", path.name)]


def _built_modules(kdir, names):
    if kdir is None:
        return []
    files = []
    for name in names:
        found = list(kdir.glob(f"drivers/*/{name}.ko"))
        files.extend(found[:1])
    return files


# Where a bzImage says whether its kernel has 64 bits.
XLOADFLAGS = 0x236
XLF_KERNEL_64 = 1
# What an image that is no bzImage has where, and before its release.
FOREIGN_IMAGES = (
    (0x38, b"ARM\x64", ARM64, rb"Linux version (\S+) \("),
    (0x38, b"RSC\x05", RISCV64, rb"Linux version (\S+) \("),
    # an ELF file for 64-bit PowerPC, little-endian
    (0, b"\x7fELF\x02\x01", PPC64EL, rb"Linux version (\S+) \("),
    # compressed; its loader tells
    (0x10008, b"S390EP", S390X, rb"(\d+\.\d+\.\d\S*) \([^()\0]+\) #\d"),
)


def read_image(path):
    """Return the architecture and the release of a kernel image."""
    try:
        image = Path(path).read_bytes()
    except OSError as error:
        raise GuestError(f"cannot read the kernel image {path}: {error.strerror}") from error
    if image[0x202:0x206] == b"HdrS":
        start = int.from_bytes(image[0x20e:0x210], "little") + 0x200
        arch = AMD64 if image[XLOADFLAGS] & XLF_KERNEL_64 else I386
        return arch, image[start:].split(b"\0", 1)[0].split()[0].decode()
    for offset, magic, arch, banner in FOREIGN_IMAGES:
        found = image.startswith(magic, offset) and re.search(banner, image)
        if found:
            return arch, found[1].decode()
    raise GuestError(f"{path} is no kernel image for amd64 and i386 (bzImage), arm64 and riscv64 "
                     "(Image), ppc64el (vmlinux) or s390x")


def module_content(path):
    """Return a module's bytes, unpacked: a guest has no tool for compressed ones."""
    data = path.read_bytes()
    unpack = {".gz": gzip.decompress, ".xz": lzma.decompress, ".bz2": bz2.decompress}
    if path.suffix in unpack:
        return unpack[path.suffix](data)
    if path.suffix == ".zst":
        return subprocess.run([tool("zstd", "zstd"), "-dc", str(path)], check=True,
                              capture_output=True).stdout
    return data


def driver_sources(repo=REPO):
    """Return the files that vballoon.ko is built from."""
    names = [repo / "Kbuild", repo / "VERSION"]
    names += sorted(repo.glob("balloon_*.c")) + sorted(repo.glob("include/*.h"))
    return names


def build_module(kernel=None, repo=REPO, extra_make=()):
    """Build vballoon.ko for a kernel, once for each state of the sources; return its path."""
    sources = {path.relative_to(repo): path for path in driver_sources(Path(repo))}
    if not any(name.suffix == ".c" for name in sources):
        raise GuestError(f"{repo} holds no driver sources (balloon_*.c)")
    return _built("vballoon", sources, Kernel.find(kernel), extra_make)


def hold_reports_sources():
    """Return the files that hold_reports.ko is built from."""
    return sorted(HOLD_REPORTS.iterdir())


def build_hold_reports(kernel):
    """Build what holds free page reporting back; None for a kernel that needs no module for it."""
    if not _there("hold_reports", kernel) and not kernel.exports("page_reporting_order"):
        return None
    return _built("hold_reports", {path.name: path for path in hold_reports_sources()}, kernel)


def _there(name, kernel):
    """Return what tests/run/matrix has built, with the compiler of that kernel's own Debian."""
    module = kernel.root and kernel.root / f"{name}.ko"
    return module if module and module.exists() else None


def _built(name, sources, kernel, extra_make=()):
    """Build a module, once for each state of its sources, a map of names to paths."""
    module = _there(name, kernel)
    if module:
        return module
    if kernel.kdir is None:
        raise Missing(f"package linux-headers-{kernel.release} (to build {name}.ko)", "build")
    key = hash_of([kernel.release, kernel.kdir, *extra_make]
                  + [f"{path} {file_hash(path)}" for path in sources.values()])
    top = cache_dir("module")
    folder = top / f"{kernel.release}-{key}"
    with locked(top / f"{key}.lock"):
        if not (folder / "done").exists():
            shutil.rmtree(folder, ignore_errors=True)
            for inside, path in sources.items():
                (folder / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, folder / inside)
            _make_module(name, kernel, folder, extra_make)
            (folder / "done").touch()
        os.utime(folder)
        drop_old(top, folder)
    return folder / f"{name}.ko"


def _make_module(name, kernel, folder, extra_make):
    environment = {variable: value for variable, value in os.environ.items()
                   if variable not in MAKE_VARIABLES}
    command = [tool("make", "make"), "-C", str(kernel.kdir), f"M={folder}", "W=1",
               *extra_make, "modules"]
    log = folder / "build.log"
    with open(log, "w", encoding="utf-8") as stream:
        result = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT,
                                stdin=subprocess.DEVNULL, env=environment, check=False)
    if result.returncode or not (folder / f"{name}.ko").exists():
        text = log.read_text("utf-8", errors="replace")
        raise GuestError(f"{name}.ko does not build for {kernel.release}:\n{text[-4000:]}")
