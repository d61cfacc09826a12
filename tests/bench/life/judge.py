# SPDX-License-Identifier: GPL-2.0-only
"""What figures mean: which are better smaller, what a row's goals are, and whether they are met."""

import math
import statistics
from dataclasses import dataclass, field

NONE, IN_TREE, OURS = "none", "intree", "vballoon"
WORKS = ("sweep", "fault", "wake", "pipe")
# The share of this machine's processors that others may take before latencies say nothing.
QUIET_PERCENT = 20
LABELS = {NONE: "no balloon", IN_TREE: "virtio_balloon", OURS: "vballoon"}


@dataclass(frozen=True)
class Metric:
    """One kind of figure.

    enough is where more is no better: the rest is noise. slack is the difference that means
    nothing: the resolution of what is read. noise is the share by which times differ from run
    to run of the same thing. missing stands for a figure that a run did not come to.
    needs_quiet figures say nothing on a busy machine.
    """

    label: str
    unit: str = ""
    more_is_better: bool = False
    slack: float = 0
    noise: float = 0
    missing: float | None = None
    needs_quiet: bool = False
    enough: float = math.inf


def _seconds(label):
    # a size that was never reached took for ever
    return Metric(label, "s", slack=0.1, noise=0.1, missing=math.inf)


def _share(label):
    return Metric(label, "%", more_is_better=True, slack=2, enough=100)


def _latency(label):
    return Metric(label, "µs", slack=5, noise=0.15, needs_quiet=True)


METRICS = {
    "mem_mib": Metric("the guest's memory", "MiB"),
    "seconds_90": _seconds("to 90 %"),
    "seconds_99": _seconds("to 99 %"),
    "seconds_100": _seconds("to 100 %"),
    "given_mib": Metric("given", "MiB", more_is_better=True, slack=1),
    "given_percent": _share("given, of what was asked"),
    "host_system_s": Metric("host CPU, system", "s", slack=0.05, noise=0.1),
    "host_user_s": Metric("host CPU, user and guest", "s", slack=0.1, noise=0.1),
    "minsn_per_gib": Metric("the guest's kernel threads, million instructions per GiB", slack=10,
                            noise=0.02),
    "discards_per_gib": Metric("discard calls per GiB", slack=64),
    "gained_mib": Metric("host gained", "MiB", more_is_better=True, slack=8),
    "gained_percent": _share("host gained, of what was given"),
    "huge_percent_before": _share("in huge pages before"),
    "huge_percent": _share("in huge pages after"),
    "activated": Metric("pages missed (activated)", slack=256),
    "restored": Metric("pages of a working set missed (restored)", slack=256),
    "refaulted": Metric("pages read again (refaulted)", slack=256),
    "swapped_out": Metric("pages swapped out", slack=32),
    "stalls": Metric("allocation stalls, all"),
    "stalls_others": Metric("allocation stalls of others", slack=4),
    "oom_kills": Metric("processes killed"),
    "large_mib": Metric("left free in large blocks", "MiB", more_is_better=True, slack=16),
    "compactions": Metric("compactions waited for"),
    "speed_kept": _share("speed kept"),
    "touch_s": Metric("the burst took", "s", slack=0.2, noise=0.1),
    "slowest_ms": Metric("slowest page", "ms", slack=2, noise=0.15),
    "kept_mib": Metric("still given after", "MiB", more_is_better=True, slack=1),
    "kernel_free_mib": Metric("free outside ZONE_MOVABLE", "MiB", more_is_better=True, slack=8),
    "work_failed": Metric("the guest's own work failed"),
    "others_percent": Metric("this machine was busy with other things", "%", slack=5),
    "resizes": Metric("resizes meanwhile", more_is_better=True),
}
for _work in WORKS:
    METRICS[f"{_work}_p99_us"] = _latency(f"{_work} p99")
    METRICS[f"{_work}_p999_us"] = _latency(f"{_work} p99.9")


@dataclass(frozen=True)
class Goal:
    """At most (or at least) so much; with `of`, so many times what that driver has."""

    metric: str
    relation: str
    value: float
    of: str | None = None

    def words(self):
        """Say it."""
        metric = METRICS[self.metric]
        bound = "at most" if self.relation == "<=" else "at least"
        number = format_number(self.value)
        unit = f" {metric.unit}".rstrip()
        amount = f"{number} x {LABELS[self.of]}'s" if self.of else f"{number}{unit}"
        return f"{metric.label} {bound} {amount}"

    def judge(self, medians):
        """Return (met, what was seen); met is None where something was not measured."""
        seen = medians.get(OURS, {}).get(self.metric)
        if seen is None:
            return None, "not measured"
        limit, compared = self.value, ""
        if self.of:
            other = medians.get(self.of, {}).get(self.metric)
            if other is None:
                return None, f"{LABELS[self.of]} was not measured"
            limit *= other
            compared = f", {LABELS[self.of]} {format_value(self.metric, other)}"
        if busy := too_busy(self.metric, medians):
            return None, format_value(self.metric, seen) + compared + busy
        slack = METRICS[self.metric].slack if self.of else 0
        met = seen <= limit + slack if self.relation == "<=" else seen >= limit - slack
        return met, format_value(self.metric, seen) + compared


def too_busy(name, medians):
    """Say so if a figure means nothing because of what else this machine did."""
    if not METRICS[name].needs_quiet:
        return ""
    busy = max(found.get("others_percent", 0) for found in medians.values())
    return f"; this machine was {busy:.0f} % busy with other things" if busy > QUIET_PERCENT else ""


@dataclass
class Verdict:
    """A row's judgement."""

    row: str
    goals: list = field(default_factory=list)
    worse: list = field(default_factory=list)

    @property
    def missed(self):
        """Goals that are not met."""
        return [goal for goal in self.goals if goal["met"] is False]

    def word(self):
        """Return one word for the table."""
        if self.worse:
            return "WORSE"
        if self.missed:
            return "below goal"
        if any(goal["met"] is None for goal in self.goals):
            return "partly measured"
        return "at goal"


def format_number(value):
    """Write a number with three digits."""
    if value is None:
        return "-"
    if math.isinf(value):
        return "never"
    if abs(value) >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def format_value(name, value):
    """Write a figure with its unit."""
    text = format_number(value)
    unit = METRICS[name].unit
    return f"{text} {unit}" if unit and text not in ("-", "never") else text


def medians_of(samples):
    """Return the median of each figure over the runs that came to their end."""
    good = [sample for sample in samples if "failed" not in sample]
    names = dict.fromkeys(name for sample in good for name in sample["figures"])
    found = {}
    for name in names:
        values = [sample["figures"].get(name) for sample in good]
        missing = METRICS[name].missing if name in METRICS else None
        values = [missing if value is None else value for value in values]
        values = [value for value in values if value is not None]
        if values:
            found[name] = statistics.median_high(values)
    return found


def is_worse(name, ours, theirs):
    """True if ours is worse than theirs by more than what means nothing."""
    metric = METRICS[name]
    if metric.more_is_better:
        theirs = min(theirs, metric.enough)
        return ours < theirs * (1 - metric.noise) - metric.slack
    return ours > theirs * (1 + metric.noise) + metric.slack


def failures(samples):
    """Return what became of the runs that failed."""
    return [sample["failed"] for sample in samples if "failed" in sample]


def judge(row, results):
    """Return the verdict on one row's {driver: [samples]}."""
    medians = {driver: medians_of(samples) for driver, samples in results.items()}
    verdict = Verdict(row.name)
    for goal in row.goals:
        met, seen = goal.judge(medians)
        verdict.goals.append({"goal": goal.words(), "met": met, "seen": seen})
    ours, theirs = (len(failures(results.get(driver, ()))) for driver in (OURS, IN_TREE))
    if ours > theirs:
        verdict.worse.append(f"{ours} of {len(results[OURS])} runs failed: "
                             f"{failures(results[OURS])[0]}")
    for name in row.never_worse:
        mine, other = (medians.get(driver, {}).get(name) for driver in (OURS, IN_TREE))
        if mine is None or other is None or too_busy(name, medians):
            continue
        if is_worse(name, mine, other):
            verdict.worse.append(f"{METRICS[name].label}: {format_value(name, mine)}, "
                                 f"{LABELS[IN_TREE]} {format_value(name, other)}")
    return verdict
