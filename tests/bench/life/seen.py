# SPDX-License-Identifier: GPL-2.0-only
"""What is read while a balloon moves: QEMU's figures on the host, the kernel's in the guest."""

import contextlib
import os
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from bench_lib import host
from vbalguest import GuestTimeout

MIB = 1 << 20
LARGE_BYTES = 2 * MIB
POLL_SECONDS = 0.005
STEADY_SECONDS = 3
STEADY_LIMIT_SECONDS = 30
STALL_EVENT = "/sys/kernel/tracing/events/vmscan/mm_vmscan_direct_reclaim_begin"
# Who makes room for the balloon itself: not the guest's own work.
BALLOON_WORKERS = re.compile(r"kworker|vballoon|vbal|kswapd|kcompactd")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Curve:
    """How the balloon grew after the host asked."""

    asked_mib: float
    points: list = field(default_factory=list)

    def add(self, seconds, mib):
        """Note the balloon's size, if it is another than before."""
        if not self.points or self.points[-1][1] != mib:
            self.points.append((round(seconds, 4), mib))

    def seconds_to(self, share):
        """Return when that share of what was asked had been given, or None."""
        goal = self.asked_mib * share
        return next((seconds for seconds, mib in self.points if mib >= goal), None)

    def given_mib(self):
        """Return what was given in the end."""
        return self.points[-1][1] if self.points else 0


def processor_seconds(pid):
    """Return a process's user and system time so far."""
    text = Path(f"/proc/{pid}/stat").read_text("ascii", errors="replace")
    fields = text.rpartition(")")[2].split()
    return int(fields[11]) / TICKS, int(fields[12]) / TICKS


def parse_stat(text):
    """Return for how long the processors were busy in /proc/stat, and all of their time."""
    times = [int(word) / TICKS for word in text.splitlines()[0].split()[1:9]]
    return sum(times) - times[3] - times[4], sum(times)


def parse_buddyinfo(text, page_bytes=4096):
    """Return the bytes that are free, and those in blocks of 2 MiB or more."""
    free = large = 0
    for line in text.splitlines():
        if "zone" not in line:
            continue
        for order, count in enumerate(map(int, line.split("zone")[1].split()[1:])):
            block = page_bytes << order
            free += block * count
            large += block * count if block >= LARGE_BYTES else 0
    return free, large


def parse_free_mib(text, page_bytes=4096):
    """Return the free memory of each zone in /proc/zoneinfo; nodes are added up."""
    found, zone = Counter(), ""
    for line in text.splitlines():
        if match := re.match(r"Node\s+\d+, zone\s+(\w+)", line):
            zone = match[1]
        elif match := re.match(r"\s+pages free\s+(\d+)", line):
            found[zone] += int(match[1]) * page_bytes / MIB
    return found


def parse_stalls(text):
    """Return how often tasks entered direct reclaim: {own: by the balloon, others: by others}."""
    found = Counter(own=0, others=0)
    for name, count in re.findall(r"common_pid: (.*?)\s+\[\s*\d+\]\s*\} hitcount:\s+(\d+)", text):
        found["own" if BALLOON_WORKERS.match(name) else "others"] += int(count)
    return found


def parse_vmstat(text):
    """Return /proc/vmstat as a dictionary."""
    return {name: int(value) for name, value in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)}


COUNTERS = {
    "activated": ("workingset_activate_anon", "workingset_activate_file"),
    "restored": ("workingset_restore_anon", "workingset_restore_file"),
    "refaulted": ("workingset_refault_anon", "workingset_refault_file"),
    "swapped_out": ("pswpout",),
    "oom_kills": ("oom_kill",),
    "compactions": ("compact_stall",),
}


def deltas(before, after):
    """Return by how much the guest's counters grew; what a kernel does not count is left out."""
    found = {}
    for name, sources in COUNTERS.items():
        if any(source in after for source in sources):
            found[name] = sum(after.get(source, 0) - before.get(source, 0) for source in sources)
    stalls = {name: after[name] - before.get(name, 0) for name in after
              if name.startswith("allocstall_")}
    found.update(stalls)
    found["stalls"] = sum(stalls.values())
    return found


class Watch:
    """Reads one guest and its QEMU."""

    def __init__(self, guest):
        self.guest = guest
        self.qemu = host.Qemu(guest, Path(os.devnull))

    def trace_stalls(self):
        """Let the kernel count by task who has to reclaim; a kernel without that says nothing."""
        self.guest.run(f"cd {STALL_EVENT} && echo 'hist:keys=common_pid.execname' >trigger")

    def counters(self):
        """Return the guest's counters since boot."""
        text = self.guest.check(f"cat /proc/vmstat; cat {STALL_EVENT}/hist 2>/dev/null; true")
        values = parse_vmstat(text)
        if "event histogram" in text:
            values["stalls_others"] = parse_stalls(text)["others"]
        return values

    def large_mib(self):
        """Return the guest's free memory in blocks of 2 MiB or more."""
        text = self.guest.check("cat /proc/buddyinfo")
        return parse_buddyinfo(text, self.guest.page_bytes())[1] / MIB

    def wait_steady(self):
        """Wait until free page reporting has given what it gives, and the host's view is steady.

        Return resident MiB and the huge of them.
        """
        limit = time.monotonic() + STEADY_LIMIT_SECONDS
        last, since = None, 0
        while time.monotonic() < limit:
            now = self.qemu.ram_kb()
            if last is None or abs(now[0] - last[0]) > 1024:
                last, since = now, time.monotonic()
            if time.monotonic() - since > STEADY_SECONDS:
                break
            time.sleep(0.25)
        return now[0] / 1024, now[1] / 1024

    @contextlib.contextmanager
    def noting(self, figures):
        """Put into figures what the guest's counters grew by meanwhile."""
        before, busy = self.counters(), self._others()
        yield
        after, busy_after = self.counters(), self._others()
        others, passed = (late - early for late, early in zip(busy_after, busy))
        figures["others_percent"] = _percent(max(others, 0), passed)
        figures.update(deltas(before, after))
        if "stalls_others" in after:
            figures["stalls_others"] = after["stalls_others"] - before["stalls_others"]

    def _others(self):
        """Return the processors' time that went to others than QEMU and us, and all of it."""
        busy, passed = parse_stat(Path("/proc/stat").read_text("ascii"))
        ours = sum(processor_seconds(self.guest.qemu_pid)) + time.process_time()
        return busy - ours, passed

    def follow(self, asked_mib, limit_seconds):
        """Watch the balloon until it has what was asked, or for so long; return its curve."""
        curve = Curve(asked_mib)
        started = time.monotonic()
        while True:
            now = time.monotonic() - started
            curve.add(now, self.guest.inflated_bytes() / MIB)
            if curve.given_mib() >= asked_mib or now > limit_seconds:
                return curve
            time.sleep(POLL_SECONDS)

    def ask(self, target_mib, limit_seconds):
        """Ask the guest down to that size; return all that is seen, and the curve."""
        guest, figures = self.guest, {}
        resident, huge = self.wait_steady()
        asked_mib = guest.mem_mib - target_mib
        with self.noting(figures), self.qemu.counting_calls() as calls:
            user, system = processor_seconds(guest.qemu_pid)
            threads_ns = self._threads_ns()
            guest.balloon(target_mib * MIB)
            curve = self.follow(asked_mib, limit_seconds)
            user_after, system_after = processor_seconds(guest.qemu_pid)
            threads_ns = self._threads_ns() - threads_ns
        given = curve.given_mib()
        figures.update(
            asked_mib=asked_mib, given_mib=given, given_percent=100 * given / asked_mib,
            host_user_s=user_after - user, host_system_s=system_after - system,
            large_mib=self.large_mib())
        for share, name in ((0.9, "seconds_90"), (0.99, "seconds_99"), (1, "seconds_100")):
            figures[name] = curve.seconds_to(share)
        if threads_ns and given:
            figures["minsn_per_gib"] = threads_ns / 1e6 * 1024 / given
        if calls and given:
            figures["discards_per_gib"] = calls["system_calls"] * 1024 / given
        self._note_resident(figures, resident, huge, given)
        return figures, curve

    def _threads_ns(self):
        return self.guest.kernel_threads_ns() if self.guest.counts_instructions else 0

    def _note_resident(self, figures, resident, huge, given):
        resident_after, huge_after = self.wait_steady()
        figures.update(gained_mib=resident - resident_after,
                       huge_percent_before=_percent(huge, resident),
                       huge_percent=_percent(huge_after, resident_after))
        if given:
            figures["gained_percent"] = 100 * figures["gained_mib"] / given


def _percent(part, whole):
    return 100 * part / whole if whole else 0


def ended_badly(error, guest):
    """Say in a few words how a guest failed."""
    console = guest.console() if guest else ""
    if "Kernel panic" in console:
        return "the guest died: " + re.search(r"Kernel panic[^\n]*", console)[0]
    if isinstance(error, GuestTimeout):
        return "the guest hung: " + str(error).splitlines()[0]
    return "failed: " + str(error).splitlines()[0]
