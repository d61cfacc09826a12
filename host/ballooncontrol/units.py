# SPDX-License-Identifier: GPL-2.0-only
"""Sizes as people write and read them."""

import re

from .errors import UsageError

FRAME_BYTES = 4096
UNITS = {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
SIZE = re.compile(r"(\d+(?:\.\d+)?) *(?:([KMGT])(?:iB)?|(B)|(%))", re.IGNORECASE)
VALID_SIZES = "a size is a number with a unit (1536M, 2G, 1.5GiB, 4096B) or a share (50%)"


def parse_size(text, ram_bytes):
    """Return a size in bytes, a whole number of balloon frames; a share is one of the RAM."""
    match = SIZE.fullmatch(text.strip())
    if not match:
        raise UsageError(f"'{text}' is no size: {VALID_SIZES}")
    number, unit, plain, percent = match.groups()
    if percent:
        size_bytes = float(number) * ram_bytes / 100
    else:
        size_bytes = float(number) * UNITS[(unit or plain).upper()]
    size_bytes = int(size_bytes) // FRAME_BYTES * FRAME_BYTES
    if size_bytes == 0:
        raise UsageError(f"'{text}' leaves the guest nothing")
    if size_bytes > ram_bytes:
        raise UsageError(f"'{text}' is more than the guest's RAM of {format_size(ram_bytes)}")
    return size_bytes


def format_size(size_bytes):
    """Return a size as MiB below a GiB and as GiB from there on."""
    if size_bytes is None:
        return "-"
    # 1023.97 MiB would be shown as 1024.0 MiB
    if abs(size_bytes) < (1 << 30) - (1 << 20) // 20:
        return f"{size_bytes / (1 << 20):.1f} MiB"
    return f"{size_bytes / (1 << 30):.2f} GiB"
