# SPDX-License-Identifier: GPL-2.0-only
"""What differs between guests of this machine's architecture, amd64, and emulated others."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Arch:
    """An architecture: its QEMU, the machine that QEMU is to be, the console there.

    debian is Debian's name, kernel the kernel's, triplet the compiler's; agent is the device
    of the second serial port, or "virtio" where the machine has but one; bus is what virtio
    devices are plugged into.
    """

    debian: str
    kernel: str
    triplet: str
    qemu: str
    qemu_package: str
    machine: str
    cpu: str
    console: str
    agent: str = "virtio"
    bus: str = "pci"
    cmdline: str = ""

    @property
    def cross(self):
        """What makes Kbuild build for it."""
        return f"ARCH={self.kernel}", f"CROSS_COMPILE={self.triplet}-"


AMD64 = Arch("amd64", "x86", "x86_64-linux-gnu", "qemu-system-x86_64", "qemu-system-x86",
             machine="pc", cpu="qemu64", console="ttyS0", agent="/dev/ttyS1",
             # emulation is slow and the machine may be busy: no bug of the guest
             cmdline="no_timer_check i8042.noaux")
# What lies above 896 MiB has no address in the kernel (highmem).
I386 = Arch("i386", "i386", "i686-linux-gnu", "qemu-system-i386", "qemu-system-x86",
            machine="pc", cpu="qemu32", console="ttyS0", agent="/dev/ttyS1",
            cmdline=AMD64.cmdline)
# This CPU has pages of 4, 16 and 64 KiB; and no pointer authentication, which is slow to
# emulate.
ARM64 = Arch("arm64", "arm64", "aarch64-linux-gnu", "qemu-system-aarch64", "qemu-system-arm",
             machine="virt", cpu="neoverse-n1", console="ttyAMA0")
# Big-endian, and channel I/O in place of PCI.
S390X = Arch("s390x", "s390", "s390x-linux-gnu", "qemu-system-s390x", "qemu-system-s390x",
             machine="s390-ccw-virtio", cpu="qemu", console="ttysclp0", bus="ccw")
PPC64EL = Arch("ppc64el", "powerpc", "powerpc64le-linux-gnu", "qemu-system-ppc64",
               "qemu-system-ppc", machine="pseries", cpu="power9", console="hvc0")
RISCV64 = Arch("riscv64", "riscv", "riscv64-linux-gnu", "qemu-system-riscv64",
               "qemu-system-riscv", machine="virt", cpu="rv64", console="ttyS0")
