# SPDX-License-Identifier: GPL-2.0-only
"""Wait until a guest has the size that it was asked for, or find out why not."""

import time

from .errors import BalloonError, NoDriverError, OffTargetError
from .threads import pause
from .units import format_size

POLL_SECONDS = 0.1
PROBE_SECONDS = 5


def wait_for_target(guest, target_bytes, patience_seconds=30, on_progress=None):
    """Wait until actual is the target; give up after so long in which it came no nearer.

    on_progress is called with each actual. Raises NoDriverError or OffTargetError.
    """
    start_bytes = guest.actual_bytes()
    nearest_bytes = abs(start_bytes - target_bytes)
    moved_at = time.monotonic()
    while True:
        actual_bytes = guest.actual_bytes()
        if on_progress:
            on_progress(actual_bytes)
        if actual_bytes == target_bytes:
            return
        now = time.monotonic()
        if abs(actual_bytes - target_bytes) < nearest_bytes:
            nearest_bytes, moved_at = abs(actual_bytes - target_bytes), now
        elif now - moved_at > patience_seconds:
            raise _explain(guest, start_bytes, actual_bytes, target_bytes, patience_seconds)
        pause(POLL_SECONDS)


def _explain(guest, start_bytes, actual_bytes, target_bytes, seconds):
    """Tell a guest without a driver from one whose driver holds back."""
    if actual_bytes == start_bytes and not driver_answers(guest):
        return NoDriverError(
            f"{guest.name}: actual stayed at {format_size(actual_bytes)} for {seconds:g} s "
            f"after {format_size(target_bytes)} was asked for: "
            "is a balloon driver loaded in the guest?")
    distance_bytes = abs(actual_bytes - target_bytes)
    return OffTargetError(
        f"{guest.name}: actual stopped at {format_size(actual_bytes)}, "
        f"{format_size(distance_bytes)} away from the target of {format_size(target_bytes)}: "
        "the guest's driver keeps what the guest needs (vballoon's files 'state' and 'reason' "
        "in the guest's sysfs say why)")


def driver_answers(guest):
    """Ask for statistics: only a driver answers."""
    try:
        with guest.polling(1):
            guest.fresh_statistics(PROBE_SECONDS)
        return True
    except BalloonError:
        return False
