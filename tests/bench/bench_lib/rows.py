# SPDX-License-Identifier: GPL-2.0-only
"""What is measured: one row is one kind of guest and host."""

from dataclasses import dataclass

HUGETLB = "memory-backend-memfd,hugetlb=on,hugetlbsize=2M,share=on"
# A guest that never touches its memory may have more of it than the host.
UNRESERVED = "memory-backend-ram,reserve=off"


@dataclass(frozen=True)
class Row:
    """One guest: move_mib of its memory go to the host and come back."""

    name: str
    mem_mib: int
    move_mib: int
    smp: int = 2
    init_on_alloc: int = 1
    dirty: bool = True
    host_thp: bool = True
    hugetlb: bool = False
    icount: bool = False
    rounds: int = 3
    by_default: bool = True

    def mem_backend(self):
        """Return QEMU's memory backend for this row."""
        if self.hugetlb:
            return HUGETLB
        return "memory-backend-ram" if self.dirty else UNRESERVED

    def host_mib(self):
        """Return how much of the host's memory this row takes at most."""
        # a guest's page structs are 1/64 of its memory; with init_on_alloc the in-tree driver
        # clears pages, that is touches them, before it gives each 256 of them away
        touched = self.mem_mib if self.dirty else self.mem_mib // 32
        return touched + 512


@dataclass(frozen=True)
class Driver:
    """A driver, and how it is loaded."""

    name: str
    module: str
    params: str = ""


IN_TREE = Driver("in-tree", "virtio_balloon")
RANGE = Driver("range", "vballoon", "transfer=range")
PFN = Driver("pfn", "vballoon", "transfer=pfn")
DRIVERS = (IN_TREE, RANGE, PFN)

ROWS = (
    Row("4g", 4096, 3072),
    Row("4g-noinit", 4096, 2048, init_on_alloc=0, rounds=2),
    Row("icount", 1024, 512, smp=1, icount=True, rounds=1),
    Row("4g-nothp", 4096, 2048, host_thp=False, rounds=2),
    Row("hugetlb", 2048, 1024, hugetlb=True, rounds=2),
    Row("16g-untouched", 16384, 12288, dirty=False, rounds=1),
    Row("1g", 1024, 512, rounds=2),
    Row("4g-untouched", 4096, 3072, dirty=False, rounds=2),
    Row("4g-1cpu", 4096, 2048, smp=1, rounds=2),
    Row("1g-noinit", 1024, 512, init_on_alloc=0, by_default=False),
    Row("16g", 16384, 12288, by_default=False),
    Row("64g-untouched", 65536, 49152, dirty=False, rounds=1, by_default=False),
    Row("icount-noinit", 1024, 512, smp=1, init_on_alloc=0, icount=True, rounds=1,
        by_default=False),
)
