# SPDX-License-Identifier: GPL-2.0-only
"""What is known of a guest: what it reports, what it was asked for, what became of that.

Nothing here reads a clock or a file: all times are given, so that a day can be simulated.
"""

from dataclasses import dataclass, field, replace

from ..base import Statistics
from ..units import format_size

MIB = 1 << 20
NOT_SEEN = "not seen yet"
FRAME_BYTES = 4096
# a guest has at least so much room, however little it uses
SMALLEST_BUFFER_BYTES = 64 * MIB
# what QEMU has beside the guest's RAM; resident memory up to that tells nothing of the guest
QEMU_OVERHEAD_BYTES = 64 * MIB
# a size that moves by less has not moved
PROGRESS_BYTES = MIB
# an unmoved size is given up after so long; in-tree drivers retry five times a second
SHRINK_PATIENCE_S = 5
GROW_PATIENCE_S = 30
# how long a guest is left alone that could not give; doubled each time
FIRST_HOLD_S = 60
LAST_HOLD_S = 3600
# ... that took memory back by itself, or swapped after it gave some
DEFENCE_HOLD_S = 60
# so much more available memory ends a hold
RELEASE_BYTES = 64 * MIB
# statistics are old when so many periods went by without a new report
STALE_PERIODS = 5
SWAPPED_BYTES = MIB
# a guest that grows gets what it will need before so many more reports have come
GROWTH_REPORTS = 2
# a guest that was just found has so many periods to send its first report
NEW_PERIODS = 3
CONTRADICTIONS = 3
CONTRADICTION_BYTES = 128 * MIB


@dataclass(frozen=True)
class Limits:
    """What the administrator grants a guest."""

    minimum_bytes: int
    maximum_bytes: int
    weight: float = 100
    buffer_share: float = 0.2
    balanced: bool = True

    def at_most(self, limit_bytes):
        """Return the same with a lower maximum."""
        maximum_bytes = min(self.maximum_bytes, limit_bytes)
        return replace(self, maximum_bytes=maximum_bytes,
                       minimum_bytes=min(self.minimum_bytes, maximum_bytes))


@dataclass(frozen=True, slots=True)
class Facts:
    """What one look at a guest found."""

    ram_bytes: int
    actual_bytes: int
    resident_bytes: int | None
    statistics: Statistics
    unix_s: float
    # None: it runs; else what keeps it from following, in words
    obstacle: str | None = None


@dataclass(frozen=True)
class HostFacts:
    """What the host has; stalled_percent is PSI's `some avg10`."""

    total_bytes: int
    available_bytes: int
    stalled_percent: float | None = None


@dataclass
class Guest:
    """A guest, and what the policy remembers of it.

    target_bytes is what it was asked for last; settled says that it got there. A report pairs
    with the size that the guest had when it was made: used_bytes is that size less what was
    available, so it stays true while the size moves.
    """

    name: str
    limits: Limits
    period_s: float = 2
    facts: Facts | None = None
    lost: str | None = NOT_SEEN

    target_bytes: int | None = None
    settled: bool = True
    accept: bool = False
    driver: str = "unknown"

    used_bytes: int | None = None
    free_then_bytes: int | None = None
    size_then_bytes: int = 0
    buffer_bytes: int = SMALLEST_BUFFER_BYTES
    keep_bytes: int = 0
    swapped_bytes: int = 0
    growth_bytes: int = 0
    lie: str | None = None
    note: str = ""

    _first_s: float = 0
    _progress_s: float = 0
    _progress_bytes: int = 0
    _report_unix_s: int = 0
    _report_seen_s: float = 0
    _moved_unix_s: float = 0
    _skipped: int = 0
    _swap_total_bytes: int | None = None
    _contradictions: int = 0
    _took_s: float = float("-inf")
    quiet_until_s: float = 0
    no_growth_until_s: float = 0
    _hold_s: float = FIRST_HOLD_S
    _held_at_bytes: int | None = field(default=None)

    # Kept by _refresh(): a thousand guests are looked through every second
    trouble: str | None = NOT_SEEN
    blind: str | None = "no statistics"
    actual_bytes: int = 0
    size_bytes: int = 0
    claim_bytes: int = 0
    coming_bytes: int = 0
    lacking_bytes: int = 0

    # What the policy asks about it

    @property
    def available_bytes(self):
        """What its statistics called available, corrected by what moved since; None unknown."""
        if self.used_bytes is None:
            return None
        return max(0, self.actual_bytes - self.used_bytes)

    @property
    def free_bytes(self):
        """What can be taken without dropping its page cache."""
        if self.free_then_bytes is None:
            return (self.available_bytes or 0) // 2
        return max(0, self.free_then_bytes + self.actual_bytes - self.size_then_bytes)

    @property
    def is_comfortable(self):
        """True if it may be looked at half as often: a whole buffer is available, nothing moves."""
        return (not self.blind and self.settled and not self.swapped_bytes
                and self.actual_bytes - self.used_bytes
                > self.buffer_bytes + 2 * GROWTH_REPORTS * self.growth_bytes)

    def _refresh(self):
        """Work out what follows from the facts.

        trouble is why it is not balanced, blind why its need is not known, in words, or None.
        size is what it may have: growth that it was granted is as good as taken. claim is what
        it may still take from the host, coming what it was asked to give and has not given yet,
        lacking what it needs to have a buffer available.
        """
        facts = self.facts
        if facts is None:
            self.trouble = self.lost
            return
        self.trouble = self.lost or facts.obstacle or (
            None if self.limits.balanced else "left alone by the settings")
        self.blind = self.lie or ("no statistics" if self.used_bytes is None else None)
        self.actual_bytes = facts.actual_bytes
        target_bytes = self.target_bytes or 0
        self.size_bytes = max(self.actual_bytes, target_bytes)
        has_bytes = self.size_bytes
        if facts.resident_bytes is not None:
            has_bytes = max(0, facts.resident_bytes - QEMU_OVERHEAD_BYTES)
        self.claim_bytes = max(0, self.size_bytes - has_bytes)
        self.coming_bytes = 0 if self.trouble else max(0, self.actual_bytes - target_bytes)
        self.lacking_bytes = 0 if self.trouble else self._lacking()

    def _lacking(self):
        """0 while half a buffer is available, at the rate it grows, too."""
        lacking_bytes = self.limits.minimum_bytes - self.size_bytes
        if not self.blind and self._is_short():
            lacking_bytes = max(lacking_bytes, self.keep_bytes + self.swapped_bytes
                                + GROWTH_REPORTS * self.growth_bytes - self.size_bytes)
        return max(0, min(lacking_bytes, self.limits.maximum_bytes - self.size_bytes))

    def idle_bytes(self, buffers=1.0):
        """What it can give and still have so many buffers available."""
        if self.blind:
            return 0
        level = max(self.limits.minimum_bytes, self.used_bytes + int(self.buffer_bytes * buffers))
        return max(0, self.actual_bytes - level)

    def is_new(self, now_s):
        """True while it may still send its first report."""
        return self.used_bytes is None and self.trouble is None and (
            now_s - self._first_s <= NEW_PERIODS * max(self.period_s, 1))

    def can_give(self, now_s):
        """True if it may be asked to give."""
        return not self.trouble and self.settled and now_s >= self.quiet_until_s

    def is_held(self, now_s):
        """True while it is left alone for a reason that its note tells."""
        return now_s < max(self.quiet_until_s, self.no_growth_until_s)

    def want_bytes(self, now_s):
        """What it lacks and would take."""
        return self.lacking_bytes if now_s >= self.no_growth_until_s else 0

    def want_ratio(self):
        """How much of its buffer is missing; 1 where that is not known."""
        if self.blind:
            return 1
        return max(0, self.used_bytes + self.buffer_bytes - self.size_bytes) / self.buffer_bytes

    def _is_short(self):
        room_bytes = self.size_bytes - self.used_bytes
        return room_bytes < self.buffer_bytes / 2 + GROWTH_REPORTS * self.growth_bytes or (
            self.swapped_bytes > SWAPPED_BYTES and room_bytes < 2 * self.buffer_bytes)

    # What happens to it

    def observe(self, facts, now_s):
        """Take in what a look has found."""
        before, self.facts, self.lost = self.facts, facts, None
        self.actual_bytes = facts.actual_bytes
        self._follow_size(before, now_s)
        self._follow_report(now_s)
        self._refresh()

    def forget(self):
        """It has ended: it has nothing, and claims nothing, until it is seen again."""
        self.facts = None

    def lose(self, why):
        """It does not answer; what it has counts as before."""
        self.lost = why
        self._refresh()

    def asked(self, target_bytes, now_s):
        """It was asked for a size."""
        if target_bytes < self.actual_bytes:
            self._took_s = now_s
        self.target_bytes = target_bytes
        self.settled = target_bytes == self.actual_bytes
        self.accept = False
        self._progress_s = now_s
        self._progress_bytes = self.actual_bytes
        self._refresh()

    def forget_ask(self):
        """What it was asked for last never reached it."""
        if self.facts:
            self.target_bytes, self.settled = self.facts.actual_bytes, True
            self._refresh()

    def stands_still(self, now_s):
        """True if it was asked and has not moved for longer than it may take."""
        if self.settled or self.trouble:
            return False
        patience_s = (SHRINK_PATIENCE_S if self.target_bytes < self.actual_bytes
                      else GROW_PATIENCE_S)
        return now_s - self._progress_s > max(patience_s, 2 * self.period_s)

    def give_up(self, now_s):
        """Do not ask it again for a while, longer each time."""
        if self.target_bytes < self.actual_bytes:
            self.quiet_until_s = now_s + self._hold_s
            self._held_at_bytes = self.available_bytes
            self.note = f"gives no more than {format_size(self._given_bytes())}"
            self.driver = "none" if self._is_dumb() else "holds back"
        else:
            self.no_growth_until_s = now_s + self._hold_s
            self.note = "does not take what it was granted"
        self._hold_s = min(2 * self._hold_s, LAST_HOLD_S)

    def _given_bytes(self):
        return self.facts.ram_bytes - self.actual_bytes

    def _is_dumb(self):
        return self.used_bytes is None and self.actual_bytes == self.facts.ram_bytes

    def _follow_size(self, before, now_s):
        actual_bytes = self.facts.actual_bytes
        if before and self.target_bytes is not None:
            # its balloon stays as large when memory is plugged or unplugged
            plugged_bytes = self.facts.ram_bytes - before.ram_bytes
            self.target_bytes += plugged_bytes
            self._progress_bytes += plugged_bytes
        if self.target_bytes is None:
            self.target_bytes = self._progress_bytes = actual_bytes
            self._first_s = now_s
            return
        if before and actual_bytes != before.actual_bytes:
            self._moved_unix_s = self.facts.unix_s
        if abs(actual_bytes - self._progress_bytes) >= PROGRESS_BYTES:
            self._progress_bytes, self._progress_s = actual_bytes, now_s
        if actual_bytes == self.target_bytes:
            self._reached(now_s)
        elif self.settled or self._turned_round(before):
            self._moved_by_itself(now_s)

    def _reached(self, now_s):
        if self.settled:
            return
        self.settled, self._hold_s = True, FIRST_HOLD_S
        if now_s >= self.quiet_until_s:
            self.note = ""
        if self.driver != "obeys":
            self.driver = "follows"

    def _turned_round(self, before):
        """It was to shrink, and grows."""
        return (self.target_bytes < self.actual_bytes and before is not None
                and self.actual_bytes - before.actual_bytes >= PROGRESS_BYTES)

    def _moved_by_itself(self, now_s):
        """The guest needs it (DEFLATE_ON_OOM), or somebody else asked: both shall have it."""
        if self.actual_bytes > self.target_bytes:
            self.accept = True
            self.quiet_until_s = max(self.quiet_until_s, now_s + DEFENCE_HOLD_S)
            self._held_at_bytes = 2 * self.buffer_bytes
            self.note = (f"took back {format_size(self.actual_bytes - self.target_bytes)} "
                         "by itself")
        self.target_bytes, self.settled = self.actual_bytes, True

    # Its statistics

    def _follow_report(self, now_s):
        report = self.facts.statistics
        if report.last_update_unix_s == self._report_unix_s:
            self._forget_stale(now_s)
            return
        first = self._report_unix_s == 0
        self._report_unix_s, self._report_seen_s = report.last_update_unix_s, now_s
        # what lay there before anybody looked may be hours old
        if first and report.last_update_unix_s < self.facts.unix_s - STALE_PERIODS * self.period_s:
            return
        self.lie = self._nonsense(report)
        if self.lie or report.available_bytes is None:
            self.used_bytes = None
            return
        # made while the size moved: nobody knows with which size it goes
        if report.last_update_unix_s <= self._moved_unix_s and self._skipped < 2:
            self._skipped += 1
            return
        self._skipped = 0
        self._take_report(report, now_s)

    def _take_report(self, report, now_s):
        self.size_then_bytes = self.actual_bytes
        self.free_then_bytes = report.free_bytes
        used_before_bytes = self.used_bytes
        self.used_bytes = max(0, self.actual_bytes - report.available_bytes)
        self.growth_bytes = 0
        if used_before_bytes is not None:
            self.growth_bytes = max(0, self.used_bytes - used_before_bytes)
        self.buffer_bytes = max(SMALLEST_BUFFER_BYTES,
                                int(self.used_bytes * self.limits.buffer_share))
        self._set_keep()
        self._follow_swap(report, now_s)
        self._compare_with_resident(report)
        if (self._held_at_bytes is not None
                and report.available_bytes >= self._held_at_bytes + RELEASE_BYTES):
            self._held_at_bytes, self.quiet_until_s = None, now_s

    def set_limits(self, limits):
        """The settings may have changed."""
        self.limits = limits
        self._set_keep()
        self._refresh()

    def _set_keep(self):
        if self.used_bytes is not None:
            self.keep_bytes = min(max(self.used_bytes + self.buffer_bytes,
                                      self.limits.minimum_bytes), self.limits.maximum_bytes)

    def _forget_stale(self, now_s):
        """A running guest that stopped reporting tells nothing any more."""
        if (self.used_bytes is not None and not self.facts.obstacle
                and now_s - self._report_seen_s > STALE_PERIODS * max(self.period_s, 1)):
            self.used_bytes = None

    def _follow_swap(self, report, now_s):
        total_bytes = (report.swap_in_bytes or 0) + (report.swap_out_bytes or 0)
        before_bytes, self._swap_total_bytes = self._swap_total_bytes, total_bytes
        self.swapped_bytes = 0
        if before_bytes is not None and total_bytes > before_bytes:
            self.swapped_bytes = total_bytes - before_bytes
        if (self.swapped_bytes > SWAPPED_BYTES and self._is_short()
                and now_s - self._took_s < DEFENCE_HOLD_S):
            self.driver = "obeys"
            self.note = "swaps after it gave: its driver does not defend it"
            self.quiet_until_s = max(self.quiet_until_s, now_s + 2 * DEFENCE_HOLD_S)

    def _nonsense(self, report):
        """Return what cannot be true in a report; None if all of it can."""
        if report.available_bytes is None:
            return None
        if report.available_bytes < 0:
            return "lies: less than nothing available"
        if report.total_bytes is not None and report.available_bytes > report.total_bytes:
            return "lies: more available than it has"
        if report.available_bytes > self.facts.ram_bytes:
            return "lies: more available than its RAM"
        return None

    def _compare_with_resident(self, report):
        """Memory that a guest never touched is free, whatever it says."""
        untouched_bytes = self.actual_bytes - (self.facts.resident_bytes or self.actual_bytes)
        if report.available_bytes + CONTRADICTION_BYTES < untouched_bytes / 2:
            self._contradictions += 1
        else:
            self._contradictions = 0
        if self._contradictions >= CONTRADICTIONS:
            self.lie = "lies: calls memory used that it never touched"
            self.used_bytes = None
