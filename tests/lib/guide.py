# SPDX-License-Identifier: GPL-2.0-only
"""The blocks of docs/operating.md, each with the kind that says where a test tries it."""

import re
from dataclasses import dataclass
from pathlib import Path

PATH = Path(__file__).resolve().parents[2] / "docs/operating.md"
TEXT = PATH.read_text("utf-8")
HOST_KINDS = ("sh host", "sh host driver", "xml libvirt", "xml libvirt no-balloon", "qemu",
              "python vdsm-hook", "yaml kubevirt", "yaml cloud-init", "yaml ansible", "promql")
GUEST_KINDS = ("sh guest", "sh image")
UNTRIED = "sh untried"
FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A block of the guide; before is the paragraph that it follows."""

    kind: str
    text: str
    line: int
    before: str

    def __str__(self):
        """Name it in a test's name."""
        return f"line {self.line}"


def blocks(*kinds):
    """Return the blocks of these kinds, or all, as they stand in the guide."""
    found = []
    for match in FENCE.finditer(TEXT):
        before = TEXT[:match.start()].rstrip().rpartition("\n\n")[2]
        found.append(Block(match[1], match[2], TEXT.count("\n", 0, match.start()) + 1, before))
    return [block for block in found if not kinds or block.kind in kinds]


def inline_commands():
    """Return what stands between the lines as `PROGRAM WORD WORD ...`: a whole command."""
    prose = FENCE.sub("", TEXT)
    return [code for code in re.findall(r"`([^`\n]+)`", prose)
            if re.match(r"(balloonctl|virsh|qm|kubectl|systemctl|journalctl|dkms|modprobe|apt-get|"
                        r"/usr/libexec/\S+) \S", code) and len(code.split()) > 2]
