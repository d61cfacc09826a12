# SPDX-License-Identifier: GPL-2.0-only
"""What is known of one guest at one moment, whoever manages it."""

from dataclasses import dataclass, field

from ..base import Statistics

# why discards do not reach the host, so that a balloon frees nothing
REASONS = ("vfio", "hugetlb", "pinned")
PROPERTIES = ("free-page-reporting", "deflate-on-oom")


@dataclass(frozen=True)
class Sample:
    """A guest that answered; None is what nobody knows."""

    guest: str
    domain: str
    running: bool
    ram_bytes: int
    actual_bytes: int
    resident_bytes: int | None
    polling_s: int | None
    has_balloon: bool = True
    statistics: Statistics = Statistics()
    # of REASONS
    inhibited: frozenset = frozenset()
    # of PROPERTIES: whether it is on
    properties: dict = field(default_factory=dict)

    @property
    def balloon_bytes(self):
        """What the balloon holds."""
        return max(0, self.ram_bytes - self.actual_bytes)

    @property
    def labels(self):
        """Who it is."""
        return [self.domain, self.guest]


@dataclass(frozen=True)
class Silence:
    """A guest that did not answer, and why."""

    guest: str
    why: str
