# SPDX-License-Identifier: GPL-2.0-only
"""`balloonctl doctor`: examine guests, and show what was found."""

import textwrap
from shutil import get_terminal_size

from ..guests import QmpGuest
from . import qemu
from .facts import PROBLEM
from .rules import findings

FINDINGS_STATUS = 7
LABEL_CELLS = 10
LEAST_CELLS = 60
MOST_CELLS = 100


def run_doctor(guest, _options):
    """Return what is to be said about a guest."""
    facts = collect(guest)
    found = findings(facts)
    problems = any(finding.level == PROBLEM for finding in found)
    return {"name": facts.name, "findings": [finding.as_dict() for finding in found],
            "unseen": facts.unseen, "exit_status": FINDINGS_STATUS if problems else 0}


def collect(guest):
    """Return the facts, from whoever manages the guest."""
    if isinstance(guest, QmpGuest):
        return qemu.collect(guest)
    from . import domain
    return domain.collect(guest)


def show_doctor(results):
    """Print a block per guest."""
    cells = min(max(get_terminal_size((MOST_CELLS, 24)).columns, LEAST_CELLS), MOST_CELLS)
    for number, result in enumerate(results):
        if number:
            print()
        print(f"{result['name']}: {summary(result['findings'])}")
        for finding in result["findings"]:
            print_labelled(cells, "  " + finding["level"], finding["problem"])
            print_labelled(cells, "    costs", finding["cost"])
            print_labelled(cells, "    change", finding["change"])
        for what, why in result["unseen"].items():
            print_labelled(cells, "  not seen", f"{what}: {why}")


def summary(found):
    """Return how much was found, in words."""
    nr_problems = sum(finding["level"] == PROBLEM for finding in found)
    nr_notes = len(found) - nr_problems
    counts = [f"{number} {word}{'' if number == 1 else 's'}"
              for number, word in ((nr_problems, "problem"), (nr_notes, "note")) if number]
    return ", ".join(counts) or "nothing to change"


def print_labelled(cells, label, text):
    """Print a text beside its label, over as many lines as it needs."""
    indent = " " * (LABEL_CELLS + 2)
    print(textwrap.fill(text, cells, initial_indent=f"{label:<{LABEL_CELLS}}  ",
                        subsequent_indent=indent, break_long_words=False,
                        break_on_hyphens=False))
