# SPDX-License-Identifier: GPL-2.0-only
"""What can be read on the host's side: QEMU's memory, its CPU time, its system calls."""

import contextlib
import ctypes
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

PR_SET_THP_DISABLE = 41
HUGE_PAGES = Path("/proc/sys/vm/nr_hugepages")
TRACED = ("virtio_queue_notify", "virtio_notify", "ram_block_discard_range")
SYSCALLS = ("madvise", "fallocate")


@contextlib.contextmanager
def transparent_huge_pages(wanted):
    """Start programs without transparent huge pages unless wanted; others keep theirs."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not wanted and libc.prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_THP_DISABLE)")
    try:
        yield
    finally:
        if not wanted:
            libc.prctl(PR_SET_THP_DISABLE, 0, 0, 0, 0)


@contextlib.contextmanager
def hugetlb_pages(count):
    """Reserve huge pages of 2 MiB; raise OSError if the host does not give them."""
    before = int(HUGE_PAGES.read_text("ascii")) if count else 0
    try:
        if count:
            HUGE_PAGES.write_text(f"{before + count}\n", "ascii")
            if int(HUGE_PAGES.read_text("ascii")) < before + count:
                raise OSError(f"the host does not give {count} huge pages")
        yield
    finally:
        if count:
            HUGE_PAGES.write_text(f"{before}\n", "ascii")


def meminfo_kb(name):
    """Return one value of the host's /proc/meminfo."""
    text = Path("/proc/meminfo").read_text("ascii")
    return int(re.search(rf"^{name}:\s+(\d+)", text, re.MULTILINE)[1])


class Qemu:
    """A running QEMU process."""

    def __init__(self, guest, trace_log):
        self._guest = guest
        self._proc = Path(f"/proc/{guest.qemu_pid}")
        self._trace_log = trace_log
        self._trace_at = 0

    def cpu_s(self):
        """Return the CPU time of all of QEMU's threads so far."""
        nanoseconds = 0
        for task in (self._proc / "task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                nanoseconds += int((task / "schedstat").read_text("ascii").split()[0])
        return nanoseconds / 1e9

    def forget_peak(self):
        """Let peak_kb() start from now."""
        (self._proc / "clear_refs").write_text("5", "ascii")

    def peak_kb(self):
        """Return the highest resident memory since forget_peak()."""
        text = (self._proc / "status").read_text("ascii")
        return int(re.search(r"^VmHWM:\s+(\d+)", text, re.MULTILINE)[1])

    def ram_kb(self):
        """Return what of the guest's RAM is resident, and how much of that is huge."""
        resident = huge = 0
        in_ram = False
        for line in (self._proc / "smaps").read_text("utf-8").splitlines():
            name, value = line.split()[:2]
            if name == "Size:":
                in_ram = int(value) >= self._guest.mem_mib * 1024
            elif in_ram and name in ("Rss:", "Shared_Hugetlb:", "Private_Hugetlb:"):
                resident += int(value)
            elif in_ram and name == "AnonHugePages:":
                huge += int(value)
        return resident, huge

    @contextlib.contextmanager
    def counting(self):
        """Count notifications, interrupts and discards (a Counter), and system calls if perf
        is there. What is counted is slower: never take times meanwhile."""
        counts = Counter()
        self._set_traced(True)
        self._trace_tail()
        perf = _perf(self._guest.qemu_pid)
        try:
            yield counts
        finally:
            counts.update(_perf_counts(perf))
            self._set_traced(False)
            counts.update(self._trace_tail())

    @contextlib.contextmanager
    def counting_calls(self):
        """Count QEMU's discards as system calls, which costs so little that times stay true.

        The dictionary stays empty where perf is not there or cannot count.
        """
        counts = {}
        perf = _perf(self._guest.qemu_pid)
        try:
            yield counts
        finally:
            counts.update(_perf_counts(perf))

    def _set_traced(self, enable):
        for name in TRACED:
            self._guest.qmp("trace-event-set-state", name=name, enable=enable)

    def _trace_tail(self):
        counts = Counter()
        if not self._trace_log.exists():
            return counts
        with open(self._trace_log, "rb") as log:
            log.seek(self._trace_at)
            for line in log:
                counts[line.split(b" ", 1)[0].decode(errors="replace")] += 1
            self._trace_at = log.tell()
        return Counter({name: counts[name] for name in TRACED})


def _perf(pid):
    if not shutil.which("perf"):
        return None
    events = ",".join(f"syscalls:sys_enter_{name}" for name in SYSCALLS)
    process = subprocess.Popen(["perf", "stat", "-x,", "-e", events, "-p", str(pid)],
                               stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True)
    # perf says nothing when it has begun; its counters are open file descriptors
    for _ in range(100):
        if process.poll() is not None or _has_counters(process.pid):
            break
        time.sleep(0.1)
    time.sleep(0.2)
    return process


def _has_counters(pid):
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if "perf_event" in str(link.readlink()):
                return True
    return False


def _perf_counts(process):
    if process is None:
        return {}
    process.send_signal(signal.SIGINT)
    text = process.communicate()[1]
    total = {"system_calls": 0}
    for line in text.splitlines():
        fields = line.split(",")
        if len(fields) > 2 and "sys_enter" in fields[2]:
            if not fields[0].isdigit():
                return {}
            total["system_calls"] += int(fields[0])
    return total if "sys_enter" in text else {}
