# SPDX-License-Identifier: GPL-2.0-only
"""The command line of balloonctl."""

import argparse
import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait

from . import threads
from .balance.arguments import add_balance_arguments
from .errors import BalloonError, UsageError
from .export.arguments import TIMEOUT_S, add_export_arguments
from .guests import all_domains, is_left_out, open_guest, without_twins
from .output import complain, show_set, show_stats, show_status
from .resize import wait_for_target
from .units import VALID_SIZES, parse_size
from .watch import watch

VERSION = "0.1.0"
# each is a connection to libvirt
MOST_AT_ONCE = 64
# how long a guest has to be left as it was found, once we are to end
FAREWELL_SECONDS = 5
EPILOG = """\
GUEST is the path of a QMP socket (qemu -qmp unix:PATH,server=on,wait=off), libvirt:DOMAIN,
or the plain name of a libvirt domain. Several guests are served at once.

exit status: 0 done; 1 QEMU or libvirt refused; 2 wrong usage; 3 guest not reachable;
4 no balloon device; 5 actual did not move, so the guest has no driver; 6 the guest stopped
short of the target; 7 doctor found a problem. With several guests it is the highest of theirs.
"""


def build_parser():
    """Return the parser; the tests compare it with the manual page and the completions."""
    parser = argparse.ArgumentParser(
        prog="balloonctl", epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Show and set how much memory QEMU guests have, through their balloon.")
    parser.add_argument("--version", action="version", version=f"balloonctl {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    status = commands.add_parser("status", help="show the guests' sizes and drivers")
    add_guests(status)
    add_all(status)
    add_monitor(status)

    doctor = commands.add_parser("doctor", help="find what keeps the guests' balloons from working")
    add_guests(doctor)
    add_all(doctor)
    add_monitor(doctor)

    resize = commands.add_parser("set", help="ask the guests for another size, and wait for it")
    resize.add_argument("size", metavar="SIZE", help="what the guest shall keep: "
                        + VALID_SIZES.replace("%", "%%"))
    add_guests(resize)
    resize.add_argument("--timeout", type=positive_seconds, default=30, metavar="SECONDS",
                        help="give up after so long in which it comes no nearer (30)")
    resize.add_argument("--no-wait", action="store_true", help="ask only")

    stats = commands.add_parser("stats", help="show the guests' statistics")
    add_guests(stats)
    add_all(stats)
    stats.add_argument("--timeout", type=positive_seconds, default=10, metavar="SECONDS",
                       help="wait so long for a report (10)")

    live = commands.add_parser("watch", help="show all of it, live")
    add_guests(live)
    add_all(live)
    live.add_argument("--set", metavar="SIZE", dest="size", help="ask for that size first")
    live.add_argument("--interval", type=positive_seconds, default=1, metavar="SECONDS",
                      help="time between two looks (1)")
    live.add_argument("--count", type=int, default=0, metavar="N",
                      help="stop after so many looks (0: at Ctrl-C)")

    export = commands.add_parser("export", help="print the guests' figures for Prometheus")
    add_guests(export, json_too=False)
    export.add_argument("--timeout", type=positive_seconds, default=TIMEOUT_S, metavar="SECONDS",
                        help=f"count a guest as down that does not answer in so long ({TIMEOUT_S})")
    add_export_arguments(export)

    balance = commands.add_parser("balance", help="move memory between guests by itself")
    add_balance_arguments(balance)
    return parser


def add_guests(parser, json_too=True):
    """Add what every command takes."""
    parser.add_argument("guests", nargs="*", metavar="GUEST",
                        help="QMP socket, libvirt:DOMAIN or a domain's name")
    parser.add_argument("-g", "--guest", action="append", default=[], metavar="GUEST",
                        dest="more_guests", help="a further guest (may be repeated)")
    parser.add_argument("-c", "--connect", metavar="URI", help="libvirt's URI")
    if json_too:
        parser.add_argument("--json", action="store_true", help="print JSON")


def add_all(parser):
    """Add --all; not to what changes guests."""
    parser.add_argument("--all", action="store_true", help="all running domains of libvirt, too")


def add_monitor(parser):
    """Add --monitor."""
    parser.add_argument("--monitor", action="store_true",
                        help="ask QEMU itself what libvirt does not tell of a domain; libvirt "
                             "marks the domain as tainted")


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
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    return threads.leave(run_command(options))


def interrupt(number, _frame):
    """End on a signal, polling intervals restored; the second one does not wait for that."""
    signal.signal(number, signal.SIG_DFL)
    threads.end()
    raise KeyboardInterrupt(number)


def run_command(options):
    """Run a command and return its exit status."""
    try:
        if options.command == "balance":
            from .balance.command import run
            return run(options)
        if options.command == "export":
            from .export.command import run
            return run(options)
        if getattr(options, "all", False):
            options.named = set(options.guests)
            options.guests = without_twins([*options.guests, *all_domains(options.connect)])
            if not options.guests:
                complain("no domain is running")
        elif not options.guests:
            raise UsageError("no guest named: give a QMP socket or a libvirt domain")
        if options.command == "watch":
            return watch(options)
        return run_on_all(options)
    except BalloonError as error:
        complain(error)
        return error.exit_status
    except KeyboardInterrupt as signalled:
        return 128 + (signalled.args or (signal.SIGINT,))[0]
    except BrokenPipeError:
        # the reader had enough; keep Python from complaining when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def run_on_all(options):
    """Run a command on all guests at once, print what they returned in their order."""
    command, show = find_command(options.command)
    monitor = getattr(options, "monitor", False)

    def run(target):
        try:
            with open_guest(target, options.connect, monitor) as guest:
                return command(guest, options)
        except BalloonError as error:
            return error

    results = leave_out(options, at_once(run, options.guests))
    if options.json:
        print(json.dumps([as_json(target, result)
                          for target, result in zip(options.guests, results)], indent=2))
    else:
        show([result for result in results if not isinstance(result, BalloonError)])
    sys.stdout.flush()
    for error in () if options.json else results:
        if isinstance(error, BalloonError):
            complain(error)
    return max(map(exit_status, results), default=0)


def leave_out(options, results):
    """Return the results without domains of --all that nobody named and that have no balloon."""
    kept = []
    for target, result in zip(options.guests, results):
        if is_left_out(options, target, result):
            complain(f"{result}; left out")
        else:
            kept.append((target, result))
    options.guests = [target for target, _ in kept]
    return [result for _, result in kept]


def at_once(function, items):
    """Return what a function returns for each item, in their order."""
    pool = ThreadPoolExecutor(min(len(items), MOST_AT_ONCE) or 1)
    futures = [pool.submit(function, item) for item in items]
    try:
        return [future.result() for future in futures]
    except KeyboardInterrupt:
        pool.shutdown(wait=False, cancel_futures=True)
        # they restore what they have changed
        wait(futures, FAREWELL_SECONDS)
        raise
    finally:
        # all have ended, or nobody waits for them
        pool.shutdown(wait=False)


def find_command(name):
    """Return what a command does with a guest, and what shows the results."""
    if name == "doctor":
        from .doctor.command import run_doctor, show_doctor
        return run_doctor, show_doctor
    return {"status": (run_status, show_status), "set": (run_set, show_set),
            "stats": (run_stats, show_stats)}[name]


def exit_status(result):
    """Return the exit status that one guest's result asks for."""
    if isinstance(result, BalloonError):
        return result.exit_status
    return result.get("exit_status", 0)


def as_json(target, result):
    """Return what --json prints for one guest."""
    if isinstance(result, BalloonError):
        return {"guest": target, "error": str(result), "exit_status": result.exit_status}
    return {"guest": target, **result}


def run_status(guest, _options):
    """Return the guest's sizes and its device."""
    return guest.status().as_dict() | {"device": guest.device().as_dict()}


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
