# SPDX-License-Identifier: GPL-2.0-only
"""The live view: bars on a terminal, plain lines elsewhere, JSON lines on request."""

import contextlib
import json
import sys
import time
from datetime import datetime

from .errors import BalloonError
from .guests import is_left_out, open_guest
from .output import complain
from .threads import pause
from .units import format_size, parse_size

# what a line needs beside its bar: labels, figures, borders
TEXT_CELLS = 56
BAR_CELLS = range(10, 61)
STALE_SECONDS = 10


class WatchedGuest:
    """A guest, its last two samples and, once it failed, why."""

    def __init__(self, target, options, stack):
        self.target = target
        self.error = None
        self.target_bytes = None
        self.status = None
        self.statistics = None
        self.rates = {}
        self._sampled_at = None
        try:
            self._guest = stack.enter_context(open_guest(target, options.connect))
            if options.size:
                self.target_bytes = parse_size(options.size, self._guest.ram_bytes())
                self._guest.ask(self.target_bytes)
            stack.enter_context(self._guest.polling(max(1, int(options.interval))))
        except BalloonError as error:
            self.error = error

    def sample(self):
        """Look at the guest once."""
        if self.error:
            return
        try:
            status, statistics = self._guest.status(), self._guest.statistics()
        except BalloonError as error:
            self.error = error
            return
        now = time.monotonic()
        if self.status:
            self._set_rates(status, statistics, now - self._sampled_at)
        self.status, self.statistics, self._sampled_at = status, statistics, now

    def _set_rates(self, status, statistics, seconds):
        self.rates = {"actual_bytes_per_s":
                      (status.actual_bytes - self.status.actual_bytes) / seconds}
        for name in ("swap_in_bytes", "swap_out_bytes", "major_faults"):
            before, after = getattr(self.statistics, name), getattr(statistics, name)
            if before is not None and after is not None:
                self.rates[f"{name}_per_s"] = (after - before) / seconds

    @property
    def stats_age_s(self):
        """How old the statistics are; None if there are none."""
        if not self.statistics or not self.statistics.last_update_unix_s:
            return None
        return max(0, time.time() - self.statistics.last_update_unix_s)

    def as_dict(self):
        """Return a sample for JSON."""
        if self.error:
            return {"guest": self.target, "error": str(self.error)}
        return {"guest": self.target, "time_unix_s": time.time(), **self.status.as_dict(),
                "target_bytes": self.target_bytes, "statistics": self.statistics.as_dict(),
                "rates": self.rates}


def watch(options):
    """Show the guests until the count is reached, Ctrl-C, or all are gone."""
    with contextlib.ExitStack() as stack:
        watched = [WatchedGuest(target, options, stack) for target in options.guests]
        for guest in watched:
            if guest.error:
                complain(guest.error)
        watched = [guest for guest in watched
                   if not is_left_out(options, guest.target, guest.error)]
        if options.json:
            show = show_json
        elif sys.stdout.isatty():
            show = stack.enter_context(live_screen())
        else:
            show = show_lines
        look = 0
        while not all(guest.error for guest in watched):
            for guest in watched:
                guest.sample()
            show(watched)
            look += 1
            if look == options.count:
                break
            pause(options.interval)
    return max((getattr(guest.error, "exit_status", 0) for guest in watched), default=0)


def show_json(watched):
    """Print one JSON object per guest and look."""
    for guest in watched:
        print(json.dumps(guest.as_dict()), flush=True)


def show_lines(watched):
    """Print one line per guest and look."""
    for guest in watched:
        if guest.error:
            print(f"{guest.target}: {guest.error}", flush=True)
            continue
        words = [datetime.now().strftime("%H:%M:%S"), guest.status.name,
                 f"actual {format_size(guest.status.actual_bytes)}"]
        if guest.target_bytes:
            words.append(f"target {format_size(guest.target_bytes)}")
        words += [f"free {format_size(guest.statistics.free_bytes)}",
                  f"available {format_size(guest.statistics.available_bytes)}",
                  f"resident {format_size(guest.status.resident_bytes)}",
                  f"{rate(guest, 'actual_bytes')}"]
        print("  ".join(words), flush=True)


def rate(guest, name):
    """Return a rate of bytes, signed, for people."""
    bytes_per_s = guest.rates.get(f"{name}_per_s")
    if bytes_per_s is None:
        return "-"
    return f"{bytes_per_s / (1 << 20):+.1f} MiB/s"


@contextlib.contextmanager
def live_screen():
    """Give a function that draws the guests in place."""
    try:
        from rich.console import Console, Group
        from rich.live import Live
    except ImportError as error:
        raise BalloonError("the live view needs python3-rich (apt-get install python3-rich); "
                           "--json and a pipe do without") from error
    console = Console()

    def draw(watched):
        live.update(Group(*(panel(guest, console.width) for guest in watched)), refresh=True)
    with Live(console=console, auto_refresh=False) as live:
        yield draw


def panel(guest, width):
    """Return a guest as a box with bars."""
    from rich.console import Group
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    if guest.error:
        return Panel(Text(str(guest.error)), title=guest.target, title_align="left",
                     border_style="red")
    status, statistics = guest.status, guest.statistics
    ram_bytes = status.ram_bytes
    cells = min(max(width - TEXT_CELLS, BAR_CELLS.start), BAR_CELLS.stop - 1)
    table = Table.grid(padding=(0, 2))

    def add(label, part_bytes, style, note, mark_bytes=None):
        table.add_row(label, bar(cells, ram_bytes, part_bytes or 0, style, mark_bytes),
                      Text(format_size(part_bytes), justify="right"), note)
    target = f"to {format_size(guest.target_bytes)}, " if guest.target_bytes else ""
    add("actual", status.actual_bytes, "cyan", f"{target}{rate(guest, 'actual_bytes')}",
        guest.target_bytes)
    if guest.stats_age_s is not None:
        add("available", statistics.available_bytes, "green",
            f"of the guest's {format_size(statistics.total_bytes)}")
        age = "" if guest.stats_age_s < STALE_SECONDS else f"{guest.stats_age_s:.0f} s ago"
        add("free", statistics.free_bytes, "green", age)
    add("resident", status.resident_bytes, "magenta", "on the host (QEMU)")
    return Panel(Group(table, Text(last_line(guest), style="dim")), title_align="left",
                 title=f"{status.name}: RAM {format_size(ram_bytes)}")


def last_line(guest):
    """Return what is no bar."""
    if guest.stats_age_s is None:
        return "no statistics: is a balloon driver loaded in the guest?"
    return (f"swap in {rate(guest, 'swap_in_bytes')}, out {rate(guest, 'swap_out_bytes')}; "
            f"major faults {guest.rates.get('major_faults_per_s', 0):.0f}/s")


def bar(cells, whole, part, style, mark=None):
    """Return a bar of `part` in `whole`, with a mark where the target is."""
    from rich.text import Text

    filled = min(cells, round(cells * part / whole))
    text = Text("█" * filled, style=style)
    text.append("░" * (cells - filled), style="dim")
    if mark is not None:
        cell = min(cells - 1, int(cells * mark / whole))
        text = text[:cell] + Text("┃", style="bold yellow") + text[cell + 1:]
    return text
