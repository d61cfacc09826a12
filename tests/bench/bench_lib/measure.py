# SPDX-License-Identifier: GPL-2.0-only
"""One row: a guest in which the drivers take turns."""

import contextlib
import tempfile
import time
from pathlib import Path

from vbalguest import Guest

from . import host
from .rows import RANGE

MIB = 1 << 20
POLL_SECONDS = 0.002
BALLOON_OPTS = "deflate-on-oom=on,free-page-reporting=on"
COUNTED_MIB = 1024


class Bench:
    """The guest of one row, and the measurements in it."""

    def __init__(self, row):
        self.row = row
        self._stack = contextlib.ExitStack()

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _start(self):
        row = self.row
        folder = Path(self._stack.enter_context(
            tempfile.TemporaryDirectory(prefix="vballoon-bench-")))
        trace_log = folder / "trace"
        self._stack.enter_context(host.hugetlb_pages(row.mem_mib // 2 if row.hugetlb else 0))
        with host.transparent_huge_pages(row.host_thp):
            self.guest = Guest(
                mem_mib=row.mem_mib, smp=row.smp, module="vballoon", balloon_opts=BALLOON_OPTS,
                mem_backend=row.mem_backend(),
                icount="shift=0,sleep=off" if row.icount else None,
                append=f"init_on_alloc={row.init_on_alloc}", name=f"bench-{row.name}",
                extra_qemu=["-D", str(trace_log)], boot_timeout=600)
            self._stack.callback(self.guest.close)
            self.guest.start()
        self.guest.wait_boot()
        self.qemu = host.Qemu(self.guest, trace_log)

    def measure(self, driver, counts):
        """Return one driver's figures: times, and with counts also what is counted."""
        result = {}
        self._heal()
        self.guest.insmod(driver.params, driver.module)
        self.guest.hold_reports()
        try:
            result.update(self._timed())
            if counts:
                result.update(self._counted())
        finally:
            self.guest.inflate(0)
            self.guest.rmmod(driver.module)
        return result

    def _heal(self):
        """Give all that will be moved to the host by large ranges.

        Afterwards the host backs it with huge pages again, whatever the driver before has
        done to them: each driver starts from the same state.
        """
        self.guest.insmod(RANGE.params, RANGE.module)
        self.guest.hold_reports()
        self._resize(self.row.move_mib)
        self._resize(0)
        self.guest.rmmod(RANGE.module)

    def _touch(self):
        mib = self.row.move_mib
        started = time.monotonic()
        if self.row.init_on_alloc:
            self.guest.dirty(mib, 900)
        else:
            # pages come uncleared, but hugetlbfs clears what it is asked to allocate
            self.guest.check(f"echo {mib // 2} >/proc/sys/vm/nr_hugepages && "
                             f"mount -t hugetlbfs none /mnt && fallocate -l {mib}M /mnt/fill && "
                             "umount /mnt && echo 0 >/proc/sys/vm/nr_hugepages", 900)
        return time.monotonic() - started

    def _resize(self, inflated_mib):
        """Move to that size; return wall time and QEMU's CPU time."""
        goal = inflated_mib * MIB
        limit = time.monotonic() + 900
        cpu = self.qemu.cpu_s()
        started = time.monotonic()
        self.guest.inflate(goal)
        while self.guest.inflated_bytes() != goal:
            if time.monotonic() > limit:
                raise RuntimeError(
                    f"{self.guest.inflated_bytes() // MIB} of {inflated_mib} MiB after 900 s")
            time.sleep(POLL_SECONDS)
        wall = time.monotonic() - started
        return wall, self.qemu.cpu_s() - cpu

    def _timed(self):
        row, gib = self.row, self.row.move_mib / 1024
        if row.dirty:
            self._touch()
        before_kb, huge_before_kb = self.qemu.ram_kb()
        hugetlb_before = host.meminfo_kb("HugePages_Free")
        self.qemu.forget_peak()
        peak_before_kb = self.qemu.peak_kb()
        instructions = self._worker_instructions()
        wall, cpu = self._resize(row.move_mib)
        after_kb, huge_kb = self.qemu.ram_kb()
        result = {
            "inflate_gib_s": gib / wall,
            "inflate_cpu_ms_per_gib": cpu * 1000 / gib,
            "rss_before_mib": before_kb / 1024,
            "anon_huge_before_mib": huge_before_kb / 1024,
            "peak_extra_mib": (self.qemu.peak_kb() - peak_before_kb) / 1024,
            "rss_left_mib": after_kb / 1024,
            "anon_huge_left_mib": huge_kb / 1024,
            "guest_huge_blocks_left": self._huge_blocks(),
        }
        if row.hugetlb:
            result["hugetlb_freed"] = host.meminfo_kb("HugePages_Free") - hugetlb_before
        if row.icount:
            result["inflate_minsn_per_gib"] = (self._worker_instructions() - instructions) / gib
            instructions = self._worker_instructions()
        wall, cpu = self._resize(0)
        result["deflate_gib_s"] = gib / wall
        result["deflate_cpu_ms_per_gib"] = cpu * 1000 / gib
        if row.icount:
            result["deflate_minsn_per_gib"] = (self._worker_instructions() - instructions) / gib
        if row.dirty:
            result["touch_s_per_gib"] = self._touch() / gib
            result["anon_huge_retouched_mib"] = self.qemu.ram_kb()[1] / 1024
        return result

    def _counted(self):
        mib = min(self.row.move_mib, COUNTED_MIB)
        result = {}
        for what, goal_mib in (("inflate", mib), ("deflate", 0)):
            interrupts = self._interrupts()
            with self.qemu.counting() as counts:
                self._resize(goal_mib)
            per_gib = 1024 / mib
            result[f"{what}_notifications_per_gib"] = counts["virtio_queue_notify"] * per_gib
            result[f"{what}_interrupts_per_gib"] = (self._interrupts() - interrupts) * per_gib
            result[f"{what}_discards_per_gib"] = counts["ram_block_discard_range"] * per_gib
            if "system_calls" in counts:
                result[f"{what}_system_calls_per_gib"] = counts["system_calls"] * per_gib
        return result

    def _interrupts(self):
        """Return the guest's virtio interrupts; its console is not a virtio device."""
        lines = self.guest.check("cat /proc/interrupts").splitlines()
        return sum(int(word) for line in lines if "virtio" in line
                   for word in line.split()[1:1 + self.row.smp])

    def _worker_instructions(self):
        """Return what the guest's kernel threads have run, in millions of instructions."""
        return self.guest.kernel_threads_ns() / 1e6 if self.row.icount else 0

    def _huge_blocks(self):
        """Return the guest's free blocks of 2 MiB, larger ones counted as two."""
        lines = self.guest.check("cat /proc/buddyinfo").splitlines()
        fields = [line.split("zone")[1].split()[1:] for line in lines]
        return sum(int(zone[9]) + 2 * int(zone[10]) for zone in fields)
