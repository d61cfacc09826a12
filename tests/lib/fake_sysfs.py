# SPDX-License-Identifier: GPL-2.0-only
"""A folder that imitates what the driver shows in a guest's sysfs, after docs/sysfs-abi.md."""

import re
from pathlib import Path

ABI = Path(__file__).resolve().parents[2] / "docs/sysfs-abi.md"
ORDERS = (0, 9, 10)
WORDS = {"state": "at-target", "reason": "the balloon has the size that the host wants",
         "policy": "protect", "transfer": "range",
         "negotiated_features": "stats deflate-on-oom free-page-reporting"}


def documented():
    """Return the names of all files; held_blocks_orderN stands for several."""
    return re.findall(r"^What: +\S+/balloon/(\S+)$", ABI.read_text("utf-8"), re.MULTILINE)


class FakeSysfs:
    """A /sys with balloon devices."""

    def __init__(self, top):
        self.top = Path(top)
        self.devices = self.top / "bus/virtio/devices"
        self.devices.mkdir(parents=True)
        # a disk, of no interest
        self._add_device("virtio0", "0x0002", "virtio_blk")

    def _add_device(self, name, kind, driver):
        device = self.devices / name
        device.mkdir()
        (device / "device").write_text(f"{kind}\n", "ascii")
        if driver:
            (self.top / "bus/virtio/drivers" / driver).mkdir(parents=True, exist_ok=True)
            (device / "driver").symlink_to(f"../../drivers/{driver}")
        return device

    def add(self, name, driver="vballoon"):
        """Add a balloon device; with vballoon it has all documented files."""
        device = self._add_device(name, "0x0005", driver)
        if driver == "vballoon":
            (self.top / "module/vballoon").mkdir(parents=True, exist_ok=True)
            (self.top / "module/vballoon/version").write_text("0.1.0\n", "ascii")
            (device / "balloon").mkdir()
            self.set(name, **{file: number for number, file in enumerate(self.files(), 1000)
                              if file not in WORDS}, **WORDS)

    @staticmethod
    def files():
        """Return the names of a device's files."""
        for name in documented():
            yield from ([f"{name[:-1]}{order}" for order in ORDERS] if name.endswith("_orderN")
                        else [name])

    def set(self, name, **values):
        """Write files of a device."""
        for file, value in values.items():
            path = self.devices / name / "balloon" / file
            new = path.with_name(f".{file}")
            new.write_text(f"{value}\n", "ascii")
            new.rename(path)
