# SPDX-License-Identifier: GPL-2.0-only
"""The rows: kinds of guests in use, what is asked of them, and what we want to see."""

import time
from dataclasses import dataclass
from functools import partial
from typing import Callable

from vbalfiles import disk_of_files
from vbalguest import GuestError
from vbalpressure import Reader, Recorder, speed

from .judge import IN_TREE, NONE, WORKS, Goal
from .seen import parse_free_mib
from .turn import DISK, FILL_TIMEOUT, LeftOut, blank_disk

MIB = 1 << 20
LRU_GEN = "/sys/kernel/mm/lru_gen/enabled"
SMALL_FILE_KIB = 64
SETTLE_SECONDS = 10
# So often at most a balloon is resized where nobody is to notice: no policy does so more often.
RESIZE_SECONDS = 0.45
# So long a guest may take to find out that it misses something.
FINDING_OUT_SECONDS = 1
COLD, WARM = 1, 3
FILES = 300000
# One line for each piece of work done.
DONE = "/tmp/chunks"
MOVABLE_ZONES = ("Movable", "Device")

ASK = ("seconds_90", "seconds_99", "seconds_100", "given_mib", "host_system_s", "host_user_s",
       "discards_per_gib", "gained_percent", "huge_percent", "activated", "restored",
       "swapped_out", "stalls_others", "oom_kills", "large_mib", "others_percent")
HARM = ("swapped_out", "stalls_others", "oom_kills")
SPEED = ("seconds_90", "seconds_99", "seconds_100", "given_mib")
COST = ("host_system_s", "discards_per_gib", "gained_percent", "huge_percent")
HARMLESS = (Goal("swapped_out", "<=", 0), Goal("oom_kills", "<=", 0),
            Goal("stalls_others", "<=", 1, of=IN_TREE))


@dataclass(frozen=True)
class Row:
    """One kind of guest.

    run(turn) lives through it and returns figures. One figure of never_worse that is worse
    than in-tree's makes the row worse. mem_mib is None where the command line says how large
    the guest is; baseline rows run without any balloon, too.
    """

    name: str
    what: str
    run: Callable
    goals: tuple
    never_worse: tuple
    shown: tuple = ASK
    headline: str = "seconds_100"
    mem_mib: int | None = None
    baseline: bool = False

    def host_mib(self, options):
        """Return the memory that its guest may take of the host."""
        return (self.mem_mib or options.size_mib) + 512


# Page cache


def cache_guest(turn, times, mglru=False, counted=False):
    """A guest full of clean page cache is asked down to a quarter of its memory."""
    mem_mib = turn.options.size_mib
    options = {"smp": 1, "icount": "shift=0,sleep=off", "neighbour": False} if counted else {}
    guest = turn.boot(mem_mib, extra_qemu=blank_disk(mem_mib), **options)
    if mglru and guest.run(f"echo y >{LRU_GEN}")[0]:
        raise LeftOut("the guest's kernel has no MGLRU")
    turn.fill_cache(times)
    return turn.ask(mem_mib // 4)


def streaming_guest(turn):
    """A guest reads a disk of twice its memory again and again; half of it is asked for."""
    turn.boot(1024, extra_qemu=blank_disk(2048))
    recorder, before = read_alone(turn, 2048, 0.6)
    figures = turn.ask(512)
    # what is missed shows when it is read the next time
    harm = {}
    with turn.watch.noting(harm):
        after = recorder.watch(2 * turn.options.window_seconds)
    for name in harm.keys() - {"others_percent"}:
        figures[name] += harm[name]
    return {**figures, **kept(turn, before, after)}


def working_set(turn):
    """400 MiB of files are read again and again in a guest of 1 GiB asked to 256 MiB."""
    # not counted, the speed of a reader alone varies by a sixth; counted, by a hundredth
    turn.boot(1024, extra_qemu=blank_disk(400), smp=1, icount="shift=0")
    recorder, before = read_alone(turn, 400, 2)
    return squeezed(turn, recorder, before)


def at_work(turn, work, mib):
    """A program of life.c reads what fits in a guest of 1 GiB, which is asked to 256 MiB."""
    turn.boot(1024, extra_qemu=blank_disk(mib), smp=1, icount="shift=0")
    turn.begin(f"/life {work} {DISK} {mib} {DONE}")
    turn.guest.wait_for(lambda: int(turn.guest.run(f"wc -l 2>/dev/null <{DONE}")[1] or 0) >= 150,
                        FILL_TIMEOUT, f"the first rounds of {work}")
    recorder = Recorder(turn.guest)
    before = recorder.watch(turn.options.window_seconds)
    return squeezed(turn, recorder, before)


def squeezed(turn, recorder, before):
    """Ask the guest down to 256 MiB; what it does when it had time to find out counts."""
    figures = {}
    with turn.watch.noting(figures):
        turn.guest.balloon(256 * MIB)
        recorder.watch(FINDING_OUT_SECONDS)
        after = recorder.watch(2 * turn.options.window_seconds)
    return {**figures, **kept(turn, before, after)}


def read_alone(turn, mib, rounds):
    """Have the disk read round and round; return a recorder, and samples before it is asked."""
    reader = Reader(turn.guest, DISK, mib)
    reader.start()
    reader.wait_rounds(rounds)
    recorder = Recorder(turn.guest)
    return recorder, recorder.watch(turn.options.window_seconds)


def kept(turn, before, after):
    """Return what is given by now, and the share of its speed that the reader has kept."""
    return {"given_mib": turn.guest.inflated_bytes() / MIB,
            "speed_kept": 100 * speed(*after) / speed(*before)}


# Zones, fragments, slab


def movable_guest(turn):
    """Three quarters are ZONE_MOVABLE; five eighths are asked for, then files are made."""
    mem_mib = turn.options.size_mib
    guest = turn.boot(mem_mib, deflate_on_oom="off", append=f"movablecore={mem_mib * 3 // 4}M")
    figures = turn.ask(mem_mib * 3 // 8)
    zones = parse_free_mib(guest.check("cat /proc/zoneinfo"), guest.page_bytes())
    figures["kernel_free_mib"] = sum(
        mib for zone, mib in zones.items() if zone not in MOVABLE_ZONES)
    with turn.watch.noting(harm := {}):
        status, _ = guest.run("/life files /tmp 20000 0")
    figures["oom_kills"] += harm["oom_kills"]
    figures["work_failed"] = int(status != 0)
    figures["kept_mib"] = guest.inflated_bytes() / MIB
    return figures


def fragmented_guest(turn, keep, asked):
    """One page of each few is in use, all over the memory."""
    mem_mib = turn.options.size_mib
    guest = turn.boot(mem_mib)
    touched_mib = guest.meminfo()["MemAvailable"] // 1024 * 9 // 10
    turn.begin(f"/life fragment {touched_mib} {keep}", "/tmp/fragment")
    guest.wait_for(lambda: guest.check("cat /tmp/fragment").strip(), 600, "fragments")
    return turn.ask(mem_mib - int(mem_mib * asked))


def file_fragments(turn):
    """A tmpfs was full of files of 64 KiB, and every second one is gone."""
    mem_mib = turn.options.size_mib
    guest = turn.boot(mem_mib)
    count = guest.meminfo()["MemAvailable"] * 4 // 5 // SMALL_FILE_KIB
    guest.check("mount -t tmpfs -o size=100% none /mnt && "
                f"/life files /mnt {count} {SMALL_FILE_KIB} && /life thin /mnt {count}", 900)
    return turn.ask(mem_mib - mem_mib * 2 // 5)


def slab_guest(turn):
    """300000 files were looked at; their names and inodes are what fills the memory."""
    guest = turn.boot(1024, extra_qemu=disk_of_files(FILES),
                      extra_modules=["ext4"])
    guest.check(f"mount -t ext4 -o ro {DISK} /mnt && find /mnt >/dev/null", 600)
    slab_mib = guest.meminfo()["SReclaimable"] / 1024
    if slab_mib < 200:
        raise GuestError(f"the files take only {slab_mib:.0f} MiB of slab")
    return turn.ask(384)


# What the guest's own work feels


def burst_guest(turn):
    """A guest of 2 GiB was asked down to 300 MiB; then a process needs 1 GiB at once."""
    guest = turn.boot(2048)
    figures = {} if turn.driver == NONE else turn.ask(300)
    with turn.watch.noting(harm := {}):
        status, output = guest.run("/life touch 1024", 300)
    figures.update(harm)
    figures["work_failed"] = int(status != 0)
    if not status:
        took, slowest = map(float, output.split())
        figures.update(touch_s=took / 1e6, slowest_ms=slowest / 1e3)
    return figures


def fill_free(turn):
    """Memory that was used before and is free now."""
    turn.guest.dirty(turn.guest.mem_mib * 3 // 5)


def fill_cached(turn):
    """Memory that is full of page cache."""
    turn.fill_cache(COLD)


def fill_fragments(turn):
    """One page of each four is in use."""
    if turn.guest.run("test -e /tmp/fragment")[0]:
        mib = turn.guest.meminfo()["MemAvailable"] // 1024 * 9 // 10
        turn.begin(f"/life fragment {mib} 4", "/tmp/fragment")
        turn.guest.wait_for(lambda: turn.guest.check("cat /tmp/fragment").strip(), 600,
                            "fragments")


def unnoticed(turn, fill, pause_seconds):
    """Small work is timed while the balloon moves again and again."""
    mem_mib = 2048
    guest = turn.boot(mem_mib, neighbour=False, extra_qemu=blank_disk(mem_mib))
    ms = int(turn.options.window_seconds * 1000)
    figures, resizes = {}, 0
    for work in WORKS:
        fill(turn)
        with turn.watch.noting(figures):
            request = guest.begin(f"/life {work} {ms}", 60 + ms // 1000)
            if turn.driver != NONE:
                resizes += keep_moving(turn, mem_mib // 2, pause_seconds)
            status, output = guest.finish(request)
        if status:
            raise GuestError(f"life {work} failed: {output}")
        _, _, p99, p999, _ = map(float, output.split())
        figures.update({f"{work}_p99_us": p99, f"{work}_p999_us": p999})
        if turn.driver != NONE:
            guest.balloon(guest.mem_bytes)
            guest.wait_inflated(0)
    return {**figures, "resizes": resizes}


def keep_moving(turn, low_mib, pause_seconds):
    """Move the balloon there and back for the window's time; return how often it arrived.

    It is asked anew as soon as it has arrived, but not within `pause_seconds` of the last time.
    """
    guest, arrived = turn.guest, 0
    end = time.monotonic() + turn.options.window_seconds
    while (now := time.monotonic()) < end:
        target = (guest.mem_mib if arrived % 2 else low_mib) * MIB
        guest.balloon(target)
        while guest.actual_bytes() != target and time.monotonic() < end:
            time.sleep(0.005)
        arrived += guest.actual_bytes() == target
        time.sleep(max(0, min(now + pause_seconds, end) - time.monotonic()))
    return arrived


# The table of them


def _cache(name, what, **recipe):
    goals = (Goal("seconds_100", "<=", 0.4, of=IN_TREE),
             Goal("host_system_s", "<=", 0.2, of=IN_TREE),
             Goal("discards_per_gib", "<=", 4096), Goal("huge_percent", ">=", 95), *HARMLESS)
    return Row(name, what, partial(cache_guest, **recipe), goals, SPEED + COST + HARM)


def _counted(name, what, **recipe):
    figures = ("minsn_per_gib", "given_mib", "discards_per_gib", "gained_percent", "huge_percent")
    return Row(name, what, partial(cache_guest, counted=True, **recipe),
               (Goal("given_percent", ">=", 100), Goal("minsn_per_gib", "<=", 1, of=IN_TREE),
                *HARMLESS), figures + HARM, shown=figures + HARM, headline="minsn_per_gib")


def _fragments(name, what, run):
    goals = (Goal("seconds_100", "<=", 1, of=IN_TREE), Goal("given_percent", ">=", 100),
             Goal("gained_percent", ">=", 1, of=IN_TREE), Goal("large_mib", ">=", 1, of=IN_TREE),
             *HARMLESS)
    return Row(name, what, run, goals, SPEED + ("host_system_s", "gained_percent") + HARM)


def _at_work(name, what, run):
    return Row(name, what, run, (Goal("speed_kept", ">=", 95), *HARMLESS), HARM + ("speed_kept",),
               shown=("given_mib", "speed_kept", "activated", "restored", "refaulted",
                      "swapped_out", "stalls_others", "oom_kills"),
               headline="speed_kept", mem_mib=1024)


def _unnoticed(name, what, fill, pause_seconds=RESIZE_SECONDS):
    shares = [f"{work}_{share}_us" for work in WORKS for share in ("p99", "p999")]
    goals = tuple(Goal(share, "<=", 1.1 if "p99_" in share else 1.5, of=NONE)
                  for share in shares)
    run = partial(unnoticed, fill=fill, pause_seconds=pause_seconds)
    return Row(name, what, run, goals, tuple(shares), shown=(*shares, "resizes", "others_percent"),
               headline="sweep_p99_us", mem_mib=2048, baseline=True)


ROWS = (
    _cache("cache-cold", "full of files that were read once; three quarters are asked for",
           times=COLD),
    _cache("cache-warm", "full of files that were read three times", times=WARM),
    _cache("mglru-cold", "read once, kernel with MGLRU", times=COLD, mglru=True),
    _cache("mglru-warm", "read three times, kernel with MGLRU", times=WARM, mglru=True),
    _counted("counted-cold", "cache-cold with one CPU that counts its instructions", times=COLD),
    _counted("counted-warm", "cache-warm, counted", times=WARM),
    _counted("counted-mglru", "mglru-cold, counted", times=COLD, mglru=True),
    Row("streaming", "1 GiB, reads 2 GiB again and again, asked to 512 MiB", streaming_guest,
        (Goal("given_percent", ">=", 100), Goal("seconds_100", "<=", 1, of=IN_TREE),
         Goal("speed_kept", ">=", 95), *HARMLESS),
        SPEED + COST + HARM + ("speed_kept",), shown=ASK + ("speed_kept",), mem_mib=1024),
    Row("movable", "three quarters in ZONE_MOVABLE, no DEFLATE_ON_OOM; then files are made",
        movable_guest,
        (Goal("given_percent", ">=", 100), Goal("seconds_100", "<=", 0.1, of=IN_TREE),
         Goal("work_failed", "<=", 0), *HARMLESS),
        SPEED + HARM + ("host_system_s", "discards_per_gib", "work_failed", "kept_mib"),
        shown=ASK + ("kernel_free_mib", "work_failed", "kept_mib"), headline="oom_kills"),
    _fragments("half-used", "one page of each two is in use, 35 % are asked for",
               partial(fragmented_guest, keep=2, asked=0.35)),
    _fragments("eighth-used", "one page of each eight is in use, 65 % are asked for",
               partial(fragmented_guest, keep=8, asked=0.65)),
    _fragments("thinned-files", "files of 64 KiB, every second one removed; 40 % are asked for",
               file_fragments),
    _at_work("working-set",
             "1 GiB, reads 400 MiB again and again, asked to 256 MiB; one CPU, counted",
             working_set),
    _at_work("database",
             "1 GiB, looks pages up in a mapped file of 500 MiB, nine of ten in a tenth; counted",
             partial(at_work, work="database", mib=500)),
    _at_work("compile",
             "1 GiB, one process after the other reads parts of 300 MiB; counted",
             partial(at_work, work="compile", mib=300)),
    Row("slab", "1 GiB that looked at 300000 files, asked to 384 MiB", slab_guest,
        (Goal("given_percent", ">=", 100), Goal("seconds_100", "<=", 1, of=IN_TREE), *HARMLESS),
        SPEED + COST + HARM, mem_mib=1024),
    Row("burst", "2 GiB squeezed to 300 MiB; then a process needs 1 GiB at once", burst_guest,
        (Goal("touch_s", "<=", 1.3, of=NONE), Goal("slowest_ms", "<=", 2, of=NONE),
         Goal("work_failed", "<=", 0), Goal("oom_kills", "<=", 0)),
        ("touch_s", "slowest_ms", "work_failed", "swapped_out", "oom_kills"),
        shown=("seconds_100", "touch_s", "slowest_ms", "swapped_out", "stalls", "oom_kills",
               "work_failed", "others_percent"),
        headline="touch_s", mem_mib=2048, baseline=True),
    _unnoticed("unnoticed-free", "small work while free memory moves, twice a second at most",
               fill_free),
    _unnoticed("unnoticed-restless", "the same without any pause: who is faster moves more often",
               fill_free, pause_seconds=0),
    _unnoticed("unnoticed-cache", "small work while page cache is given", fill_cached),
    _unnoticed("unnoticed-fragments", "small work while the memory between pages in use moves",
               fill_fragments),
)
