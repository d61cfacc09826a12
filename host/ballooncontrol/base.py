# SPDX-License-Identifier: GPL-2.0-only
"""What guests have in common, whoever manages them."""

import contextlib
import time
from dataclasses import asdict, dataclass

from .errors import NoDriverError, UnreachableError
from .threads import pause

POLL_SECONDS = 0.1
STATISTICS_SECONDS = 10
# why a guest's processors stand still
PAUSED, SUSPENDED, CRASHED = "paused", "suspended", "crashed"
UNDERWAY, LEFT, ENDING = "on its way between two hosts", "on another host now", "shutting down"


@dataclass(frozen=True)
class Status:
    """How large a guest is."""

    name: str
    ram_bytes: int
    actual_bytes: int
    resident_bytes: int | None

    @property
    def balloon_bytes(self):
        """What the balloon holds."""
        return self.ram_bytes - self.actual_bytes

    def as_dict(self):
        """Return the fields for JSON."""
        return asdict(self) | {"balloon_bytes": self.balloon_bytes}


@dataclass(frozen=True)
class Statistics:
    """What a guest's driver reported; None is a value that it did not report."""

    total_bytes: int | None = None
    free_bytes: int | None = None
    available_bytes: int | None = None
    disk_caches_bytes: int | None = None
    swap_in_bytes: int | None = None
    swap_out_bytes: int | None = None
    major_faults: int | None = None
    minor_faults: int | None = None
    hugetlb_allocations: int | None = None
    hugetlb_failures: int | None = None
    oom_kills: int | None = None
    allocation_stalls: int | None = None
    async_scans: int | None = None
    direct_scans: int | None = None
    async_reclaims: int | None = None
    direct_reclaims: int | None = None
    last_update_unix_s: int = 0

    def as_dict(self):
        """Return the fields for JSON."""
        return asdict(self)


class Guest:
    """What QmpGuest and LibvirtGuest share; a context manager that ends the connection."""

    name = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def status(self):
        """Return the guest's sizes."""
        return Status(self.name, self.ram_bytes(), self.actual_bytes(), self.resident_bytes())

    @contextlib.contextmanager
    def polling(self, seconds):
        """Have QEMU ask for statistics every so many seconds, and then as it did before.

        An interval that is already set and shorter stays: somebody else relies on it.
        """
        before = self.polling_seconds()
        if 0 < before <= seconds:
            yield
            return
        self.set_polling_seconds(seconds)
        try:
            yield
        finally:
            # a guest that has ended needs no restoring
            with contextlib.suppress(UnreachableError):
                self.set_polling_seconds(before)

    def fresh_statistics(self, timeout_seconds=STATISTICS_SECONDS):
        """Return statistics that arrive after this call; polling must be on."""
        before = self.statistics().last_update_unix_s
        limit = time.monotonic() + max(timeout_seconds, 3 * self.polling_seconds())
        while time.monotonic() < limit:
            statistics = self.statistics()
            if statistics.last_update_unix_s > before:
                return statistics
            pause(POLL_SECONDS)
        raise NoDriverError(f"{self.name}: the guest sends no statistics: "
                            "is a balloon driver loaded in the guest?")
