# SPDX-License-Identifier: GPL-2.0-only
"""Which accelerator QEMU can really use here: found out once per host boot."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from .arch import AMD64
from .cache import cache_dir, locked


@dataclass(frozen=True)
class Accel:
    """QEMU's -accel and -cpu."""

    accel: str
    cpu: str

    @property
    def is_kvm(self):
        """True where the guest runs on the processor itself."""
        return self.accel.startswith("kvm")

    def arguments(self):
        """Return the arguments for QEMU."""
        return ["-accel", self.accel, "-cpu", self.cpu]


KVM = Accel("kvm", "host")
TCG = Accel("tcg,thread=multi", AMD64.cpu)
# One thread runs all CPUs in turn: what -icount needs, and steadier for kernels with much
# debugging in them.
TCG_SINGLE = Accel("tcg,thread=single", AMD64.cpu)


def choose(arch, boots_with_kvm):
    """Return KVM if a stock guest boots with it, else TCG.

    /dev/kvm that opens proves nothing: nested set-ups exist on which a guest hangs. So
    boots_with_kvm() tries one, where that is not known. Other architectures than this
    machine's are emulated.
    """
    if arch is not AMD64:
        return Accel(TCG.accel, arch.cpu)
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return TCG
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    result = cache_dir() / "accelerator.json"
    with locked(result.with_suffix(".lock")):
        try:
            known = json.loads(result.read_text("ascii"))
            if known.pop("boot_id") == boot_id:
                return Accel(**known)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        chosen = KVM if boots_with_kvm() else TCG
        result.write_text(json.dumps({"boot_id": boot_id, **asdict(chosen)}), "ascii")
    return chosen
