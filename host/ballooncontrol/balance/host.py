# SPDX-License-Identifier: GPL-2.0-only
"""What the host has: MemAvailable, PSI, and the resident memory of a process."""

import os
import re
from pathlib import Path

from ..errors import BalloonError
from .model import HostFacts

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TOTAL = re.compile(rb"^MemTotal:\s+(\d+) kB", re.MULTILINE)
AVAILABLE = re.compile(rb"^MemAvailable:\s+(\d+) kB", re.MULTILINE)
STALLED = re.compile(rb"^some avg10=([\d.]+)", re.MULTILINE)
HUGE_PAGES = re.compile(rb"^HugetlbPages:\s+(\d+) kB", re.MULTILINE)


class Host:
    """The host's memory, or the part of it that the settings grant."""

    def __init__(self, settings, proc=Path("/proc")):
        self._meminfo = proc / "meminfo"
        self._pressure = proc / "pressure" / "memory"
        self.set(settings)

    def set(self, settings):
        """Take new settings."""
        self._memory, self._margin = settings.memory, settings.margin
        self.read(0)

    def margin_bytes(self):
        """What shall stay available."""
        return self._margin.of(self._total_bytes)

    def read(self, resident_bytes):
        """Return HostFacts; the guests' resident memory counts against a granted part."""
        try:
            text = self._meminfo.read_bytes()
            real_bytes = int(TOTAL.search(text)[1]) * 1024
            available_bytes = int(AVAILABLE.search(text)[1]) * 1024
        except (OSError, TypeError) as error:
            raise BalloonError(f"{self._meminfo}: cannot be read: {error}") from error
        self._total_bytes = self._memory.of(real_bytes)
        if self._total_bytes < real_bytes:
            available_bytes = max(0, min(available_bytes, self._total_bytes - resident_bytes))
        return HostFacts(self._total_bytes, available_bytes, self._stalled())

    def _stalled(self):
        """PSI's `some avg10`; None on kernels without."""
        try:
            match = STALLED.search(self._pressure.read_bytes())
        except OSError:
            return None
        return float(match[1]) if match else None


class Process:
    """The memory of a process; its files stay open, so a thousand cost little."""

    def __init__(self, pid):
        self._pid = pid
        try:
            self._statm = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._statm = None

    def close(self):
        """Let go of it."""
        if self._statm is not None:
            os.close(self._statm)
            self._statm = None

    def resident_bytes(self):
        """Its resident memory; None if that cannot be seen."""
        if self._statm is None:
            return None
        try:
            return int(os.pread(self._statm, 128, 0).split()[1]) * PAGE_BYTES
        except (OSError, IndexError):
            return None

    def huge_bytes(self):
        """What it has of the pool of huge pages, which a balloon gives nothing back to."""
        try:
            match = HUGE_PAGES.search(Path(f"/proc/{self._pid}/status").read_bytes())
        except OSError:
            return 0
        return int(match[1]) * 1024 if match else 0
