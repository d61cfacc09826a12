# SPDX-License-Identifier: GPL-2.0-only
"""One look at all guests, at once and in bounded time."""

import asyncio
import time
from dataclasses import dataclass

from ..balance.service import socket_path
from ..errors import BalloonError
from ..guests import LIBVIRT_PREFIX, is_path, without_twins
from .balance import look_at_balance
from .sample import Silence
from .sockets import expand, look_at_all


@dataclass(frozen=True)
class Look:
    """What was found: Samples and Silences; libvirt_up is None if nobody asked libvirt.

    balance is the status of the service, balance_trouble why there is none.
    """

    found: list
    libvirt_up: bool | None
    seconds: float
    balance: dict | None = None
    balance_trouble: str | None = None


class Guests:
    """The guests that the command line names; patterns are looked up anew each time."""

    def __init__(self, options):
        self._targets = without_twins(options.guests)
        self._all_domains = options.all
        self._poll_s = options.poll
        self._timeout_s = options.timeout
        self._balance_path = (options.socket or socket_path()) if options.balance else None
        self._domains = None
        if self._all_domains or any(not is_path(target) for target in self._targets):
            # only whoever has domains needs libvirt's binding
            from .domains import Domains
            self._domains = Domains(options.connect)

    def look(self):
        """Look at all of them."""
        started = time.monotonic()
        found, libvirt_up, balance = asyncio.run(self._look())
        return Look(found, libvirt_up, time.monotonic() - started, *balance)

    async def _look(self):
        paths = without_twins([path for target in self._targets if is_path(target)
                               for path in expand(target)])
        sockets, (domains, libvirt_up), balance = await asyncio.gather(
            look_at_all(paths, self._poll_s, self._timeout_s), self._look_at_domains(),
            self._look_at_balance())
        return sockets + domains, libvirt_up, balance

    async def _look_at_balance(self):
        if self._balance_path is None:
            return None, None
        return await look_at_balance(self._balance_path, self._timeout_s)

    async def _look_at_domains(self):
        """Return Samples and Silences, and whether libvirt answered."""
        names = [target.removeprefix(LIBVIRT_PREFIX) for target in self._targets
                 if not is_path(target)]
        if self._domains is None:
            return [], None
        try:
            found = await self._domains.look_at(None if self._all_domains else names,
                                                self._poll_s, self._timeout_s)
        except BalloonError as error:
            return [Silence(LIBVIRT_PREFIX + name, str(error)) for name in names], False
        known = {item.guest for item in found}
        missing = [Silence(LIBVIRT_PREFIX + name, "no such domain is running") for name in names
                   if LIBVIRT_PREFIX + name not in known]
        return found + missing, True
