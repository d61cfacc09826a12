# SPDX-License-Identifier: GPL-2.0-only
"""How it is shown: tables for a terminal and for documents, and a picture."""

import math
from collections import Counter

from rich.table import Table
from vbaldoc import markdown_table

from .judge import (IN_TREE, LABELS, METRICS, NONE, OURS, WORKS, failures, format_number,
                    format_value, medians_of)


def table(measured, verdicts):
    """Return all rows as a table: a line per figure, a column per driver."""
    drivers = [driver for driver in LABELS
               if any(driver in results for _, results in measured.values())]
    shown = Table(title="Guests in use (medians)")
    shown.add_column("")
    for driver in drivers:
        shown.add_column(LABELS[driver], justify="right")
    for row, results in measured.values():
        verdict = verdicts.get(row.name)
        shown.add_section()
        shown.add_row(f"[bold]{row.name}[/] {row.what}"
                      + (f" [bold]{verdict.word()}[/]" if verdict else ""))
        for label, *values in lines(row, results, drivers):
            shown.add_row(label, *values)
    return shown


def lines(row, results, drivers):
    """Yield (label, a value for each driver) for what a row shows."""
    medians = {driver: medians_of(results.get(driver, ())) for driver in drivers}
    for name in ("mem_mib", *row.shown):
        if any(name in found for found in medians.values()):
            yield (METRICS[name].label,
                   *(format_value(name, medians[driver].get(name)) for driver in drivers))
    if any(failures(samples) for samples in results.values()):
        yield ("runs that failed", *("; ".join(failures(results.get(driver, ()))) or "-"
                                     for driver in drivers))


def verdict_lines(verdicts):
    """Yield what is to be said about each row."""
    for verdict in verdicts.values():
        yield f"{verdict.row}: {verdict.word()}"
        for text in verdict.worse:
            yield f"  worse than virtio_balloon: {text}"
        for goal in verdict.goals:
            if goal["met"] is not True:
                state = "not met" if goal["met"] is False else "not judged"
                yield f"  {state}: {goal['goal']}: {goal['seen']}"


# For documents

MARKERS = "bench-life"
# What a stranger should see first, in this order.
README_ROWS = ("cache-cold", "cache-warm", "streaming", "working-set", "database", "burst")


def readme(measured, environment):
    """Return README's table: few rows, one figure each."""
    body = []
    for name in README_ROWS:
        if name not in measured:
            continue
        row, results = measured[name]
        body.append([f"{row.what}: {METRICS[row.headline].label}",
                     *(_headline(row, results, driver) for driver in (IN_TREE, OURS))])
    table_text = markdown_table(["the guest", LABELS[IN_TREE], LABELS[OURS]], body)
    return f"{table_text}\n\n{environment}"


def _headline(row, results, driver):
    samples = results.get(driver, ())
    if samples and len(failures(samples)) == len(samples):
        return failures(samples)[0]
    return format_value(row.headline, medians_of(samples).get(row.headline))


def document(measured, verdicts, environment):
    """Return what docs/life.md says between its markers."""
    words = Counter(verdicts[name].word() for name in measured)
    parts = [environment,
             ", ".join(f"{count} rows {word}" for word, count in words.items()) + "."]
    for row, results in measured.values():
        drivers = [driver for driver in LABELS if driver in results]
        body = [list(line) for line in lines(row, results, drivers)]
        verdict = verdicts[row.name]
        parts.append(f"### {row.name}: {verdict.word()}\n\n{row.what[0].upper()}{row.what[1:]}.\n\n"
                     + markdown_table(["", *(LABELS[driver] for driver in drivers)], body))
        said = [f"- Worse than virtio_balloon: {text}" for text in verdict.worse]
        said += [f"- {'Not met' if goal['met'] is False else 'Not judged'}: {goal['goal']} "
                 f"(seen: {goal['seen']})" for goal in verdict.goals if goal["met"] is not True]
        if met := [goal["goal"] for goal in verdict.goals if goal["met"]]:
            said.append(f"- Met: {'; '.join(met)}")
        if said:
            parts.append("\n".join(said))
    return "\n\n".join(parts)


# The picture

COLOURS = {NONE: "#b8bcc4", IN_TREE: "#c44e52", OURS: "#2a6f97"}
PANELS = (("seconds_100", "seconds until the host has it", False),
          ("host_system_s", "host's CPU time, s", False),
          ("discards_per_gib", "host's discard calls per GiB", True))
BAR = 0.38
FELT = tuple(f"{work}_p99_us" for work in WORKS)


def picture(measured, path):
    """Draw what the host waits and pays for, and what the guest's own work feels."""
    import matplotlib
    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "vballoon"
    from matplotlib import pyplot  # after the choice of what draws

    medians = {name: {driver: medians_of(samples) for driver, samples in results.items()}
               for name, (_, results) in measured.items()}
    asked = [name for name, (row, _) in measured.items() if "seconds_100" in row.shown]
    felt = felt_ratios(medians)
    figure = pyplot.figure(figsize=(13, 1.5 + 0.5 * max(len(asked), 1) + 0.36 * len(felt)))
    grid = figure.add_gridspec(2, len(PANELS),
                               height_ratios=(max(len(asked), 1), max(0.72 * len(felt), 0.1)))
    for column, (metric, title, logarithmic) in enumerate(PANELS):
        axis = figure.add_subplot(grid[0, column])
        bars(axis, asked, {name: {driver: figures.get(metric)
                                  for driver, figures in medians[name].items()
                                  if driver != NONE} for name in asked},
             lambda value, metric=metric: format_value(metric, value))
        if column == 0:
            note_failures(axis, asked, measured)
        finish(axis, title, logarithmic, labelled=column == 0)
    if felt:
        axis = figure.add_subplot(grid[1, :])
        bars(axis, list(felt), felt, lambda value: f"{format_number(value)} x")
        axis.axvline(1, color="0.4", linewidth=0.8)
        finish(axis, "the guest's own work while the balloon moves, times that of no balloon "
               "(p99; bursts: all of it)", False, labelled=True)
    handles = [pyplot.Rectangle((0, 0), 1, 1, color=COLOURS[driver])
               for driver in (IN_TREE, OURS)]
    figure.legend(handles, [LABELS[IN_TREE], LABELS[OURS]], loc="lower center", ncols=2,
                  frameon=False)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def felt_ratios(medians):
    """Return {"row, work": {driver: ratio to no balloon}}."""
    found = {}
    for name, figures in medians.items():
        base = figures.get(NONE, {})
        for metric in (*FELT, "touch_s"):
            if base.get(metric):
                found[f"{name}: {metric.removesuffix('_p99_us').removesuffix('_s')}"] = {
                    driver: figures[driver][metric] / base[metric]
                    for driver in (IN_TREE, OURS) if metric in figures.get(driver, {})}
    return found


def bars(axis, names, values, word):
    """Draw a bar per driver for each name; what never ended fills the axis."""
    finite = [value for found in values.values() for value in found.values()
              if value is not None and not math.isinf(value)]
    longest = max(finite, default=1) or 1
    for place, name in enumerate(names):
        for number, driver in enumerate((IN_TREE, OURS)):
            value = values[name].get(driver)
            if value is None:
                continue
            at = place + (number - 0.5) * BAR
            ended = not math.isinf(value)
            axis.barh(at, value if ended else longest * 1.1, BAR * 0.95, color=COLOURS[driver],
                      hatch=None if ended else "///", alpha=1 if ended else 0.35)
            axis.annotate(word(value), (value if ended else 0, at), xytext=(3, 0),
                          textcoords="offset points", va="center", fontsize=7,
                          bbox=None if ended else {"color": "white", "pad": 0.5})
    axis.set_yticks(range(len(names)), names, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlim(0, longest * 1.25)


def note_failures(axis, names, measured):
    """Write where a guest died or hung instead of giving."""
    for place, name in enumerate(names):
        for number, driver in enumerate((IN_TREE, OURS)):
            samples = measured[name][1].get(driver, ())
            if samples and len(failures(samples)) == len(samples):
                axis.annotate(failures(samples)[0].partition(":")[0],
                              (0, place + (number - 0.5) * BAR), xytext=(3, 0),
                              textcoords="offset points", va="center", fontsize=7,
                              color=COLOURS[driver], weight="bold")


def finish(axis, title, logarithmic, labelled):
    """Give a panel its title and its scale."""
    axis.set_title(title + (" (logarithmic)" if logarithmic else ""), fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="x", alpha=0.25)
    if logarithmic:
        right = axis.get_xlim()[1]
        axis.set_xscale("log")
        axis.set_xlim(1, max(right, 10) * 4)
    if not labelled:
        axis.set_yticklabels([])
