# SPDX-License-Identifier: GPL-2.0-only
"""What balloonctl prints for people."""

import sys
from datetime import datetime

from .units import format_size

STATUS_COLUMNS = (("RAM", "ram_bytes"), ("ACTUAL", "actual_bytes"),
                  ("BALLOON", "balloon_bytes"), ("RESIDENT", "resident_bytes"))


def complain(error):
    """Print an error as one line."""
    print(f"balloonctl: {error}", file=sys.stderr)


def show_status(results):
    """Print a table of sizes, drivers and features."""
    rows = [["GUEST", *(title for title, _ in STATUS_COLUMNS), "DRIVER", "RANGES", "FEATURES"]]
    rows += [[result["name"], *(format_size(result[key]) for _, key in STATUS_COLUMNS),
              *device_cells(result["device"])] for result in results]
    if results:
        print_columns(rows, right=range(1, 1 + len(STATUS_COLUMNS)))


def device_cells(device):
    """Return driver, ranges and features; those in brackets are offered only."""
    driver = {None: "-", "no-driver": "none"}.get(device["state"], device["state"])
    ranges = {None: "-", True: "yes", False: "no"}[device["ranges"]]
    taken = device["negotiated"]
    if taken is None:
        return driver, ranges, f"({' '.join(device['offered'])})"
    declined = [word for word in device["offered"] if word not in taken]
    words = [*taken, *([f"({' '.join(declined)})"] if declined else [])]
    return driver, ranges, " ".join(words) or "-"


def show_set(results):
    """Print one line per guest that follows."""
    for result in results:
        size = format_size(result["actual_bytes"])
        if result["actual_bytes"] == result["target_bytes"]:
            print(f"{result['name']}: {size}, was {format_size(result['before_bytes'])}, "
                  f"{result['seconds']:.1f} s")
        else:
            print(f"{result['name']}: asked for {format_size(result['target_bytes'])}, "
                  f"now {size}")


def show_stats(results):
    """Print the values that the guest reported, a block per guest."""
    for number, result in enumerate(results):
        if number:
            print()
        rows = [[title.capitalize(), format_size(result[key])] for title, key in STATUS_COLUMNS]
        rows += [[name, value] for name, value in map(readable, *zip(
            *result["statistics"].items())) if value is not None]
        print(result["name"])
        print_columns([["", *row] for row in rows])


def readable(name, value):
    """Return a statistic's name and value for people; the value is None if there is none."""
    if value is None:
        return name, None
    if name == "last_update_unix_s":
        return "Reported", datetime.fromtimestamp(value).strftime("%H:%M:%S")
    label = name.removesuffix("_bytes").replace("_", " ").capitalize().replace("oom", "OOM")
    return label, format_size(value) if name.endswith("_bytes") else str(value)


def print_columns(rows, right=()):
    """Print a table; columns of numbers are put to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.rjust(width) if column in right else cell.ljust(width)
                 for column, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())
