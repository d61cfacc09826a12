# SPDX-License-Identifier: GPL-2.0-only
"""Control the memory balloon of QEMU guests, through QMP or libvirt.

    with open_guest("/run/guest.qmp") as guest:
        guest.ask(512 << 20)
        wait_for_target(guest, 512 << 20)
        with guest.polling(1):
            print(guest.fresh_statistics().available_bytes)
"""

from .base import Statistics, Status
from .errors import (BalloonError, NoBalloonError, NoDriverError, OffTargetError,
                     UnreachableError, UsageError)
from .guests import open_guest
from .resize import wait_for_target
from .units import parse_size

__all__ = ["BalloonError", "NoBalloonError", "NoDriverError", "OffTargetError", "Statistics",
           "Status", "UnreachableError", "UsageError", "open_guest", "parse_size",
           "wait_for_target"]
