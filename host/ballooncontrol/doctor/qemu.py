# SPDX-License-Identifier: GPL-2.0-only
"""What QMP and /proc say of a guest, and where its QEMU is told otherwise."""

import json
import os
import re
import time
from pathlib import Path

from ..balance.bare import FOLDERS, MIGRATING
from ..balance.host import Process
from ..base import UNDERWAY, CRASHED, LEFT, SUSPENDED
from ..device import FREE_PAGE_HINT
from ..pinning import ALLOWED, MOST_PINNED_BYTES, pins
from ..qmp import CommandError
from .facts import QEMU_NOT_ASKED, Facts

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
DEFAULT_HUGE = re.compile(r"^Hugepagesize:\s+(\d+) kB", re.MULTILINE)
# QEMU's states in which the guest's processors stand still; the others are named as they are
STANDSTILL = {"running": "", "inmigrate": UNDERWAY, "finish-migrate": UNDERWAY,
              "postmigrate": LEFT, "suspended": SUSPENDED, "guest-panicked": CRASHED,
              "shutdown": "shut down", "prelaunch": "not started yet"}
LOCKED = re.compile(r"\b(?:mem-lock|mlock)=on\b")


def collect(guest):
    """Return the facts of a guest behind a QMP socket."""
    command = guest.command
    process = Process(guest.pid)
    huge_bytes, pinned_bytes = process.held_bytes()
    process.close()
    words = command_line(guest.pid)
    backends = list(look_at_backends(command))
    pinning = tuple(look_for_pinning(command))
    device = guest.device()
    return Facts(
        guest.name, device, Places(words, guest.balloon_path),
        polling_seconds=guest.polling_seconds(),
        last_update_unix_s=guest.statistics().last_update_unix_s, now_unix_s=time.time(),
        standstill=find_standstill(command("query-status")["status"]),
        migrating=command("query-migrate").get("status") in MIGRATING,
        pinning=pinning, confidential=find_confidential(command),
        huge_bytes=find_huge_page(backends, huge_bytes), host_page_bytes=PAGE_BYTES,
        locked=not pinning and (pinned_bytes > MOST_PINNED_BYTES
                                or LOCKED.search(" ".join(words)) is not None),
        preallocated=any(backend["prealloc"] for backend in backends),
        files=tuple(backend["path"] for backend in backends if backend["path"]
                    and not backend["share"] and not backend["huge_bytes"]),
        unseen=find_unseen(device, words))


def find_standstill(status):
    """Return why the guest's processors stand still, in words; nothing if they run."""
    return STANDSTILL.get(status, status)


def find_unseen(device, words):
    """Return what could not be looked at."""
    unseen = {}
    if device.state is None:
        unseen["driver"] = QEMU_NOT_ASKED
    if not words:
        unseen["command line"] = "QEMU's process is not to be seen from here"
    return unseen


def command_line(pid):
    """Return QEMU's words; none if they cannot be seen."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def look_at_backends(command):
    """Yield what each memory backend is like."""
    for backend in command("query-memdev"):
        path = f"/objects/{backend.get('id')}"
        file = get(command, path, "mem-path")
        yield {"prealloc": backend["prealloc"], "share": backend.get("share", True),
               "path": file, "huge_bytes": huge_page_bytes(command, path, file)}


def huge_page_bytes(command, path, file):
    """Return the size of a backend's huge pages; 0 if it has none."""
    if get(command, path, "hugetlb"):
        return get(command, path, "hugetlbsize") or default_huge_page_bytes()
    return hugetlbfs_page_bytes(file) if file else 0


def hugetlbfs_page_bytes(file):
    """Return the size of the pages of a file or folder on a hugetlbfs; 0 if it is elsewhere."""
    try:
        mounts = Path("/proc/self/mounts").read_text("utf-8", errors="replace")
    except OSError:
        return 0
    folders = [line.split()[1] for line in mounts.splitlines() if line.split()[2] == "hugetlbfs"]
    try:
        inside = any(Path(file).resolve().is_relative_to(folder) for folder in folders)
        return os.statvfs(file).f_bsize if inside else 0
    except OSError:
        return 0


def find_huge_page(backends, mapped_bytes):
    """Return the largest page of the guest's memory from the pool of huge pages; 0 without."""
    largest_bytes = max((backend["huge_bytes"] for backend in backends), default=0)
    return largest_bytes or (default_huge_page_bytes() if mapped_bytes else 0)


def default_huge_page_bytes():
    """Return the size of this host's huge pages where nobody names one."""
    match = DEFAULT_HUGE.search(Path("/proc/meminfo").read_text("ascii"))
    return int(match[1]) * 1024 if match else 0


def look_for_pinning(command):
    """Yield the devices that keep the guest's memory where it is."""
    for folder in FOLDERS:
        for child in command("qom-list", path=folder):
            path = f"{folder}/{child['name']}"
            if pins(child["type"]) and not get(command, path, ALLOWED):
                kind = child["type"].removeprefix("child<").removesuffix(">")
                yield f"{kind} {child['name']}"


def find_confidential(command):
    """Return the object that encrypts the guest's memory; None without."""
    return get(command, "/machine", "confidential-guest-support") or None


def get(command, path, name):
    """Return a property; None if there is none."""
    try:
        return command("qom-get", path=path, property=name)
    except CommandError:
        return None


class Places:
    """Where a guest of QEMU's own is changed: the command line that somebody wrote."""

    def __init__(self, words, balloon_path):
        self._path = balloon_path
        self._device = find_balloon_word(words) or "virtio-balloon-pci"

    def balloon(self, name, value="on"):
        """A property of the balloon, for the next start."""
        return f"QEMU's command line: -device {with_property(self._device, name, value)}"

    def statistics(self, seconds):
        """How often QEMU asks."""
        at_once = (f"qom-set path={self._path} property=guest-stats-polling-interval "
                   f"value={seconds}")
        return (f"{self.balloon('guest-stats-polling-interval', seconds)}; at once, by QMP: "
                f"{at_once}")

    def hinting(self):
        """Free page hints want a thread."""
        hinted = with_property(with_property(self._device, FREE_PAGE_HINT, "on"), "iothread",
                               "hint0")
        return ("wait for its end; for the next migration, QEMU's command line: "
                f"-object iothread,id=hint0 -device {hinted}")

    def resume(self):
        """The guest goes on."""
        return "by QMP: cont"

    def wake_up(self):
        """The guest ends its sleep."""
        return "by QMP: system_wakeup"

    def devices(self):
        """What pins memory."""
        return ("QEMU's command line: take the device away (-device vfio-..., vhost-vdpa...), or "
                "the balloon, and give the guest a fixed size")

    def unlock(self):
        """What locks memory."""
        return ("QEMU's command line: no -overcommit mem-lock=on, no vDPA device; or give the "
                "guest a fixed size")

    def huge_pages(self):
        """The backend's pages."""
        return ("QEMU's command line: a memory backend without hugetlb=on and without a mem-path "
                "on a hugetlbfs; transparent huge pages do for most guests")

    def preallocation(self):
        """The backend's allocation."""
        return "QEMU's command line: prealloc=off for the memory backend, no -mem-prealloc"

    def files(self):
        """The backend's file."""
        return "QEMU's command line: memory-backend-ram or memory-backend-memfd instead of a file"


def find_balloon_word(words):
    """Return the argument that makes the balloon; None if it was made otherwise."""
    for option, word in zip(words, words[1:]):
        if option in ("-device", "--device") and re.search(r'^virtio-balloon|"virtio-balloon',
                                                           word):
            return word
    return None


def with_property(word, name, value):
    """Return an argument of -device, plain or JSON, with a property set."""
    if word.startswith("{"):
        properties = json.loads(word)
        properties[name] = True if value == "on" else value
        return f"'{json.dumps(properties, separators=(',', ':'))}'"
    parts = [part for part in word.split(",") if not part.startswith(f"{name}=")]
    return ",".join([*parts, f"{name}={value}"])
