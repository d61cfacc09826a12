# SPDX-License-Identifier: GPL-2.0-only
"""Real guests under QEMU for vballoon's tests, benches and demos.

    with Guest(mem_mib=1024, module="vballoon", module_params="transfer=pfn") as guest:
        guest.balloon(512 << 20)
        guest.wait_actual(512 << 20)
        print(guest.check("cat /proc/meminfo"))
"""

from .accel import KVM, TCG, TCG_SINGLE, Accel
from .errors import CommandFailed, GuestError, GuestTimeout, Missing
from .guest import Guest
from .kernels import Kernel, build_module, tool
from .qmp import Qmp, QmpError

__all__ = ["Accel", "CommandFailed", "Guest", "GuestError", "GuestTimeout", "KVM", "Kernel",
           "Missing", "Qmp", "QmpError", "TCG", "TCG_SINGLE", "build_module",
           "tool"]
