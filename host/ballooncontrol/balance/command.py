# SPDX-License-Identifier: GPL-2.0-only
"""`balloonctl balance`: the service itself, its check, its status, and the live view."""

import asyncio
import json
import sys

from ..errors import BalloonError, UsageError
from ..units import format_size
from .service import NOTICE, Service, log, log_to_stderr, read_status, socket_path

# a check listens for so many intervals, so that guests can report
CHECK_INTERVALS = 2.5
BAR_CELLS = 24
SHOWN_MOVES = 8


def run(options):
    """Run it; return the exit status."""
    path = options.socket or socket_path()
    if options.check:
        if options.action != "run":
            raise UsageError("--check goes with no action")
        return asyncio.run(check(options))
    if options.action == "run":
        return asyncio.run(serve(options, path))
    return asyncio.run(show(options, path))


async def serve(options, path):
    """Be the service."""
    log_to_stderr()
    service = Service(options.config, path, options.proc)
    await service.run()
    return 0


# The check

async def check(options):
    """Listen to the guests for a while and tell what would be done."""
    log_to_stderr()
    log.setLevel(NOTICE)
    service = Service(options.config, socket_path(), options.proc)
    print(f"{options.config}: valid")
    await service.rehearse(CHECK_INTERVALS * service.interval_s)
    status = service.status()
    if options.json:
        print(json.dumps(status, indent=2))
        return 0
    print_status(status)
    print("\nIt would now do:" if status["moves"] else "\nIt would leave all sizes as they are.")
    for move in status["moves"]:
        print(f"  {move['text']}")
    return 0


# Status

async def show(options, path):
    """Print the service's status once, or again and again."""
    looks = 0
    live = None

    def on_status(status):
        nonlocal looks
        looks += 1
        if options.json:
            print(json.dumps(status, indent=None if options.action == "watch" else 2), flush=True)
        elif live:
            live.update(draw(status), refresh=True)
        else:
            print_status(status)
            if options.action == "watch":
                print(flush=True)
        return options.action == "status" or looks == options.count

    if options.action == "watch" and sys.stdout.isatty() and not options.json:
        live = make_live()
        with live:
            await read_status(path, on_status)
    else:
        await read_status(path, on_status)
    return 0


def host_line(status):
    """Return what there is to say of the host."""
    host = status["host"]
    stalled = "" if host["stalled_percent"] is None else \
        f", {host['stalled_percent']:g} % stalled"
    room = status["room_bytes"]
    counts = status["counts"]
    return (f"host {host['state']}: {format_size(host['available_bytes'])} of "
            f"{format_size(host['total_bytes'])} available, margin "
            f"{format_size(host['margin_bytes'])}{stalled}; "
            f"{'room' if room >= 0 else 'lacking'} {format_size(abs(room))}, "
            f"wanted {format_size(status['demand_bytes'])}; "
            f"{counts['takes']} takes, {counts['gives']} gives so far")


COLUMNS = (("SIZE", "actual_bytes"), ("TARGET", "target_bytes"), ("NEED", "need_bytes"),
           ("AVAILABLE", "available_bytes"), ("RESIDENT", "resident_bytes"),
           ("MINIMUM", "minimum_bytes"), ("MAXIMUM", "maximum_bytes"))


def guest_words(guest):
    """Return what there is to say of a guest."""
    words = [guest["trouble"]] if guest["trouble"] else []
    if guest["want_bytes"]:
        words.append(f"wants {format_size(guest['want_bytes'])}")
    elif guest["idle_bytes"] and not words:
        words.append(f"{format_size(guest['idle_bytes'])} idle")
    if guest["note"]:
        words.append(guest["note"])
    return "; ".join(words) or "balanced"


def print_status(status):
    """Print a table of the guests."""
    print(host_line(status))
    if not status["guests"]:
        print("no guests")
        return
    rows = [["GUEST", *(title for title, _ in COLUMNS), "WEIGHT", "STATE"]]
    for guest in status["guests"]:
        rows.append([guest["name"], *(format_size(guest[key]) for _, key in COLUMNS),
                     f"{guest['weight']:g}", guest_words(guest)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    last = len(widths) - 1
    for row in rows:
        cells = [cell.ljust(width) if column in (0, last) else cell.rjust(width)
                 for column, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join(cells).rstrip())


# The live view

def make_live():
    """Return rich's live screen."""
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError as error:
        raise BalloonError("the live view needs python3-rich (apt-get install python3-rich); "
                           "--json and a pipe do without") from error
    return Live(console=Console(), auto_refresh=False)


def draw(status):
    """Return the status as bars: used, available, and marks where target and minimum are."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 1), title=host_line(status), title_justify="left")
    for title in ("guest", "uses ▓  available ░  minimum |  target ┃", "size", "state"):
        table.add_column(title)
    for guest in status["guests"]:
        table.add_row(guest["name"], guest_bar(guest), format_size(guest["actual_bytes"]),
                      Text(guest_words(guest), style="red" if guest["trouble"] else ""))
    moves = [Text(f"{move['text']}", style="dim") for move in status["moves"][-SHOWN_MOVES:]]
    return Group(table, Text("last moves:"), *moves)


def guest_bar(guest):
    """Return a bar as wide as the guest's RAM."""
    from rich.text import Text

    whole = guest["ram_bytes"]
    if not whole:
        return Text("?")

    def cell(size_bytes):
        return min(BAR_CELLS - 1, max(0, round(BAR_CELLS * (size_bytes or 0) / whole)))
    actual, used = guest["actual_bytes"], guest["used_bytes"]
    cells = ["▓"] * cell(actual if used is None else min(used, actual))
    cells += ["░"] * (cell(actual) - len(cells))
    cells += [" "] * (BAR_CELLS - len(cells))
    cells[cell(guest["minimum_bytes"])] = "|"
    cells[cell(guest["target_bytes"])] = "┃"
    return Text("".join(cells), style="cyan")
