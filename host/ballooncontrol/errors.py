# SPDX-License-Identifier: GPL-2.0-only
"""What can go wrong, each with the exit status that tells it to scripts."""


class BalloonError(Exception):
    """Any expected failure; its text is all that a user needs to see."""

    exit_status = 1


class UsageError(BalloonError):
    """What was asked for makes no sense."""

    exit_status = 2


class UnreachableError(BalloonError):
    """There is no guest to talk to, or it does not listen to us."""

    exit_status = 3


class GoneError(UnreachableError):
    """Nobody listens: its QEMU is gone, and has left its socket behind."""


class NoBalloonError(BalloonError):
    """The guest has no balloon device."""

    exit_status = 4


class NoDriverError(BalloonError):
    """Nothing in the guest drives the device: actual did not move."""

    exit_status = 5


class OffTargetError(BalloonError):
    """A driver is there, but the guest stopped short of the target."""

    exit_status = 6
