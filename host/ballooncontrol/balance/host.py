# SPDX-License-Identifier: GPL-2.0-only
"""What the host has: MemAvailable, PSI, and the resident memory of a process."""

import os
import re
from pathlib import Path

from ..errors import BalloonError
from ..units import format_size
from .config import ConfigError
from .model import HostFacts

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
TOTAL = re.compile(rb"^MemTotal:\s+(\d+) kB", re.MULTILINE)
AVAILABLE = re.compile(rb"^MemAvailable:\s+(\d+) kB", re.MULTILINE)
STALLED = re.compile(rb"^some avg10=([\d.]+)", re.MULTILINE)
HUGE_PAGES = re.compile(rb"^HugetlbPages:\s+(\d+) kB", re.MULTILINE)
# locked by mlock() and VFIO, pinned by vDPA
PINNED = re.compile(rb"^Vm(?:Lck|Pin):\s+(\d+) kB", re.MULTILINE)


class Host:
    """The host's memory, or the part of it that the settings grant."""

    def __init__(self, settings, proc=Path("/proc")):
        self._meminfo = proc / "meminfo"
        self._pressure = proc / "pressure" / "memory"
        self.set(settings)

    def set(self, settings):
        """Take new settings; those that leave the guests nothing change nothing."""
        total_bytes = settings.memory.of(self._read_meminfo()[0])
        if settings.margin.of(total_bytes) >= total_bytes:
            raise ConfigError(f"{settings.margin_place}: {settings.margin.text} leaves the guests "
                              f"nothing of the host's {format_size(total_bytes)}")
        self._memory, self._margin = settings.memory, settings.margin
        self._total_bytes = total_bytes

    def margin_bytes(self):
        """What shall stay available."""
        return self._margin.of(self._total_bytes)

    def read(self, resident_bytes):
        """Return HostFacts; the guests' resident memory counts against a granted part."""
        real_bytes, available_bytes = self._read_meminfo()
        self._total_bytes = self._memory.of(real_bytes)
        if self._total_bytes < real_bytes:
            available_bytes = max(0, min(available_bytes, self._total_bytes - resident_bytes))
        return HostFacts(self._total_bytes, available_bytes, self._stalled())

    def _read_meminfo(self):
        """Return all that the host has, and what of it is available."""
        try:
            text = self._meminfo.read_bytes()
            return int(TOTAL.search(text)[1]) * 1024, int(AVAILABLE.search(text)[1]) * 1024
        except (OSError, TypeError) as error:
            raise BalloonError(f"{self._meminfo}: cannot be read: {error}") from error

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

    def held_bytes(self):
        """What a balloon frees nothing of: from the pool of huge pages, and locked or pinned."""
        try:
            text = Path(f"/proc/{self._pid}/status").read_bytes()
        except OSError:
            return 0, 0
        return tuple(1024 * sum(map(int, pattern.findall(text)))
                     for pattern in (HUGE_PAGES, PINNED))
