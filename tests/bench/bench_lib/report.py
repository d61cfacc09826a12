# SPDX-License-Identifier: GPL-2.0-only
"""How it is shown: tables, a picture, and which targets are met."""

import statistics
import sys

from rich.console import Console
from rich.table import Table
from vbaldoc import markdown_table

from .rows import DRIVERS, IN_TREE

COLOURS = {"in-tree": "#8a8f98", "range": "#1b7f4b", "pfn": "#3b6fb6"}
# what README shows of the picture
SHORT_ROWS = {"1g": "guest of 1 GiB", "4g": "guest of 4 GiB", "16g": "guest of 16 GiB"}
NOTE = "median of the rounds; x = median of each round's ratio to in-tree"


def median(samples, key):
    """Return the median of what was measured under that name, or None."""
    values = [sample[key] for sample in samples if key in sample]
    return statistics.median(values) if values else None


def ratio(results, driver, key):
    """Return the median over the rounds of driver / in-tree."""
    pairs = zip(results.get(driver, ()), results.get(IN_TREE.name, ()))
    values = [ours[key] / theirs[key] for ours, theirs in pairs
              if key in ours and theirs.get(key)]
    return statistics.median(values) if values else None


def _number(value):
    if value is None:
        return "-"
    if abs(value) >= 100 or value == int(value):
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _speed(samples, key):
    values = [sample[key] for sample in samples if key in sample]
    if not values:
        return "-"
    text = _number(statistics.median(values))
    if len(values) > 1:
        text += f" ({_number(min(values))}-{_number(max(values))})"
    return text


def _ratio_text(results, driver, key):
    if driver == IN_TREE.name:
        return "1"
    return _number(ratio(results, driver, key))


SPEED_COLUMNS = ("row", "driver", "inflate GiB/s", "x", "deflate GiB/s", "x",
                 "CPU ms/GiB in", "out", "touch s/GiB")
COST_COLUMNS = ("row", "driver", "notify/GiB in", "out", "irq/GiB in", "out",
                "discards/GiB", "calls/GiB in", "out", "Minsn/GiB in", "out")
MEMORY_COLUMNS = ("row", "driver", "peak +MiB", "resident left MiB", "of it huge",
                  "huge after touch", "guest 2 MiB blocks", "hugetlb freed")


def _speed_cells(results, driver):
    samples = results[driver]
    return [_speed(samples, "inflate_gib_s"), _ratio_text(results, driver, "inflate_gib_s"),
            _speed(samples, "deflate_gib_s"), _ratio_text(results, driver, "deflate_gib_s"),
            *_medians(samples, "inflate_cpu_ms_per_gib", "deflate_cpu_ms_per_gib",
                      "touch_s_per_gib")]


def _cost_cells(results, driver):
    names = [f"{way}_{what}_per_gib" for what in ("notifications", "interrupts")
             for way in ("inflate", "deflate")]
    names += ["inflate_discards_per_gib", "inflate_system_calls_per_gib",
              "deflate_system_calls_per_gib", "inflate_minsn_per_gib", "deflate_minsn_per_gib"]
    return _medians(results[driver], *names)


def _memory_cells(results, driver):
    return _medians(results[driver], "peak_extra_mib", "rss_left_mib", "anon_huge_left_mib",
                    "anon_huge_retouched_mib", "guest_huge_blocks_left", "hugetlb_freed")


def _medians(samples, *keys):
    return [_number(median(samples, key)) for key in keys]


TABLES = (("Speed", SPEED_COLUMNS, _speed_cells), ("Cost", COST_COLUMNS, _cost_cells),
          ("Memory while inflated", MEMORY_COLUMNS, _memory_cells))


def _lines(measured, cells):
    return [[row, driver, *cells(results, driver)]
            for row, results in measured.items() for driver in results]


def print_tables(measured):
    """Print all that was measured; plain lines where there is no terminal."""
    for title, columns, cells in TABLES:
        lines = _lines(measured, cells)
        if sys.stdout.isatty():
            _rich_table(title, columns, lines)
        else:
            _plain_table(title, columns, lines)


def _rich_table(title, columns, lines):
    table = Table(title=title, caption=NOTE)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number < 2 else "right")
    for number, line in enumerate(lines):
        ends = number + 1 == len(lines) or lines[number + 1][0] != line[0]
        table.add_row(*line, end_section=ends)
    Console().print(table)


def _plain_table(title, columns, lines):
    widths = [max(len(line[i]) for line in [columns, *lines]) for i in range(len(columns))]
    print(f"\n{title} ({NOTE})")
    for line in [columns, *lines]:
        print("  ".join(cell.rjust(width) if number > 1 else cell.ljust(width)
                        for number, (cell, width) in enumerate(zip(line, widths))).rstrip())
    sys.stdout.flush()


def _by_cpu(results, driver, key):
    """Word the same ratio in CPU time, which a busy machine hardly blurs."""
    value = ratio(results, driver, key.replace("gib_s", "cpu_ms_per_gib"))
    return f" (in CPU time {_number(1 / value)} x)" if value else ""


def _targets(row, results):
    """Yield (words, value, met) for each target that applies to a row."""
    best_ratio = 50 if row.init_on_alloc else 40
    if row.name in ("4g", "4g-noinit"):
        for driver, key, least in (("range", "inflate_gib_s", best_ratio),
                                   ("range", "deflate_gib_s", 60),
                                   ("pfn", "inflate_gib_s", 1.8), ("pfn", "deflate_gib_s", 3)):
            value = ratio(results, driver, key)
            if value is not None:
                words = f"{driver} {key[:7]} >= {least} x in-tree{_by_cpu(results, driver, key)}"
                yield words, value, value >= least
        value = median(results.get("range", ()), "inflate_discards_per_gib")
        if value is not None:
            yield "range: discards per GiB <= 512", value, value <= 512
        # By PFN 4 requests go at once: the host is to answer others, too.
        for driver, least in (("range", 50), ("pfn", 3.9)):
            for way in ("inflate", "deflate"):
                key = f"{way}_notifications_per_gib"
                ours, theirs = (median(results.get(name, ()), key)
                                for name in (driver, IN_TREE.name))
                if ours is not None and theirs:
                    yield (f"{driver} {way}: notifications per GiB <= in-tree / {least}", ours,
                           ours * least <= theirs)
    for driver in ("range", "pfn"):
        for way in ("inflate", "deflate"):
            value = ratio(results, driver, f"{way}_gib_s")
            # under icount the guest's clock jumps: only instructions mean something there
            if value is not None and not row.icount:
                yield f"{driver} {way}: no slower than in-tree", value, value >= 1


def verdicts(rows, measured):
    """Return the targets as (row, words, value, met)."""
    return [(row.name, words, value, met) for row in rows if row.name in measured
            for words, value, met in _targets(row, measured[row.name])]


def print_verdicts(found):
    """Print one line per target."""
    print("\nTargets")
    for row, words, value, met in found:
        print(f"  {'met    ' if met else 'NOT MET'}  {row:14} {words}: {_number(value)}")
    print(f"  {sum(met for *_, met in found)} of {len(found)} met")


# What docs/performance.md has between its markers, in the order of TABLES.
DOCUMENT_TABLES = ("bench-speed", "bench-cost", "bench-memory")


def document(measured, found):
    """Return what docs/performance.md says, by the markers' names."""
    parts = {name: markdown_table(columns, _lines(measured, cells), nr_words=2)
             for name, (_, columns, cells) in zip(DOCUMENT_TABLES, TABLES)}
    missed = [f"- {row}: {words}: {_number(value)}" for row, words, value, met in found if not met]
    head = f"{len(found) - len(missed)} of {len(found)} targets met in these rows."
    parts["bench-targets"] = "\n".join([head + (" Not met:\n" if missed else ""), *missed])
    parts["bench-tib"] = _per_tib(measured)
    return parts


README_MARKERS, README_ROW = "bench", "4g"
README_LINES = (
    ("inflate, GiB/s", ("inflate_gib_s",)), ("deflate, GiB/s", ("deflate_gib_s",)),
    ("CPU of QEMU and guest, ms per GiB, inflate / deflate",
     ("inflate_cpu_ms_per_gib", "deflate_cpu_ms_per_gib")),
    ("notifications per GiB, inflate / deflate",
     ("inflate_notifications_per_gib", "deflate_notifications_per_gib")),
    ("discard calls of the host per GiB", ("inflate_discards_per_gib",)))


def readme(measured):
    """Return README's table of one guest."""
    results, body = measured[README_ROW], []
    for words, keys in README_LINES:
        cells = [" / ".join(_medians(results[driver.name], *keys)) for driver in DRIVERS]
        if keys[0].endswith("gib_s"):
            cells[1:] = [f"{cell} ({_ratio_text(results, driver.name, keys[0])} x)"
                         for cell, driver in zip(cells[1:], DRIVERS[1:])]
        body.append([words, *cells])
    heads = ["", "virtio_balloon", *(f"vballoon, {driver.name}" for driver in DRIVERS[1:])]
    return markdown_table(heads, body)


def _per_tib(measured):
    """Return what a guest of 1 TiB would cost, from rows whose cost does not grow."""
    rows = {name: row for name, row in measured.items() if name.endswith("-untouched")}
    rows = dict(sorted(rows.items(), key=lambda item: int(item[0].split("g-")[0])))
    body = []
    for driver in (each.name for each in DRIVERS):
        costs = [[median(row[driver], f"{way}_cpu_ms_per_gib") for way in ("inflate", "deflate")]
                 for row in rows.values()]
        # the largest guest is nearest to it; ms per GiB are about seconds per TiB
        seconds = " / ".join(f"{cost * 1.024:.0f} s" for cost in costs[-1]) if costs else "-"
        body.append([driver, *(" / ".join(map(_number, cost)) for cost in costs), seconds])
    heads = ["", *(name.split("g-")[0] + " GiB" for name in rows), "1 TiB, all of it"]
    return markdown_table(heads, body)


def picture(measured, path, rows=None):
    """Draw speeds, on a logarithmic scale, with the ratios beside the bars.

    rows has the rows and what they are called in the picture; without it it shows all.
    """
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = rows or {row: row for row in measured if not row.startswith("icount")}
    rows = [row for row in names if row in measured]
    figure, axes = pyplot.subplots(1, 2, figsize=(12, 1.6 + 0.75 * len(rows)), sharey=True)
    for axis, key, title in zip(axes, ("inflate_gib_s", "deflate_gib_s"),
                                ("inflate", "deflate")):
        _bars(axis, measured, rows, key)
        axis.set_title(f"{title}, GiB/s (logarithmic; x = times in-tree)")
        axis.set_xscale("log")
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(rows)), [names[row] for row in rows])
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=3, frameon=False)
    # room for the legend, as large in a small picture as in a large one
    figure.tight_layout(rect=(0, 0.55 / figure.get_figheight(), 1, 1))
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def _bars(axis, measured, rows, key):
    height = 0.26
    largest = 1
    for number, driver in enumerate(d.name for d in DRIVERS):
        label = {"in-tree": "virtio_balloon"}.get(driver, f"vballoon transfer={driver}")
        for place, row in enumerate(rows):
            value = median(measured[row].get(driver, ()), key)
            if value is None:
                continue
            largest = max(largest, value)
            at = place + (number - 1) * height
            axis.barh(at, value, height * 0.92, color=COLOURS[driver], label=label)
            label = "_"
            text = _number(value)
            if driver != IN_TREE.name and ratio(measured[row], driver, key):
                text += f"  {_number(ratio(measured[row], driver, key))}x"
            axis.annotate(text, (value, at), xytext=(3, 0), textcoords="offset points",
                          va="center", fontsize=7)
    axis.set_xlim(0.1, largest * 4)
