# SPDX-License-Identifier: GPL-2.0-only
"""Things made once and kept outside the tree: $VBALLOON_CACHE, or /var/cache/vballoon."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from pathlib import Path

from .errors import GuestError

KEEP_SECONDS = 24 * 3600


def cache_dir(*names):
    """Return a folder of the cache, made if it is not there."""
    top = Path(os.environ.get("VBALLOON_CACHE", "/var/cache/vballoon"))
    path = top.joinpath(*names)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GuestError(f"cannot write the cache folder {path}: {error.strerror}; "
                         "be root, or set VBALLOON_CACHE to a folder of yours") from error
    return path


@contextlib.contextmanager
def locked(path):
    """Hold a lock file, so that of several processes one makes a thing and the rest wait."""
    with open(path, "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def file_hash(path):
    """Return the SHA-256 of a file's content."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_of(parts):
    """Return a short hash over strings."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(str(part).encode() + b"\0")
    return digest.hexdigest()[:16]


def drop_old(folder, keep):
    """Remove entries of a cache folder that nobody used for a day."""
    for entry in folder.iterdir():
        if entry == keep or time.time() - entry.stat().st_mtime < KEEP_SECONDS:
            continue
        if entry.is_dir():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)
