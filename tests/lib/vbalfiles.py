# SPDX-License-Identifier: GPL-2.0-only
"""A disk full of small files: what a guest remembers of each, once it has looked, is slab."""

import subprocess
import tempfile
from pathlib import Path

from vbalguest import GuestError
from vbalguest.cache import cache_dir, locked
from vbalguest.kernels import tool

FILES_PER_FOLDER = 1000
BLOCK_BYTES = 4096


def disk_of_files(count):
    """Return QEMU's arguments for a read-only ext4 with so many empty files, made once."""
    image = cache_dir("life") / f"{count}-files.ext4"
    with locked(image.with_suffix(".lock")):
        if not image.exists():
            _make_image(image, count)
    return ["-drive", f"if=none,id=files,format=raw,readonly=on,file={image}",
            "-device", "virtio-blk-pci,drive=files"]


def _make_image(image, count):
    partial = image.with_suffix(".partial")
    with tempfile.TemporaryDirectory(prefix="vballoon-files-") as folder:
        for number in range(count):
            path = Path(folder, str(number // FILES_PER_FOLDER), str(number))
            if number % FILES_PER_FOLDER == 0:
                path.parent.mkdir()
            path.touch()
        with open(partial, "wb") as stream:
            stream.truncate(count * BLOCK_BYTES)
        result = subprocess.run(
            [tool("mke2fs", "e2fsprogs"), "-q", "-F", "-t", "ext4", "-O", "^has_journal",
             "-N", str(count * 11 // 10), "-d", folder, partial],
            capture_output=True, text=True, check=False)
    if result.returncode:
        raise GuestError(f"mke2fs failed: {result.stderr}")
    partial.rename(image)
