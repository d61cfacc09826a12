# SPDX-License-Identifier: GPL-2.0-only
"""How long a guest is waited for."""

import itertools
import types

import pytest
from ballooncontrol import errors, resize
from fake_qemu import MIB


class Guest:
    """Has one size after the other; a second passes with each look."""

    name = "web"

    def __init__(self, monkeypatch, sizes_mib):
        self._sizes = iter(sizes_mib)
        clock = itertools.count()
        monkeypatch.setattr(resize, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
        monkeypatch.setattr(resize, "pause", lambda seconds: None)

    def actual_bytes(self):
        """Return the next size."""
        return next(self._sizes) * MIB


def test_a_slow_guest_is_waited_for(monkeypatch):
    guest = Guest(monkeypatch, [10, *range(10, 1, -1)])
    assert resize.wait_for_target(guest, 2 * MIB, 2) is None


def test_a_size_that_comes_and_goes_is_given_up(monkeypatch):
    """A driver that gives, and takes back as the guest needs it, is not on its way."""
    guest = Guest(monkeypatch, [10, 6, *[8, 6] * 50])
    with pytest.raises(errors.OffTargetError):
        resize.wait_for_target(guest, 2 * MIB, 5)
