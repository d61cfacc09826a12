# SPDX-License-Identifier: GPL-2.0-only
"""What the doctor knows of a guest, and what it says about it."""

from dataclasses import asdict, dataclass, field

from ..device import Device

# why the driver cannot be seen, where QEMU could be asked
QEMU_NOT_ASKED = ("this QEMU does not tell what the guest negotiated, or might abort at the "
                  "question (7.2 to 10.0 answer it)")

PROBLEM, NOTE = "problem", "note"


@dataclass(frozen=True)
class Facts:
    """A guest as the rules see it.

    pinning names what keeps the guest's memory where it is, such as VFIO devices. huge_bytes is
    the size of its pages from the host's pool of huge pages, 0 without. files are those that
    back its memory privately. places says where things are changed. standstill says in a word of
    base.py's why its processors do not run; it is empty while they do. unseen has what could not
    be looked at, and why.
    """

    name: str
    device: Device
    places: object
    polling_seconds: int = 0
    last_update_unix_s: int = 0
    now_unix_s: float = 0
    standstill: str = ""
    migrating: bool = False
    pinning: tuple = ()
    confidential: str | None = None
    huge_bytes: int = 0
    host_page_bytes: int = 4096
    locked: bool = False
    preallocated: bool = False
    files: tuple = ()
    unseen: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """One thing that is not as it should be.

    code is for programs and stays; the texts may change. level is 'problem' for what costs
    something now, else 'note'.
    """

    code: str
    level: str
    problem: str
    cost: str
    change: str

    def as_dict(self):
        """Return the fields for JSON."""
        return asdict(self)
