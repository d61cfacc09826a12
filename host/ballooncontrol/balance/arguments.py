# SPDX-License-Identifier: GPL-2.0-only
"""What `balloonctl balance` takes; kept apart so that other commands need not load the rest."""

from pathlib import Path

DEFAULT_PATH = Path("/etc/balloonctl/balance.toml")
ACTIONS = ("run", "status", "watch")


def add_balance_arguments(parser):
    """Add them."""
    parser.add_argument("action", nargs="?", choices=ACTIONS, default="run",
                        help="run the service (default), show its status, or watch it")
    parser.add_argument("--config", metavar="FILE", type=Path, default=DEFAULT_PATH,
                        help=f"the settings ({DEFAULT_PATH})")
    parser.add_argument("--check", action="store_true",
                        help="check the settings, tell what would be done, ask no guest")
    parser.add_argument("--socket", metavar="PATH", type=Path,
                        help="where the service tells its status (/run/balloonctl/balance.sock)")
    parser.add_argument("--proc", metavar="DIR", type=Path, default=Path("/proc"),
                        help="where meminfo and pressure/memory are read (/proc)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--count", type=int, default=0, metavar="N",
                        help="watch: stop after so many looks (0: at Ctrl-C)")
