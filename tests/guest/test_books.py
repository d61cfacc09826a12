# SPDX-License-Identifier: GPL-2.0-only
"""Frame for frame, from the host's side: what the balloon took is gone, nothing else is.

The guest's kernel names the ballooned frames (/proc/kpageflags), the host's kernel names those
that it has no memory for (holes in the file that is the guest's RAM; no huge page of the host's
fills them again). Neither asks the driver. A file of stamped pages lies in the guest's memory
meanwhile, and is looked for in the host's.
"""

import array
import base64
import contextlib
import hashlib
import os
import zlib
from pathlib import Path

import pytest
from conftest import FRAME, MIB

NR_STAMPS = 8192
GUEST_MIB = 768
DIRTY_MIB = 560
SIZES = (400 * MIB + 3 * FRAME, 130 * MIB + FRAME, 401 * MIB)
KPF_OFFLINE = 23


def stamp(number):
    """Return the content of a page that exists once."""
    return f"vballoon stamp {number:08}".encode().ljust(64, b"#") * (FRAME // 64)


def open_ram(guest):
    """Open the file that is the guest's RAM, as QEMU has it open."""
    for link in Path(f"/proc/{guest.qemu_pid}/fd").iterdir():
        if "memory-backend-memfd" in os.readlink(link):
            return os.open(link, os.O_RDONLY)
    raise AssertionError("the guest's RAM is not among QEMU's files")


def absent_frames(ram):
    """The frames of the guest's RAM that the host has no memory for: holes in the file."""
    absent, at, size = set(), 0, os.fstat(ram).st_size
    while at < size:
        hole = os.lseek(ram, at, os.SEEK_HOLE)
        try:
            at = os.lseek(ram, hole, os.SEEK_DATA)
        except OSError:
            at = size
        absent.update(range(hole // FRAME, at // FRAME))
    return absent


def ballooned_frames(guest):
    """The frames that the guest's kernel calls offline, which only a balloon makes them here."""
    text = guest.check("gzip -c /proc/kpageflags | base64", 300)
    flags = array.array("Q")
    flags.frombytes(zlib.decompress(base64.b64decode(text), 16 + zlib.MAX_WBITS))
    return {frame for frame, value in enumerate(flags) if value >> KPF_OFFLINE & 1}


def stamps_in_ram(ram):
    """Look for the stamps in the guest's RAM; return the numbers of those found whole."""
    found = set()
    expected = {stamp(number): number for number in range(NR_STAMPS)}
    for start in range(0, os.fstat(ram).st_size, MIB):
        piece = os.pread(ram, MIB, start)
        found.update(expected.get(piece[at:at + FRAME]) for at in range(0, MIB, FRAME)
                     if piece.startswith(b"vballoon stamp", at))
    return found - {None}


@contextlib.contextmanager
def stopped(guest):
    """Stop the guest's CPUs meanwhile."""
    guest.qmp("stop")
    yield
    guest.qmp("cont")


def check_frames(guest, ram, inflated_bytes, absent_before):
    """What is ballooned is absent, and what became absent is ballooned."""
    ballooned = ballooned_frames(guest)
    assert len(ballooned) == inflated_bytes // FRAME
    with stopped(guest):
        absent = absent_frames(ram)
    assert not ballooned - absent, "ballooned, but the host has memory for them"
    assert not absent - absent_before - ballooned, "discarded, but not ballooned"
    return ballooned


@pytest.mark.stock
@pytest.mark.parametrize("transfer", ("pfn", "range"))
def test_exactly_the_ballooned_frames_are_discarded(lab, tmp_path, transfer):
    content = b"".join(map(stamp, range(NR_STAMPS)))
    (tmp_path / "stamps").write_bytes(content)
    guest = lab.fresh(mem_mib=GUEST_MIB, mem_backend="memory-backend-memfd,share=on",
                      files={"stamps": tmp_path / "stamps"})
    with contextlib.ExitStack() as stack:
        stack.callback(guest.close)
        guest.start()
        guest.wait_boot()
        ram = stack.enter_context(os.fdopen(open_ram(guest), "rb")).fileno()
        with lab.loaded(guest, f"transfer={transfer}") as balloon:
            guest.hold_reports()
            guest.dirty(DIRTY_MIB)
            reported = balloon.attr("reported_bytes")
            absent_before = absent_frames(ram)
            seen = set()
            for size in SIZES:
                balloon.resize(size)
                seen |= check_frames(guest, ram, size, absent_before | seen)
            assert balloon.attr("reported_bytes") == reported
            # most of them had memory, or there was nothing to be discarded
            assert len(seen - absent_before) > SIZES[0] // FRAME // 2
            with stopped(guest):
                assert stamps_in_ram(ram) == set(range(NR_STAMPS))
            assert guest.check("md5sum /stamps").split()[0] == hashlib.md5(content).hexdigest()
