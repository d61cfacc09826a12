# SPDX-License-Identifier: GPL-2.0-only
"""A Debian guest that boots as most machines with Secure Boot do: OVMF, shim, GRUB, its kernel.

All of them are Debian's packages, signed as they come. The firmware has Microsoft's keys, which
signed shim; shim has Debian's, which signed the rest, and asks for the owner's own (MOK).
"""

import shutil

from vbaldisk import DebianGuest

PACKAGES = ("ovmf", "shim-signed", "shim-helpers-amd64-signed", "grub-efi-amd64-signed")
CODE, VARIABLES = "OVMF/OVMF_CODE_4M.secboot.fd", "OVMF/OVMF_VARS_4M.ms.fd"
# What shim finds beside itself: the next program, and the one that enrolls keys.
PROGRAMS = {"BOOTX64.EFI": "shim/shimx64.efi.signed", "mmx64.efi": "shim/mmx64.efi.signed",
            "grubx64.efi": "grub/x86_64-efi-signed/grubx64.efi.signed"}
KEYS = {"down": "down", "enter": "ret"}


class SecureBootGuest(DebianGuest):
    """Such a guest; folder takes its firmware's variables and its boot partition."""

    def __init__(self, debian, folder, **options):
        self._esp = folder / "esp"
        self._variables = folder / "variables.fd"
        self._answered_to = 0
        self._code = self._unpack(debian.tree, folder / "packages")
        # secboot: only code in system management mode may write the firmware's variables
        super().__init__(debian, machine="q35,smm=on", transport="modern", **options)

    def _unpack(self, tree, packages):
        """Make boot partition and variables; return the firmware's code."""
        tree.run("sh", "-e", "-c", "rm -rf /tmp/efi && mkdir /tmp/efi && cd /tmp/efi\n"
                 f"apt-get -q download {' '.join(PACKAGES)}\n"
                 "for deb in *.deb; do dpkg-deb -x $deb .; done")
        shutil.move(tree.path / "tmp/efi/usr", packages)
        boot = self._esp / "EFI/BOOT"
        boot.mkdir(parents=True)
        for name, source in PROGRAMS.items():
            shutil.copy(packages / "lib" / source, boot / name)
        shutil.copy(packages / "share" / VARIABLES, self._variables)
        return packages / "share" / CODE

    def _boot_arguments(self):
        shutil.copy(self.kernel.image, self._esp / "vmlinuz")
        shutil.copy(self.image(), self._esp / "initrd")
        settings = self._esp / "EFI/debian/grub.cfg"
        settings.parent.mkdir(exist_ok=True)
        settings.write_text(f"linux /vmlinuz {self._cmdline()}\ninitrd /initrd\nboot\n", "ascii")
        flash = "if=pflash,format=raw,file"
        return ["-global", "driver=cfi.pflash01,property=secure,value=on",
                "-drive", f"{flash}={self._code},readonly=on",
                "-drive", f"{flash}={self._variables}",
                "-drive", f"if=none,id=esp,format=raw,readonly=on,file=fat:{self._esp}",
                "-device", "virtio-blk-pci,drive=esp,bootindex=1"]

    def reboot_and_enroll(self, password):
        """Boot once more, and do what the owner does at shim's prompt for a new key."""
        self.begin("systemctl reboot")
        self.start_again()
        self._answer("Press any key", "enter")
        self._answer("Enroll MOK", "down", "enter")
        self._answer("View key 0", "down", "enter")
        self._answer("Enroll the key", "down", "enter")
        self._answer("Password:", *password, "enter")
        self._answer("Reboot", "enter")
        self.start_again()
        self.wait_boot()

    def _answer(self, text, *keys):
        """Press keys once the console has said something that was not there before."""
        self.wait_for(lambda: text in self.console()[self._answered_to:], 300,
                      f"'{text}' on the console")
        self._answered_to = len(self.console())
        for key in keys:
            self.qmp("send-key", keys=[{"type": "qcode", "data": KEYS.get(key, key)}])
