# SPDX-License-Identifier: GPL-2.0-only
"""What the service balloonctl-balance tells of itself and of its guests."""

import asyncio

from ..balance.service import read_status
from ..errors import BalloonError

NONSENSE = (AttributeError, LookupError, TypeError, ValueError)


async def look_at_balance(path, timeout_s):
    """Return the status, and why there is none: one of them is None."""
    found = []
    try:
        async with asyncio.timeout(timeout_s):
            await read_status(path, lambda status: found.append(checked(status)) or True)
    except TimeoutError:
        return None, f"{path}: does not answer within {timeout_s:g} s"
    except (BalloonError, OSError) as error:
        return None, str(error)
    except NONSENSE as error:
        return None, f"{path}: this is no balance: {error!r}"
    return found[0], None


def checked(status):
    """Return the status, if it has what one has."""
    for name in ("host", "counts", "room_bytes", "demand_bytes"):
        status[name]
    return status | {"guests": [guest | {"guest": guest["source"].removeprefix("qmp:")}
                                for guest in status["guests"]]}
