# SPDX-License-Identifier: GPL-2.0-only
"""What can go wrong with a guest, as exceptions that say what to do."""


class GuestError(RuntimeError):
    """A guest, its QEMU or what it needs from this machine failed."""


class GuestTimeout(GuestError):
    """Something that should have happened in the guest did not."""


class CommandFailed(GuestError):
    """A command ran in the guest and returned non-zero."""

    def __init__(self, command, returncode, output):
        super().__init__(f"guest command failed with {returncode}: {command}\n{output}")
        self.command = command
        self.returncode = returncode
        self.output = output


class Missing(GuestError):
    """A package, kernel image or program is not on this machine."""

    def __init__(self, what, group="guest"):
        super().__init__(f"{what} is missing; 'scripts/setup {group}' (as root) brings it")
