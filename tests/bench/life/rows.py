# SPDX-License-Identifier: GPL-2.0-only
"""The rows: kinds of guests in use, what is asked of them, and what we want to see."""

from dataclasses import dataclass
from functools import partial
from typing import Callable

from .judge import IN_TREE, Goal
from .turn import LeftOut, blank_disk

ASK = ("seconds_90", "seconds_100", "given_mib", "host_system_s", "discards_per_gib",
       "gained_mib", "huge_percent", "swapped_out", "stalls_others", "oom_kills", "large_mib")
LRU_GEN = "/sys/kernel/mm/lru_gen/enabled"


@dataclass(frozen=True)
class Row:
    """One kind of guest."""

    name: str
    what: str
    run: Callable
    goals: tuple
    # worse than in-tree in one of these, and the row is worse
    never_worse: tuple
    shown: tuple = ASK
    headline: str = "seconds_100"
    mem_mib: int | None = None
    baseline: bool = False

    def host_mib(self, options):
        """Return the memory that its guest may take of the host."""
        return (self.mem_mib or options.size_mib) + 512


def cache_guest(turn, times=1, mglru=False):
    """A guest full of clean page cache is asked down to a quarter of its memory."""
    mem_mib = turn.options.size_mib
    guest = turn.boot(mem_mib, extra_qemu=blank_disk(mem_mib))
    if mglru and guest.run(f"echo y >{LRU_GEN}")[0]:
        raise LeftOut("the guest's kernel has no MGLRU")
    turn.read_disk(times)
    turn.check_cached(0.75)
    return turn.ask(mem_mib // 4)


CACHE_GOALS = (
    Goal("seconds_100", "<=", 0.4, of=IN_TREE),
    Goal("host_system_s", "<=", 0.2, of=IN_TREE),
    Goal("discards_per_gib", "<=", 4096),
    Goal("huge_percent", ">=", 95),
    Goal("swapped_out", "<=", 0),
    Goal("stalls_others", "<=", 1, of=IN_TREE),
    Goal("oom_kills", "<=", 0),
)
CACHE_NEVER_WORSE = ("seconds_90", "seconds_99", "seconds_100", "given_mib", "host_system_s",
                     "discards_per_gib", "gained_percent", "huge_percent", "swapped_out",
                     "stalls_others", "oom_kills")


def _cache_row(name, what, **recipe):
    return Row(name, what, partial(cache_guest, **recipe), CACHE_GOALS, CACHE_NEVER_WORSE)


ROWS = (
    _cache_row("cache-cold", "full of files that were read once; three quarters are asked for"),
    _cache_row("cache-warm", "full of files that were read three times", times=3),
    _cache_row("mglru-cold", "read once, kernel with MGLRU", mglru=True),
    _cache_row("mglru-warm", "read three times, kernel with MGLRU", times=3, mglru=True),
)
