# SPDX-License-Identifier: GPL-2.0-only
"""Who gives and who gets. Pure: facts and a time go in, moves come out.

The rule. What guests may have and have not yet (their claims) must be there: room is what the
host has available, less the margin, less all claims. A guest is short when less than half its
buffer is available in it, or when it swaps. Memory is only given out of room, by weight, to
guests that are short; when room is lacking, guests give what lies idle in them: those with the
most of it, and the least weight, first. Nothing moves as long as nobody is short.
"""

from dataclasses import dataclass, field

from ..units import format_size
from .model import FRAME_BYTES, MIB

# smaller moves are not worth it
SMALLEST_MOVE_BYTES = 16 * MIB
# a sum that is shared out goes to no more guests than get so much each
WORTHWHILE_BYTES = 64 * MIB
# between no room and this share of the host nothing moves: host processes come and go
BAND_SHARE = 0.02
SMALLEST_BAND_BYTES = 64 * MIB
# spare memory goes back to the guests after so long without any need
CALM_S = 60
# the host is stalled when its tasks wait for memory for so much of the time
STALLED_PERCENT = 10
# page cache that one move may drop, as a share of the guest's RAM: calmly, and in need
CALM_CACHE_SHARE = 1 / 16
NEED_CACHE_SHARE = 1 / 4
# the part of its buffer that a guest keeps when another one is short: at most, at least
MOST_BUFFERS = 0.625
LEAST_BUFFERS = 0.25
# ... and when the host is short
HOST_BUFFERS = 0.5


@dataclass(frozen=True)
class Move:
    """A guest to be asked for a size, and why."""

    guest: object
    target_bytes: int
    kind: str
    why: str

    @property
    def bytes(self):
        """How much it gets; negative if it gives."""
        return self.target_bytes - self.guest.actual_bytes

    def __str__(self):
        name, why = self.guest.name, self.why
        sizes = (f"{format_size(self.guest.actual_bytes)} to {format_size(self.target_bytes)}")
        if self.kind == "give":
            return f"{format_size(self.bytes)} for {name} ({sizes}): {why}"
        if self.kind == "take":
            return f"{format_size(-self.bytes)} from {name} ({sizes}): {why}"
        return f"{name} stays at {format_size(self.target_bytes)}: {why}"


@dataclass(frozen=True)
class Plan:
    """What is to be done, and the figures that it came from."""

    moves: list
    room_bytes: int
    demand_bytes: int
    coming_bytes: int
    margin_bytes: int
    host: str

    @property
    def urgent(self):
        """True if somebody waits for memory that is on its way."""
        return self.coming_bytes > 0 and (self.demand_bytes > 0 or self.host != "well")


@dataclass
class Policy:
    """The rule, with the one thing it remembers: since when nobody needed anything."""

    margin_bytes: int
    _calm_since_s: float | None = field(default=None)

    def decide(self, host, guests, now_s):
        """Return a Plan. Changes no guest; whoever carries it out tells them."""
        guests = [guest for guest in guests if guest.facts]
        margin_bytes, state = self._look_at_host(host)
        room_bytes = host.available_bytes - margin_bytes - sum(
            guest.claim_bytes for guest in guests)
        moves = _settle(guests, now_s)
        busy = {id(move.guest) for move in moves}
        free = [guest for guest in guests if id(guest) not in busy]
        wants = {guest.name: want for guest in free if (want := guest.want_bytes(now_s))}
        demand_bytes = sum(wants.values())
        coming_bytes = sum(guest.coming_bytes for guest in guests)
        lacking_bytes = demand_bytes - room_bytes - coming_bytes

        moves += _shrink_to_maximum(free, now_s)
        # without a need there is time to hear all guests first
        hurry = wants or state != "well" or not any(guest.is_new(now_s) for guest in free)
        if lacking_bytes >= SMALLEST_MOVE_BYTES and hurry:
            host_bytes = margin_bytes - host.available_bytes - coming_bytes
            moves += _take(_Need(lacking_bytes, host_bytes, wants, state, free), free, now_s)
        moves += _give(room_bytes, wants, free)
        if self._is_calm(host, state, demand_bytes, lacking_bytes, moves, now_s):
            moves += _spread(room_bytes, host, free, now_s)
        return Plan(moves, room_bytes, demand_bytes, coming_bytes, margin_bytes, state)

    def _look_at_host(self, host):
        """Return the margin and how the host is: PSI counts when memory is not plenty."""
        margin_bytes = self.margin_bytes
        stalled = (host.stalled_percent or 0) >= STALLED_PERCENT
        if stalled and host.available_bytes < 2 * margin_bytes:
            margin_bytes = min(2 * margin_bytes, host.total_bytes // 2)
        if host.available_bytes < margin_bytes / 2:
            return margin_bytes, "critical"
        if host.available_bytes < margin_bytes:
            return margin_bytes, "short"
        return margin_bytes, "well"

    def _is_calm(self, host, state, demand_bytes, lacking_bytes, moves, now_s):
        stalled = (host.stalled_percent or 0) >= STALLED_PERCENT
        if state != "well" or stalled or demand_bytes or moves or lacking_bytes > 0:
            self._calm_since_s = None
        elif self._calm_since_s is None:
            self._calm_since_s = now_s
        return self._calm_since_s is not None and now_s - self._calm_since_s >= CALM_S


@dataclass(frozen=True)
class _Need:
    """What is lacking: in all, of that for guests that want it, and for the host itself."""

    lacking_bytes: int
    host_bytes: int
    wants: dict
    host: str
    guests: list

    def why(self):
        """Say whom it is for."""
        if self.wants:
            name = max(self.wants, key=self.wants.get)
            more = f" and {len(self.wants) - 1} more" if len(self.wants) > 1 else ""
            return f"for {name}{more}, short of {format_size(sum(self.wants.values()))}"
        if self.host != "well":
            return f"the host is short of {format_size(self.host_bytes)}"
        return "guests may have more than the host has left"

    def stages(self):
        """Return, stage by stage, how much to collect, and what a guest can give then."""
        stages = [(self.lacking_bytes, lambda guest: guest.idle_bytes())]
        if self.wants:
            level = self._level()
            stages.append((self._below(level), lambda guest: guest.idle_bytes(level(guest))))
        if self.host != "well":
            stages.append((self.host_bytes, lambda guest: guest.idle_bytes(HOST_BUFFERS)))
        if self.host == "critical":
            stages.append((self.host_bytes, _last_resort))
        return stages

    def _level(self):
        """Return a function to the part of its buffer that each guest would have, by weight."""
        seen = [guest for guest in self.guests if not guest.trouble and not guest.blind]
        buffers_bytes = sum(guest.buffer_bytes for guest in seen) or 1
        level = sum(min(guest.available_bytes, guest.buffer_bytes)
                    for guest in seen) / buffers_bytes
        # where nobody reports there is no level, and no mean
        mean_weight = sum(guest.limits.weight for guest in seen) / max(1, len(seen)) or 1
        return lambda guest: min(MOST_BUFFERS, max(
            LEAST_BUFFERS, level * guest.limits.weight / mean_weight))

    def _below(self, level):
        """How much those who want memory lack to that level."""
        missing_bytes = sum(
            max(0, level(guest) * guest.buffer_bytes - guest.size_bytes + guest.used_bytes)
            for guest in self.guests if guest.name in self.wants and not guest.blind)
        # lacking is the demand and what claims exceed the room by
        claims_bytes = self.lacking_bytes - sum(self.wants.values())
        return min(self.lacking_bytes, max(0, claims_bytes + missing_bytes))


def _last_resort(guest):
    """What a guest can give without using swap; of one that does not report, nobody knows."""
    if guest.blind:
        return guest.actual_bytes - guest.limits.minimum_bytes
    return guest.idle_bytes(LEAST_BUFFERS)


def _settle(guests, now_s):
    """Guests that took memory back by themselves, or do not move: they keep what they have."""
    moves = []
    for guest in guests:
        if guest.trouble:
            continue
        if guest.accept:
            moves.append(Move(guest, guest.actual_bytes, "accept", guest.note))
        elif guest.stands_still(now_s):
            way = "give" if guest.target_bytes < guest.actual_bytes else "take"
            moves.append(Move(guest, guest.actual_bytes, "withdraw",
                              f"it did not {way} what it was asked to"))
    return moves


def _shrink_to_maximum(guests, now_s):
    """Guests that have more than they may."""
    return [Move(guest, guest.limits.maximum_bytes, "take", "its maximum")
            for guest in guests if guest.can_give(now_s)
            and guest.actual_bytes > guest.limits.maximum_bytes]


def _take(need, guests, now_s):
    """Collect what is lacking: idle memory, then part of the buffers."""
    donors = {guest.name: guest for guest in guests if guest.can_give(now_s)
              and (guest.name not in need.wants or need.host == "critical")
              and guest.actual_bytes <= guest.limits.maximum_bytes}
    cache_share = NEED_CACHE_SHARE if need.wants or need.host != "well" else CALM_CACHE_SHARE
    taken = dict.fromkeys(donors, 0)
    for amount_bytes, giveable in need.stages():
        caps = {name: _step(guest, giveable(guest), cache_share) - taken[name]
                for name, guest in donors.items()}
        weights = {name: max(0, caps[name]) / guest.limits.weight
                   for name, guest in donors.items()}
        for name, part in share_among_few(amount_bytes - sum(taken.values()), caps,
                                          weights).items():
            taken[name] += part
    why = need.why()
    return [Move(guest, guest.actual_bytes - _frames(taken[name]), "take", why)
            for name, guest in donors.items() if taken[name] >= SMALLEST_MOVE_BYTES]


def _step(guest, giveable_bytes, cache_share):
    """Free memory goes at once, page cache in portions."""
    most_bytes = guest.free_bytes + int(cache_share * guest.facts.ram_bytes)
    return max(0, min(giveable_bytes, most_bytes))


def _give(room_bytes, wants, guests):
    """Hand out room to those who want it, by weight; where it is little, the neediest first."""
    if room_bytes < FRAME_BYTES or not wants:
        return []
    needy = {guest.name: guest for guest in guests if guest.name in wants}
    weights = {name: guest.limits.weight for name, guest in needy.items()}
    order = sorted(needy, key=lambda name: needy[name].want_ratio() * weights[name], reverse=True)
    parts = share_among_few(room_bytes, wants, weights, order)
    return [Move(needy[name], _frames(needy[name].size_bytes + part), "give",
                 _reason(needy[name]))
            for name, part in parts.items()
            if part >= max(FRAME_BYTES, min(SMALLEST_MOVE_BYTES, wants[name]))]


def _reason(guest):
    if guest.blind or guest.size_bytes < guest.limits.minimum_bytes:
        return "below its minimum"
    swaps = f", swapped {format_size(guest.swapped_bytes)}" if guest.swapped_bytes else ""
    return (f"{format_size(guest.available_bytes)} available{swaps}, "
            f"wants {format_size(guest.buffer_bytes)}")


def _spread(room_bytes, host, guests, now_s):
    """Give back what nobody needs, by weight, but for a band that keeps moves rare."""
    band_bytes = max(SMALLEST_BAND_BYTES, int(host.total_bytes * BAND_SHARE))
    if room_bytes < 3 * band_bytes:
        return []
    takers = [guest for guest in guests if not guest.trouble and guest.settled
              and now_s >= guest.no_growth_until_s
              and guest.driver != "none" and guest.size_bytes < guest.limits.maximum_bytes]
    caps = {guest.name: guest.limits.maximum_bytes - guest.size_bytes for guest in takers}
    parts = share_among_few(room_bytes - 2 * band_bytes, caps,
                            {guest.name: guest.limits.weight for guest in takers})
    return [Move(guest, _frames(guest.size_bytes + parts[guest.name]), "give",
                 "the host has it to spare")
            for guest in takers
            if parts.get(guest.name, 0) >= min(SMALLEST_MOVE_BYTES, caps[guest.name])]


def _frames(size_bytes):
    return int(size_bytes) // FRAME_BYTES * FRAME_BYTES


def share(total_bytes, caps, weights):
    """Split a total by weight, nobody above its cap: what one cannot use goes to the others."""
    parts = dict.fromkeys(caps, 0)
    open_names = {name for name in caps if caps[name] > 0 and weights.get(name, 0) > 0}
    left_bytes = total_bytes
    while open_names and left_bytes >= 1:
        whole = sum(weights[name] for name in open_names)
        full = {name for name in open_names
                if left_bytes * weights[name] / whole >= caps[name] - parts[name]}
        if not full:
            for name in open_names:
                parts[name] += int(left_bytes * weights[name] / whole)
            break
        for name in full:
            left_bytes -= caps[name] - parts[name]
            parts[name] = caps[name]
        open_names -= full
    return parts


def share_among_few(total_bytes, caps, weights, order=None):
    """As share(), but among no more than can have a part that is worth a move.

    Those with the greatest weight come first, or those that stand first in order; as many as
    are needed to take it all.
    """
    order = order or sorted(caps, key=lambda name: weights[name], reverse=True)
    most = max(1, int(total_bytes // WORTHWHILE_BYTES))
    chosen, room_bytes = {}, 0
    for name in order:
        if len(chosen) >= most and room_bytes >= total_bytes:
            break
        if caps[name] > 0:
            chosen[name] = caps[name]
            room_bytes += caps[name]
    return share(total_bytes, chosen, weights)
