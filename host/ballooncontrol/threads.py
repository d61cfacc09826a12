# SPDX-License-Identifier: GPL-2.0-only
"""Calls that may hang, the end of the process while they do, and waiting until it is to end.

libvirt's calls have no time limit: one for a domain whose QEMU hangs never comes back.
"""

import contextlib
import logging
import os
import sys
import threading
import time

from .errors import BalloonError, UnreachableError

ANSWER_SECONDS = 10
# once the process is to end, calls get no more than this
FAREWELL_SECONDS = 2
LOOK_SECONDS = 0.1


class Interrupted(BalloonError):
    """The process is to end."""


class _Process:
    """Whether this process is to end. No lock: a signal may come while it is held."""

    ends = False


def end():
    """Have everybody who waits in here come to an end; signal handlers may call this."""
    _Process.ends = True


def pause(seconds):
    """Sleep, unless the process is to end."""
    if _Process.ends:
        raise Interrupted("interrupted")
    time.sleep(seconds)


def in_time(function, *arguments, seconds=ANSWER_SECONDS):
    """Return what a blocking call returns, or raise UnreachableError after so long."""
    done = threading.Event()
    result = []

    def call():
        try:
            result.append((function(*arguments), None))
        except BaseException as error:  # whoever waits is to have it, whatever it is
            result.append((None, error))
        done.set()
    threading.Thread(target=call, daemon=True).start()
    started = time.monotonic()
    # nobody waits here without looking: the main thread has to hear of signals
    while not done.wait(LOOK_SECONDS):
        limit = min(seconds, FAREWELL_SECONDS) if _Process.ends else seconds
        if time.monotonic() - started > limit:
            raise UnreachableError(f"libvirt does not answer within {seconds:g} s")
    value, error = result[0]
    if error:
        raise error
    return value


def leave(status):
    """Return the exit status; end the process here if threads hang, as Python would wait."""
    if threading.active_count() > 1:
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)
    return status
