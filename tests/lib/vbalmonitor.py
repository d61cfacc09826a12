# SPDX-License-Identifier: GPL-2.0-only
"""Read the driver's tracepoints, and see whether it keeps what it has to (virtio 1.2, 5.5.6).

One Monitor follows one balloon from the moment that nothing is held.
"""

import re
from dataclasses import dataclass, field

EVENT = re.compile(r": vbal_(?P<name>\w+): (?P<text>.*)$")
FIELD = re.compile(r"(\w+)=(\S+)")
GIVES, TAKES = "inflate", "deflate"
MOVES = ("inflating", "deflating")
# A pointer, while the kernel has no random number to hide it with.
NAMELESS = "(____ptrval____)"


@dataclass
class Monitor:
    """What the guest's balloon is known to hold, and what was wrong with that.

    page_bytes is the guest's; told says that MUST_TELL_HOST was negotiated.
    """

    page_bytes: int = 4096
    told: bool = False
    breaches: list = field(default_factory=list)
    held: set = field(default_factory=set)  # PFNs
    out: dict = field(default_factory=dict)  # batch -> list of (queue, bytes)
    given_bytes: int = 0  # as frame numbers: the host has them until it is told
    state: str = ""
    hinting: bool = False
    has_hinted: bool = False
    nr_events: int = 0

    def feed(self, text):
        """Follow lines of a trace."""
        for line in text.splitlines():
            match = EVENT.search(line)
            if match:
                self.nr_events += 1
                follow = getattr(self, f"on_{match['name']}", None)
                if follow:
                    follow(dict(FIELD.findall(match["text"])), line.strip())

    def breach(self, what, line):
        """Note what must not be."""
        self.breaches.append(f"{what}: {line}")

    @property
    def held_bytes(self):
        """Return what was taken from the allocator and did not go back."""
        return len(self.held) * self.page_bytes

    def frames_of(self, event):
        """Return the PFNs of a block."""
        first = int(event["pfn"], 16)
        return range(first, first + (1 << int(event["order"])))

    def on_block_alloc(self, event, line):
        """A page is in the balloon once."""
        frames = self.frames_of(event)
        if not self.held.isdisjoint(frames):
            self.breach("taken from the allocator, but held already", line)
        self.held.update(frames)

    def on_block_free(self, event, line):
        """Only what is held goes back, and not what the host still has."""
        frames = self.frames_of(event)
        if not self.held.issuperset(frames):
            self.breach("goes back to the allocator, but is not held", line)
        self.held.difference_update(frames)
        self.host_has_no_more_than_is_held(line)

    def on_page_move(self, event, line):
        """A page that moves was held, its new place was not."""
        old, new = int(event["pfn"], 16), int(event["to_pfn"], 16)
        if old not in self.held or new in self.held:
            self.breach("moves, but is not held, or where another is", line)
        self.held.discard(old)
        self.held.add(new)

    def host_has_no_more_than_is_held(self, line):
        """5.5.6.1: pages are not used before the host was told, or has answered."""
        if self.given_bytes > self.held_bytes:
            self.breach(f"{self.given_bytes} bytes are with the host, "
                        f"but only {self.held_bytes} held", line)

    def on_batch_submit(self, event, line):
        """A batch that the host has is not sent again, and holds what is the balloon's."""
        batch, queue, size = event["batch"], event["queue"], int(event["bytes"])
        if batch in self.out and batch != NAMELESS:
            self.breach("sent twice at once", line)
        self.out.setdefault(batch, []).append((queue, size))
        if queue == GIVES:
            self.given_bytes += size
            self.host_has_no_more_than_is_held(line)
        elif queue == TAKES and not self.told:
            self.given_bytes -= size

    def on_batch_ack(self, event, line):
        """The host answers what it was sent, once."""
        batch, queue, size = event["batch"], event["queue"], int(event["bytes"])
        sent = self.out.get(batch, [])
        if (queue, size) in sent:
            sent.remove((queue, size))
        else:
            self.breach("answered, but not sent like that", line)
        if not sent:
            self.out.pop(batch, None)
        if queue == TAKES and self.told:
            self.given_bytes -= size

    def on_state(self, event, line):
        """Each state follows from the last one; a device that broke has no page."""
        if self.state and event["from"] != self.state:
            self.breach(f"the state was {self.state}", line)
        self.state = event["to"]
        if self.state == "broken":
            if self.held:
                self.breach(f"{self.held_bytes} bytes held of a device that was reset", line)
            self.out.clear()
            self.given_bytes = 0

    def on_resize_end(self, event, line):
        """At rest the host has answered, and what is told as held is what is held."""
        if event["state"] in MOVES:
            # On the way it got another target.
            return
        if self.out:
            on_the_way = sum(map(len, self.out.values()))
            self.breach(f"at rest with {on_the_way} batches on their way", line)
        told = int(event["held_bytes"])
        if told > self.held_bytes or told < self.held_bytes and not self.has_hinted:
            self.breach(f"{self.held_bytes} bytes are held", line)

    def on_hint_round_begin(self, event, line):
        """5.5.6.5: a round is the host's, and begins when the last one has ended."""
        if self.hinting:
            self.breach("a round of hints in another", line)
        if event["round_id"] != event["host_id"]:
            self.breach("a round of hints that the host has not asked for", line)
        self.hinting = self.has_hinted = True

    def on_hint_round_end(self, _, line):
        """5.5.6.5: a round ends once."""
        if not self.hinting:
            self.breach("the end of no round of hints", line)
        self.hinting = False


class Watch:
    """A monitor of a guest's balloon, from loading the module to unloading it."""

    TRACING = "/sys/kernel/tracing"

    def __init__(self, guest, told=False, kib_per_cpu=16384):
        """Begin; the module is loaded and holds nothing, or nothing will be known of what."""
        self.guest, self.monitor = guest, Monitor(guest.page_bytes(), told)
        # "counter" is in order on all processors.
        guest.check(f"cd {self.TRACING} && echo {kib_per_cpu} >buffer_size_kb && "
                    "echo counter >trace_clock && echo >trace && "
                    "echo 1 >events/vballoon/enable", 120)

    def end(self):
        """Stop watching, and let the guest have its memory again; return the monitor."""
        self.guest.check(f"echo 0 >{self.TRACING}/events/vballoon/enable")
        lost = self.guest.check(f"grep -hE '^(overrun|dropped events): [^0]' "
                                f"{self.TRACING}/per_cpu/*/stats || true")
        self.monitor.feed(self.guest.check(f"cat {self.TRACING}/trace", 300))
        self.guest.check(f"cd {self.TRACING} && echo >trace && echo 1 >buffer_size_kb", 120)
        assert not lost, f"events were lost, nothing can be said: {lost}"
        return self.monitor
