# SPDX-License-Identifier: GPL-2.0-only
"""The command line of balloonctl."""

import argparse
import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from .balance.arguments import add_balance_arguments
from .errors import BalloonError, UsageError
from .guests import open_guest
from .output import complain, show_set, show_stats, show_status
from .resize import wait_for_target
from .units import VALID_SIZES, parse_size
from .watch import watch

VERSION = "0.1.0"
EPILOG = """\
GUEST is the path of a QMP socket (qemu -qmp unix:PATH,server=on,wait=off), libvirt:DOMAIN,
or the plain name of a libvirt domain. Several guests are served at once.

exit status: 0 done; 1 QEMU or libvirt refused; 2 wrong usage; 3 guest not reachable;
4 no balloon device; 5 actual did not move, so the guest has no driver; 6 the guest stopped
short of the target. With several guests it is the highest of theirs.
"""


def build_parser():
    """Return the parser; the tests compare it with the manual page and the completions."""
    parser = argparse.ArgumentParser(
        prog="balloonctl", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Show and set how much memory QEMU guests have, through their balloon.")
    parser.add_argument("--version", action="version", version=f"balloonctl {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    add_guests(commands.add_parser("status", help="show the guests' sizes"))

    resize = commands.add_parser("set", help="ask the guests for another size, and wait for it")
    resize.add_argument("size", metavar="SIZE", help="what the guest shall keep: "
                        + VALID_SIZES.replace("%", "%%"))
    add_guests(resize)
    resize.add_argument("--timeout", type=positive_seconds, default=30, metavar="SECONDS",
                        help="give up after so long without movement (30)")
    resize.add_argument("--no-wait", action="store_true", help="ask only")

    stats = commands.add_parser("stats", help="show the guests' statistics")
    add_guests(stats)
    stats.add_argument("--timeout", type=positive_seconds, default=10, metavar="SECONDS",
                       help="wait so long for a report (10)")

    live = commands.add_parser("watch", help="show all of it, live")
    add_guests(live)
    live.add_argument("--set", metavar="SIZE", dest="size", help="ask for that size first")
    live.add_argument("--interval", type=positive_seconds, default=1, metavar="SECONDS",
                      help="time between two looks (1)")
    live.add_argument("--count", type=int, default=0, metavar="N",
                      help="stop after so many looks (0: at Ctrl-C)")

    balance = commands.add_parser("balance", help="move memory between guests by itself")
    add_balance_arguments(balance)
    return parser


def add_guests(parser):
    """Add what every command takes."""
    parser.add_argument("guests", nargs="*", metavar="GUEST",
                        help="QMP socket, libvirt:DOMAIN or a domain's name")
    parser.add_argument("-g", "--guest", action="append", default=[], metavar="GUEST",
                        dest="more_guests", help="a further guest (may be repeated)")
    parser.add_argument("-c", "--connect", metavar="URI", help="libvirt's URI")
    parser.add_argument("--json", action="store_true", help="print JSON")


def positive_seconds(text):
    """Return a number of seconds above zero, for argparse."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e9:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds above 0")
    return seconds


def parse(arguments):
    """Return the options; guests may stand before, between and after options."""
    parser = build_parser()
    # argparse fills GUEST from the first place that could hold it, even with nothing
    options, rest = parser.parse_known_args(arguments)
    if options.command == "balance":
        # that one names its guests in its settings
        return parser.parse_args(arguments)
    unknown = [word for word in rest if word.startswith("-")]
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    options.guests += rest + options.more_guests
    return options


def main(arguments=None):
    """Run balloonctl and return its exit status."""
    options = parse(arguments)
    # end as after Ctrl-C, so that polling intervals are restored
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        if options.command == "balance":
            from .balance.command import run
            return run(options)
        if not options.guests:
            raise UsageError("no guest named: give a QMP socket or a libvirt domain")
        if options.command == "watch":
            return watch(options)
        return run_on_all(options)
    except BalloonError as error:
        complain(error)
        return error.exit_status
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        # the reader had enough; keep Python from complaining when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def run_on_all(options):
    """Run a command on all guests at once, print what they returned in their order."""
    command = {"status": run_status, "set": run_set, "stats": run_stats}[options.command]

    def run(target):
        try:
            with open_guest(target, options.connect) as guest:
                return command(guest, options)
        except BalloonError as error:
            return error

    with ThreadPoolExecutor(len(options.guests)) as pool:
        results = list(pool.map(run, options.guests))
    if options.json:
        print(json.dumps([as_json(target, result)
                          for target, result in zip(options.guests, results)], indent=2))
    else:
        show = {"status": show_status, "set": show_set, "stats": show_stats}[options.command]
        show([result for result in results if not isinstance(result, BalloonError)])
        sys.stdout.flush()
        for result in results:
            if isinstance(result, BalloonError):
                complain(result)
    return max(getattr(result, "exit_status", 0) for result in results)


def as_json(target, result):
    """Return what --json prints for one guest."""
    if isinstance(result, BalloonError):
        return {"guest": target, "error": str(result), "exit_status": result.exit_status}
    return {"guest": target, **result}


def run_status(guest, _options):
    """Return the guest's sizes."""
    return guest.status().as_dict()


def run_set(guest, options):
    """Ask for a size, wait for it, and return what came of it."""
    target_bytes = parse_size(options.size, guest.ram_bytes())
    started = time.monotonic()
    before_bytes = guest.actual_bytes()
    guest.ask(target_bytes)
    if not options.no_wait:
        wait_for_target(guest, target_bytes, options.timeout)
    return {"name": guest.name, "target_bytes": target_bytes, "before_bytes": before_bytes,
            "actual_bytes": guest.actual_bytes(), "seconds": time.monotonic() - started}


def run_stats(guest, options):
    """Return fresh statistics and sizes."""
    with guest.polling(1):
        statistics = guest.fresh_statistics(options.timeout)
    return guest.status().as_dict() | {"statistics": statistics.as_dict()}
