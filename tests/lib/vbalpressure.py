# SPDX-License-Identifier: GPL-2.0-only
"""Guests under pressure: the work they do meanwhile, and what it costs them.

Shared by the guest tests of the guard and by tests/bench/bench-pressure.
"""

import collections
import contextlib
import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from vbalguest import Guest

MIB = 1 << 20
PAGE_BYTES = 4096
CHUNK_MIB = 10
SYSFS = "/sys/bus/virtio/drivers/vballoon/virtio*/balloon"
TRACING = "/sys/kernel/tracing"
BALLOON = "deflate-on-oom={},free-page-reporting=on"

# One line per chunk read lands in /tmp/chunks; without /tmp/reading it stops. A disk's
# pages stay in the page cache only while somebody has it open.
READER = """
exec 3<{path}
while [ -e /tmp/reading ]; do
    skip=0
    while [ $skip -lt {mib} ] && [ -e /tmp/reading ]; do
        dd if={path} of=/dev/null bs=1M count={chunk} skip=$skip 2>/dev/null
        echo >>/tmp/chunks
        skip=$((skip + {chunk}))
    done
done
echo >/tmp/read-ended
"""


@dataclass
class Sample:
    """What a guest was like at one moment; counters are since boot.

    ran_seconds is how long its virtual CPUs had a processor of this machine, and
    waited_seconds how long they would have run had there been one. The clock of a guest that
    counts its instructions stands still meanwhile.
    """

    seconds: float
    ran_seconds: float
    waited_seconds: float
    guest_mib: float
    available_mib: float
    chunks: int
    swapped_out: int
    swapped_in: int
    refaults: int
    oom_kills: int


@dataclass
class Recorder:
    """Takes samples of a guest, on the test's clock, or on a guest's that counts instructions."""

    guest: Guest
    started: float = field(default_factory=time.monotonic)
    samples: list = field(default_factory=list)

    def sample(self):
        """Take one sample."""
        text = self.guest.check(
            "cat /proc/vmstat /proc/meminfo; echo chunks $(wc -l 2>/dev/null </tmp/chunks); "
            "echo uptime_cs $(sed 's/[.]//; s/ .*//' /proc/uptime)")
        values = {name: int(value) for name, value in
                  re.findall(r"^(\w+):?\s+(\d+)", text, re.MULTILINE)}
        ran, waited = processor_seconds(self.guest)
        seconds = time.monotonic() - self.started
        if self.guest.counts_instructions:
            seconds, waited = values["uptime_cs"] / 100, 0
        self.samples.append(Sample(
            seconds=seconds,
            ran_seconds=ran,
            waited_seconds=waited,
            guest_mib=self.guest.actual_bytes() / MIB,
            available_mib=values["MemAvailable"] / 1024,
            chunks=values.get("chunks", 0),
            swapped_out=values["pswpout"],
            swapped_in=values["pswpin"],
            refaults=values["workingset_refault_anon"] + values["workingset_refault_file"],
            oom_kills=values["oom_kill"]))
        return self.samples[-1]

    def watch(self, seconds, interval=0.25):
        """Take samples for so long; return the first and the last."""
        first = last = self.sample()
        while last.seconds - first.seconds < seconds:
            time.sleep(interval)
            last = self.sample()
        return first, last


class Reader:
    """Reads a file in the guest round and round, and counts the chunks it has read."""

    def __init__(self, guest, path, mib):
        self.guest = guest
        self.path = path
        self.mib = mib

    def start(self):
        """Begin to read."""
        script = READER.format(path=self.path, mib=self.mib, chunk=CHUNK_MIB)
        self.guest.check(f"cat >/tmp/reader <<'END'\n{script}\nEND\n"
                         ": >/tmp/reading; : >/tmp/chunks; rm -f /tmp/read-ended\n"
                         "sh /tmp/reader </dev/null >/dev/null 2>&1 &")

    def stop(self):
        """Stop, and wait for it."""
        self.guest.check("rm /tmp/reading")
        self.guest.wait_for(lambda: self.guest.run("test -e /tmp/read-ended")[0] == 0,
                            what="the reader to stop")

    def rounds(self):
        """Return how often it has read all of the file."""
        return int(self.guest.check("wc -l </tmp/chunks")) * CHUNK_MIB / self.mib

    def wait_rounds(self, count, timeout=300):
        """Wait until it has read the file so many times more."""
        goal = self.rounds() + count
        self.guest.wait_for(lambda: self.rounds() >= goal, timeout,
                            f"the reader to read {self.path} {count} times")


def fill_tmpfs(guest, mib):
    """Make a working set that only swap could take: a file in a tmpfs; return its path."""
    guest.check(f"mount -t tmpfs -o size={mib + 8}M set /mnt && "
                f"dd if=/dev/zero of=/mnt/set bs=1M count={mib} 2>/dev/null", timeout=300)
    return "/mnt/set"


@contextlib.contextmanager
def disk(mib):
    """Yield QEMU's arguments for one more disk; its pages are read into the page cache."""
    with tempfile.NamedTemporaryFile(prefix="vballoon-disk-") as stream:
        stream.truncate(mib * MIB)
        yield ["-drive", f"if=none,id=files,format=raw,cache=unsafe,file={stream.name}",
               "-device", "virtio-blk-pci,drive=files"]


def balloon_value(guest, name):
    """Read one of vballoon's files in sysfs."""
    text = guest.check(f"cat {SYSFS}/{name}").strip()
    return int(text) if text.isdigit() else text


def set_balloon_value(guest, name, value):
    """Write one of vballoon's files in sysfs."""
    guest.check(f"echo {value} >$(echo {SYSFS}/{name})")


def is_settled(guest):
    """True when vballoon is at its target, or was told by the guard to stay where it is."""
    state, target, held = guest.check(
        f"cd {SYSFS} && cat state target_bytes held_bytes").split()
    if state == "at-target":
        return target == held
    return state.startswith("held-by-")


def wait_settled(guest, timeout=120):
    """Wait until vballoon has done what it can about its target."""
    guest.wait_for(lambda: is_settled(guest), timeout,
                   lambda: "the balloon to settle; it is "
                   + guest.check(f"cd {SYSFS} && cat state reason | tr '\\n' ' '"))


@contextlib.contextmanager
def traced(guest, *events):
    """Switch tracepoints on; yield a function for the ftrace text so far."""
    files = [f"{TRACING}/events/{event}/enable" for event in events]
    guest.check(f"mountpoint -q {TRACING} || mount -t tracefs tracefs {TRACING}\n"
                f"echo >{TRACING}/trace; " + "; ".join(f"echo 1 >{file}" for file in files))
    try:
        yield lambda: guest.check(f"cat {TRACING}/trace")
    finally:
        guest.run("; ".join(f"echo 0 >{file}" for file in files))


@contextlib.contextmanager
def batches(guest):
    """Trace what the host is given; yield a function for the bytes by queue's name so far."""
    with traced(guest, "vballoon/vbal_batch_ack") as trace:
        yield lambda: sum_batches(trace())


def sum_batches(trace):
    """Return a Counter of the bytes that each queue took, from an ftrace text."""
    total = collections.Counter()
    for queue, size in re.findall(r"vbal_batch_ack: .* queue=(\S+) .* bytes=(\d+)", trace):
        total[queue] += int(size)
    return total


@contextlib.contextmanager
def worker_runs(guest, function):
    """Trace a work function of the guest's kernel; yield a function for its (start, end)s.

    Times are the guest's, in seconds.
    """
    with traced(guest, "workqueue/workqueue_execute_start",
                "workqueue/workqueue_execute_end") as trace:
        yield lambda: parse_runs(trace(), function)


def parse_runs(trace, function):
    """Return (start, end) of each run of a work function in an ftrace text."""
    pattern = re.compile(r"\s(\d+\.\d+): workqueue_execute_(start|end): "
                         rf"work struct (\S+?):? function {function}\b")
    runs, started = [], None
    for seconds, edge, _ in pattern.findall(trace):
        if edge == "start":
            started = float(seconds)
        elif started is not None:
            runs.append((started, float(seconds)))
            started = None
    return runs


def need_memory(guest, mib):
    """Run a process that needs so much memory at once; return its return code and output."""
    return guest.run(f"dd if=/dev/zero of=/dev/null bs={mib}M count=1", timeout=300)


def processor_seconds(guest):
    """Return how long the guest's virtual CPUs ran and how long they waited to, so far."""
    ran_ns = waited_ns = 0
    for cpu in guest.qmp("query-cpus-fast"):
        path = Path(f"/proc/{guest.qemu_pid}/task/{cpu['thread-id']}/schedstat")
        ran, waited = path.read_text("ascii").split()[:2]
        ran_ns += int(ran)
        waited_ns += int(waited)
    return ran_ns / 1e9, waited_ns / 1e9


def speed(first, last):
    """Return the chunks a second that the reader read between two samples.

    What this machine was too busy to give to the guest does not count as time.
    """
    ran = last.ran_seconds - first.ran_seconds
    waited = last.waited_seconds - first.waited_seconds
    given = ran / (ran + waited) if ran else 1
    return (last.chunks - first.chunks) / ((last.seconds - first.seconds) * given)
