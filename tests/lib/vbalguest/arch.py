# SPDX-License-Identifier: GPL-2.0-only
"""What differs between guests of this machine's architecture, amd64, and emulated others."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Arch:
    """An architecture: its QEMU, the machine that QEMU is to be, the console there.

    debian is Debian's name; agent is the device of the second serial port, or "virtio"
    where the machine has but one; cross is what makes Kbuild build for it.
    """

    debian: str
    qemu: str
    qemu_package: str
    machine: str
    cpu: str
    console: str
    agent: str
    cmdline: str = ""
    cross: tuple[str, ...] = ()


AMD64 = Arch("amd64", "qemu-system-x86_64", "qemu-system-x86", machine="pc", cpu="qemu64",
             console="ttyS0", agent="/dev/ttyS1",
             # emulation is slow and the machine may be busy: no bug of the guest
             cmdline="no_timer_check i8042.noaux")
# This CPU has pages of 4, 16 and 64 KiB; and no pointer authentication, which is slow to
# emulate.
ARM64 = Arch("arm64", "qemu-system-aarch64", "qemu-system-arm", machine="virt",
             cpu="neoverse-n1", console="ttyAMA0", agent="virtio",
             cross=("ARCH=arm64", "CROSS_COMPILE=aarch64-linux-gnu-"))
