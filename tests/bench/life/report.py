# SPDX-License-Identifier: GPL-2.0-only
"""How it is shown: tables for a terminal."""

from rich.table import Table

from .judge import LABELS, METRICS, failures, format_value, medians_of


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
    for name in row.shown:
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
