# SPDX-License-Identifier: GPL-2.0-only
"""What the doctor looks for. Each rule takes facts and yields findings."""

from ..base import UNDERWAY, ENDING, LEFT, SUSPENDED
from ..device import DEFLATE_ON_OOM, FREE_PAGE_HINT, NO_DRIVER, REPORTING, RUNNING, STATS
from ..units import format_size
from .facts import NOTE, PROBLEM, Finding

# the largest block that a balloon driver gives away at once
LARGEST_BLOCK_BYTES = 4 << 20
FRAME_BYTES = 4096
# a guest that was asked for statistics so many times in vain does not answer
SILENT_PERIODS = 3
SILENT_SECONDS = 10
SELDOM_SECONDS = 60
USUAL_SECONDS = 10

IN_VAIN = "the guest loses what it is asked for, and the host gains nothing"
SLOW = ("vballoon sends memory page by page, some 3 x as fast as virtio_balloon instead of some "
        "50 x, and what the guest frees by itself stays with QEMU")
KILLS = ("when the guest is short of memory the balloon may not give back: the OOM killer comes "
         "instead")
GUEST_DRIVER = "in the guest: modprobe vballoon, or virtio_balloon; dmesg says why it does not load"


def findings(facts):
    """Return all findings, problems first."""
    found = [finding for rule in RULES for finding in rule(facts)]
    return sorted(found, key=lambda finding: finding.level != PROBLEM)


def driver(facts):
    """Something in the guest has to drive the device."""
    state = facts.device.state
    if facts.standstill:
        yield Finding("paused", NOTE, f"the guest is {facts.standstill}",
                      "its balloon does not follow until it runs", how_to_go_on(facts))
    elif state == NO_DRIVER:
        yield Finding("no-driver", PROBLEM, "nothing in the guest drives the balloon",
                      "the guest keeps all its memory, whatever it is asked for", GUEST_DRIVER)
    elif state not in (RUNNING, None):
        yield Finding("driver-" + state, PROBLEM, f"the guest's driver is {state}",
                      "the guest does not follow", "in the guest: dmesg | grep -i balloon")


def how_to_go_on(facts):
    """What makes a guest that stands still run."""
    if facts.standstill in (UNDERWAY, ENDING):
        return "wait for its end"
    if facts.standstill == LEFT:
        return "examine it there"
    if facts.standstill == SUSPENDED:
        return facts.places.wake_up()
    return facts.places.resume()


def reporting(facts):
    """Without free page reporting memory travels page by page."""
    yield from feature(facts, REPORTING, "no-reporting", "free page reporting", SLOW)


def deflate_on_oom(facts):
    """Without it the balloon stays while processes are killed."""
    yield from feature(facts, DEFLATE_ON_OOM, "no-deflate-on-oom", "deflate-on-oom", KILLS)


def feature(facts, word, code, name, cost):
    """A feature has to be offered, and taken."""
    device = facts.device
    if device.offered is not None and word not in device.offered:
        yield Finding(code, PROBLEM, f"the device has no {name}", cost,
                      facts.places.balloon(word))
    elif device.negotiated is not None and word not in device.negotiated:
        yield Finding(code.replace("no-", "") + "-declined", NOTE,
                      f"the guest's driver declined {name}", cost,
                      "in the guest: /sys/module/vballoon/parameters/, or a driver that knows it")


def statistics(facts):
    """The host has to ask for statistics, and the guest to answer."""
    if not facts.polling_seconds:
        yield Finding("no-statistics", NOTE, "QEMU does not ask the guest for statistics",
                      "nobody on the host sees what the guest has free",
                      facts.places.statistics(USUAL_SECONDS))
    elif facts.polling_seconds > SELDOM_SECONDS:
        yield Finding("old-statistics", NOTE,
                      f"QEMU asks for statistics every {facts.polling_seconds} s only",
                      "what the host sees of the guest is as old",
                      facts.places.statistics(USUAL_SECONDS))
    if facts.polling_seconds and is_silent(facts):
        yield Finding("silent", PROBLEM,
                      f"QEMU asks for statistics every {facts.polling_seconds} s, and the guest "
                      + ("has stopped answering" if facts.last_update_unix_s
                         else "has never answered"),
                      "the guest has no balloon driver, or it hangs", GUEST_DRIVER)


def is_silent(facts):
    """True where statistics should have come."""
    device = facts.device
    if facts.standstill or device.state not in (RUNNING, None):
        return False
    if device.negotiated is not None and STATS not in device.negotiated:
        return False
    if not facts.last_update_unix_s:
        # how long QEMU has asked is not known; a driver answers as soon as it is there
        return device.state is None
    age_s = facts.now_unix_s - facts.last_update_unix_s
    return age_s > SILENT_PERIODS * facts.polling_seconds + SILENT_SECONDS


def pinned(facts):
    """What pins the guest's memory makes QEMU ignore the balloon."""
    if facts.pinning:
        yield Finding("discards-inhibited", PROBLEM,
                      f"the guest's memory is pinned by {', '.join(facts.pinning)}", IN_VAIN,
                      facts.places.devices())
    elif facts.locked:
        yield Finding("locked-memory", PROBLEM,
                      "QEMU's memory is locked (mlock, VFIO or vDPA): the host cannot discard it",
                      IN_VAIN, facts.places.unlock())
    if facts.confidential:
        yield Finding("confidential", PROBLEM,
                      f"the guest's memory is encrypted ({facts.confidential})", IN_VAIN,
                      "give such a guest a fixed size; vballoon does not drive its device")


def huge_pages(facts):
    """A host gives back whole pages of its own only."""
    size = format_size(facts.huge_bytes)
    if facts.huge_bytes > LARGEST_BLOCK_BYTES:
        yield Finding("huge-pages", PROBLEM, f"the guest's memory is pages of {size} (hugetlb), "
                      "and no balloon gives so much in one piece", IN_VAIN,
                      facts.places.huge_pages())
    elif facts.huge_bytes:
        yield Finding("huge-pages", NOTE, f"the guest's memory is pages of {size} (hugetlb)",
                      "only whole pages go back, to the host's pool of huge pages; QEMU ends if "
                      "the pool is empty when the guest wants them again",
                      facts.places.huge_pages())
    elif facts.host_page_bytes > FRAME_BYTES:
        yield Finding("host-pages", NOTE,
                      f"the host's pages are {facts.host_page_bytes >> 10} KiB, the balloon's "
                      "4 KiB", "what is smaller than a page of the host does not go back",
                      "nothing to change; free page reporting sends the largest blocks first")


def backing(facts):
    """Memory that was allocated in advance, or that is a file of others."""
    if facts.preallocated:
        yield Finding("preallocated", NOTE, "the guest's memory was allocated when QEMU started",
                      "what the balloon gives is gone from that; the guest gets it again only if "
                      "the host has some then", facts.places.preallocation())
    if facts.files:
        yield Finding("private-file", NOTE,
                      f"the guest's memory is a private mapping of {', '.join(facts.files)}",
                      "what the balloon gives becomes holes in the file, for whoever else uses it",
                      facts.places.files())


def migration(facts):
    """A guest on its way."""
    if facts.migrating:
        hint = facts.device.offered is None or FREE_PAGE_HINT in facts.device.offered
        yield Finding("migrating", NOTE, "the guest is being migrated",
                      "sizes may lag until it has arrived" + (
                          "" if hint else "; without free-page-hint its free memory is sent, too"),
                      "wait for its end" if hint else facts.places.hinting())


RULES = (driver, reporting, deflate_on_oom, statistics, pinned, huge_pages, backing, migration)
