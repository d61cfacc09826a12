# SPDX-License-Identifier: GPL-2.0-only
"""What `balloonctl export` takes; kept apart so that other commands need not load the rest."""

import argparse
from pathlib import Path

from ..errors import UsageError

TIMEOUT_S = 5
LAST_PORT = 65535


def add_export_arguments(parser):
    """Add them; the guests are added as for the other commands."""
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--textfile", metavar="FILE", type=Path,
                       help="replace FILE, for node_exporter's textfile collector")
    where.add_argument("--listen", metavar="ADDRESS:PORT",
                       help="serve http://ADDRESS:PORT/metrics until SIGTERM")
    parser.add_argument("--all", action="store_true",
                        help="every running libvirt domain, as they come and go")
    parser.add_argument("--balance", action="store_true",
                        help="what the service balloonctl-balance does, too")
    parser.add_argument("--socket", metavar="PATH", type=Path,
                        help="where that service tells its status (/run/balloonctl/balance.sock)")
    parser.add_argument("--poll", type=whole_seconds, metavar="SECONDS",
                        help="have QEMU ask the guests for statistics at least so often")


def whole_seconds(text):
    """Return a whole number of seconds above zero, for argparse."""
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 31:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number of seconds above 0")
    return int(text)


def parse_listen(text):
    """Return the address and the port of ADDRESS:PORT; no address stands for all."""
    address, colon, port = text.rpartition(":")
    address = address.removeprefix("[").removesuffix("]")
    if not colon or not (port.isascii() and port.isdigit()) or int(port) > LAST_PORT:
        raise UsageError(f"'{text}' is no place to listen at: give ADDRESS:PORT, "
                         "such as 127.0.0.1:9911 or [::1]:9911")
    return address, int(port)
