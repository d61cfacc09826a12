# SPDX-License-Identifier: GPL-2.0-only
"""The guest's root: busybox, two scripts and a handful of modules in one cpio archive."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from .arch import AMD64
from .cache import cache_dir, drop_old, file_hash, hash_of, locked
from .errors import GuestError, Missing
from .kernels import module_content, tool

ROOTFS = Path(__file__).with_name("rootfs")
FOLDERS = ("bin", "dev", "modules", "proc", "sys", "tmp", "mnt")


def busybox(kernel=None):
    """Return the path of a busybox without libraries; a foreign kernel has one beside it."""
    arch = kernel.arch if kernel else AMD64
    path = (Path("/") if arch is AMD64 else kernel.image.parents[1]) / "bin/busybox"
    if not path.exists():
        raise Missing(f"{path} (Debian package busybox-static:{arch.debian})")
    if b"/ld-linux" in path.read_bytes()[:4096]:
        raise Missing(f"a static busybox (package busybox-static; {path} is another one)")
    return path


def build_image(boot_modules, modules, files, kernel=None):
    """Return the path of an initramfs, for a kernel where it matters which.

    boot_modules are loaded by its init, in order; modules lie in /modules ready to be
    loaded; files maps paths in the guest to paths here.
    """
    content = {f"modules/{_plain_name(path)}": path for path in [*boot_modules, *modules]}
    content["bin/busybox"] = busybox(kernel)
    content["init"] = ROOTFS / "init"
    content["agent"] = ROOTFS / "agent"
    content.update({name.lstrip("/"): Path(path) for name, path in files.items()})
    boot_list = "".join(f"{_plain_name(path)}\n" for path in boot_modules)

    key = hash_of([boot_list, file_hash(__file__)]
                  + [f"{name} {file_hash(path)}" for name, path in sorted(content.items())])
    top = cache_dir("image")
    image = top / f"{key}.cpio"
    with locked(top / f"{key}.lock"):
        if not image.exists():
            _pack(image, content, boot_list)
        os.utime(image)
        drop_old(top, image)
    return image


def _plain_name(path):
    """The name under which a module lies in the guest: compressed ones are unpacked."""
    return path.name.split(".ko")[0] + ".ko"


def _pack(image, content, boot_list):
    with tempfile.TemporaryDirectory(prefix="vballoon-image-") as folder:
        root = Path(folder)
        for name in FOLDERS:
            (root / name).mkdir()
        for name, source in content.items():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if name.startswith("modules/"):
                target.write_bytes(module_content(source))
            else:
                shutil.copy(source, target)
        (root / "modules/boot.list").write_text(boot_list, "ascii")
        # enough for init, which lets busybox make the other links: it may be one that
        # does not run here
        (root / "bin/sh").symlink_to("busybox")
        names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
        partial = image.with_suffix(".partial")
        with open(partial, "wb") as stream:
            result = subprocess.run(
                [tool("cpio", "cpio"), "--quiet", "-o", "-H", "newc", "-R", "0:0"],
                input=names.encode(), stdout=stream, stderr=subprocess.PIPE, cwd=root,
                check=False)
        if result.returncode:
            raise GuestError(f"cpio failed: {result.stderr.decode()}")
        partial.rename(image)
