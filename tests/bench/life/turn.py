# SPDX-License-Identifier: GPL-2.0-only
"""One driver's turn in a row: its guest, and how that guest comes into use."""

import contextlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vbalguest import Guest, GuestError, Missing

from . import judge
from .seen import Watch, ended_badly

PROGRAM = Path(__file__).with_name("life.c")
BALLOON = "deflate-on-oom={},free-page-reporting=on"
MODULES = {judge.NONE: None, judge.IN_TREE: "virtio_balloon", judge.OURS: "vballoon"}
SWAP_MIB = 1024
# Swap is the first disk.
DISK = "/dev/vdb"
FILL_TIMEOUT = 900
CACHED_SHARE = 0.75


class LeftOut(Exception):
    """This guest cannot be had here; says why."""


@dataclass
class Options:
    """What the command line says about every row."""

    size_mib: int = 4096
    limit_seconds: float = 60
    window_seconds: float = 6
    kernel: Path | None = None
    params: str = ""
    program: Path | None = None
    environment: str = ""


@contextlib.contextmanager
def compiled():
    """Yield the path of the program that lives in the guests, compiled without libraries."""
    if not shutil.which("gcc"):
        raise Missing("gcc", "guest")
    with tempfile.TemporaryDirectory(prefix="vballoon-life-") as folder:
        program = Path(folder) / "life"
        result = subprocess.run(["gcc", "-O2", "-Wall", "-static", "-o", program, PROGRAM],
                                capture_output=True, text=True, check=False)
        if result.returncode:
            raise GuestError(f"{PROGRAM.name} does not compile: {result.stderr}")
        yield program


def blank_disk(mib):
    """Return QEMU's arguments for a disk of zeros that costs the host nothing to read.

    (A file would fill the host's own page cache meanwhile.)
    """
    return ["-drive", f"if=none,id=files,format=raw,file.driver=null-co,"
            f"file.size={mib << 20},file.read-zeroes=on",
            "-device", "virtio-blk-pci,drive=files"]


def environment_of(guest):
    """Say what figures were taken with."""
    version = guest.qmp("query-version")["qemu"]
    return (f"QEMU {version['major']}.{version['minor']} (`-accel {guest.accel.accel}`), guest "
            f"kernel {guest.kernel.release}, {guest.smp} virtual CPUs, free-page-reporting=on.")


class Turn:
    """A driver's turn."""

    def __init__(self, driver, options):
        self.driver = driver
        self.options = options
        self.guest = None
        self.watch = None
        self.curve = None
        self._keeper = None

    def run(self, row):
        """Live through a row; return its figures, or how it failed."""
        try:
            figures = row.run(self)
        except (LeftOut, Missing):
            raise
        except (GuestError, OSError) as error:
            return {"failed": ended_badly(error, self.guest), **self._curve()}
        finally:
            if self.guest:
                self.guest.close()
        return {"figures": {"mem_mib": self.guest.mem_mib, **figures}, **self._curve()}

    def _curve(self):
        return {"curve": self.curve.points} if self.curve else {}

    def boot(self, mem_mib, extra_qemu=(), deflate_on_oom="on", neighbour=True, **options):
        """Boot the guest with its driver; a neighbour allocates a little now and then."""
        self.guest = Guest(
            mem_mib=mem_mib, kernel=self.options.kernel, module=MODULES[self.driver],
            swap_mib=SWAP_MIB, balloon_opts=BALLOON.format(deflate_on_oom),
            extra_qemu=list(extra_qemu),
            files={"life": self.options.program}, name=f"life-{self.driver}", **options)
        self.guest.start()
        self.guest.wait_boot()
        # the guests that count are told of in their rows
        if not (self.guest.counts_instructions and self.options.environment):
            self.options.environment = environment_of(self.guest)
        if self.guest.module:
            self.guest.insmod(self.options.params if self.driver == judge.OURS else "")
        self.watch = Watch(self.guest)
        self.watch.trace_stalls()
        if neighbour:
            self.begin("/life neighbour")
        return self.guest

    def begin(self, command, output="/dev/null"):
        """Start a program in the guest and leave it alone; return its process id."""
        return int(self.guest.check(f"{command} </dev/null >{output} 2>&1 & echo $!"))

    def fill_cache(self, times):
        """Read all of the disk so often; see that it fills the memory."""
        if self._keeper is None:
            # a disk's pages go with the last one who has it open
            self._keeper = self.begin(f"sh -c 'exec sleep 100000 <{DISK}'")
        for _ in range(times):
            self.guest.check(f"dd if={DISK} of=/dev/null bs=1M 2>/dev/null", FILL_TIMEOUT)
        meminfo = self.guest.meminfo()
        cached = (meminfo["Buffers"] + meminfo["Cached"]) / meminfo["MemTotal"]
        if cached < CACHED_SHARE:
            raise GuestError(f"only {cached:.0%} of the guest's memory is page cache")

    def ask(self, target_mib):
        """Ask the guest down to that size; return the figures."""
        # counting instructions takes its time, which means nothing
        limit = FILL_TIMEOUT if self.guest.counts_instructions else self.options.limit_seconds
        figures, self.curve = self.watch.ask(target_mib, limit)
        return figures
