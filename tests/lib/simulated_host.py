# SPDX-License-Identifier: GPL-2.0-only
"""A host and its guests in numbers, for the policy of `balloonctl balance`: no clock, no QEMU.

Guests use what their load says, second by second. A driver obeys (virtio_balloon), guards
(vballoon: keeps a reserve, takes back when it is short), or is not there. The host counts how
often memory was moved, and how much went back within ten minutes: that was in vain.
"""

import random
from dataclasses import dataclass, field

from ballooncontrol.balance.model import MIB, Facts, Guest, HostFacts, Limits
from ballooncontrol.balance.policy import Policy
from ballooncontrol.base import Statistics

GIB = 1 << 30
RESERVE_BYTES = 36 * MIB
KERNEL_BYTES = 50 * MIB
# what a driver moves in a second
INFLATE_BYTES = {"guards": 8 * GIB, "obeys": GIB // 2}
VAIN_S = 600
START_UNIX_S = 1_800_000_000


@dataclass
class SimulatedGuest:
    """A guest whose load says what it uses at each second."""

    name: str
    ram_bytes: int
    load: object
    limits: Limits
    driver: str = "guards"
    cached_share: float = 0.3
    obstacle: str | None = None
    lie: object = None
    reports: bool = True
    answers: bool = True
    actual_bytes: int = 0
    target_bytes: int = 0
    touched_bytes: int = 0
    used_bytes: int = 0
    swap_bytes: int = 0
    swapped_now_bytes: int = 0
    short_since_s: int | None = None
    longest_short_s: int = 0
    moves: list = field(default_factory=list)

    def __post_init__(self):
        self.actual_bytes = self.target_bytes = self.ram_bytes
        self.guest = Guest(self.name, self.limits)
        self.statistics = Statistics()

    @property
    def available_bytes(self):
        """What the guest's own MemAvailable would say."""
        return max(0, self.actual_bytes - KERNEL_BYTES - self.used_bytes)

    @property
    def resident_bytes(self):
        """What the host sees in QEMU."""
        return min(self.touched_bytes, self.actual_bytes) + 32 * MIB

    def step(self, now_s):
        """One second of its life."""
        self.used_bytes = self.load(now_s)
        self._move_balloon()
        lacking_bytes = self.used_bytes + KERNEL_BYTES - self.actual_bytes
        # what is swapped out once is not swapped out every second
        self.swapped_now_bytes = max(0, lacking_bytes - self.swap_bytes)
        self.swap_bytes = max(self.swap_bytes, lacking_bytes, 0)
        cache_bytes = int(self.available_bytes * self.cached_share)
        self.touched_bytes = min(self.actual_bytes,
                                 max(self.used_bytes + KERNEL_BYTES + cache_bytes,
                                     self.touched_bytes - 64 * MIB))
        self._count_shortness(now_s)

    def _move_balloon(self):
        if self.driver == "none" or self.obstacle:
            return
        speed = INFLATE_BYTES[self.driver]
        floor_bytes = self.used_bytes + KERNEL_BYTES + RESERVE_BYTES
        if self.driver == "guards" and self.actual_bytes < floor_bytes - RESERVE_BYTES // 2:
            # DEFLATE_ON_OOM
            self.actual_bytes = min(self.ram_bytes, floor_bytes)
        elif self.actual_bytes > self.target_bytes:
            goal_bytes = self.target_bytes
            if self.driver == "guards":
                goal_bytes = max(goal_bytes, min(self.actual_bytes, floor_bytes))
            self.actual_bytes = max(goal_bytes, self.actual_bytes - speed)
        elif self.actual_bytes < self.target_bytes:
            self.actual_bytes = min(self.target_bytes, self.actual_bytes + speed)

    def _count_shortness(self, now_s):
        if self.available_bytes >= SMALLEST_ROOM_BYTES:
            self.short_since_s = None
            return
        if self.short_since_s is None:
            self.short_since_s = now_s
        self.longest_short_s = max(self.longest_short_s, now_s - self.short_since_s + 1)

    def report(self, now_s):
        """The driver answers for statistics."""
        if self.driver == "none" or not self.reports or self.obstacle == "paused":
            return
        available_bytes = self.available_bytes
        if self.lie:
            available_bytes = self.lie(self)
        self.statistics = Statistics(
            total_bytes=self.ram_bytes - KERNEL_BYTES, available_bytes=available_bytes,
            free_bytes=int(available_bytes * (1 - self.cached_share)),
            swap_in_bytes=0, swap_out_bytes=self.swap_bytes,
            last_update_unix_s=START_UNIX_S + now_s)

    def look(self, now_s):
        """What the service would find."""
        if not self.answers:
            self.guest.lose("does not answer")
            return
        self.guest.observe(Facts(self.ram_bytes, self.actual_bytes, self.resident_bytes,
                                 self.statistics, START_UNIX_S + now_s, self.obstacle), now_s)

    def ask(self, move, now_s):
        """The service asks."""
        self.moves.append((now_s, move.kind, move.bytes, move.target_bytes))
        self.target_bytes = move.target_bytes
        self.guest.asked(move.target_bytes, now_s)


SMALLEST_ROOM_BYTES = 8 * MIB


class SimulatedHost:
    """The host: runs all of it, and holds the invariants to account."""

    def __init__(self, total_bytes, guests, margin_bytes, others=lambda _s: 0, period_s=2):
        self.total_bytes = total_bytes
        self.guests = guests
        self.others = others
        self.period_s = period_s
        self.policy = Policy(margin_bytes)
        self.least_available_bytes = total_bytes
        self.plan = None
        self.breaches = []
        self.plans = []

    @property
    def available_bytes(self):
        """The host's MemAvailable."""
        return (self.total_bytes - self.others(self.now_s)
                - sum(guest.resident_bytes for guest in self.guests))

    def run(self, seconds, since_s=0):
        """Live for so many seconds."""
        for self.now_s in range(since_s, since_s + seconds):
            for number, guest in enumerate(self.guests):
                guest.step(self.now_s)
                if (self.now_s + number) % self.period_s == 0:
                    guest.report(self.now_s)
                guest.look(self.now_s)
            self._balance()

    def _balance(self):
        available_bytes = self.available_bytes
        self.least_available_bytes = min(self.least_available_bytes, available_bytes)
        facts = HostFacts(self.total_bytes, max(0, available_bytes))
        plan = self.plan = self.policy.decide(facts, [guest.guest for guest in self.guests],
                                              self.now_s)
        self._check(plan)
        by_name = {guest.name: guest for guest in self.guests}
        for move in plan.moves:
            if move.kind == "withdraw":
                move.guest.give_up(self.now_s)
            by_name[move.guest.name].ask(move, self.now_s)

    def _check(self, plan):
        """What must hold for every plan."""
        given_bytes = 0
        for move in plan.moves:
            guest = move.guest
            if move.kind == "take" and move.target_bytes < guest.limits.minimum_bytes:
                self.breaches.append(f"{move}: below its minimum")
            if move.kind == "give":
                given_bytes += move.target_bytes - guest.size_bytes
                if move.target_bytes > max(guest.limits.maximum_bytes, guest.actual_bytes):
                    self.breaches.append(f"{move}: above its maximum")
            if guest.trouble:
                self.breaches.append(f"{move}: asked although {guest.trouble}")
        if given_bytes > max(0, plan.room_bytes):
            self.breaches.append(f"{given_bytes} given, room {plan.room_bytes}")
        if len({move.guest.name for move in plan.moves}) < len(plan.moves):
            self.breaches.append("a guest was asked twice in one plan")

    # What it came to

    def nr_moves(self):
        """Gives and takes."""
        return sum(1 for guest in self.guests for move in guest.moves
                   if move[1] in ("give", "take"))

    def moved_bytes(self):
        """All that was given or taken."""
        return sum(abs(move[2]) for guest in self.guests for move in guest.moves
                   if move[1] in ("give", "take"))

    def vain_bytes(self):
        """What went one way and back within ten minutes."""
        vain_bytes = 0
        for guest in self.guests:
            recent = []
            for when_s, kind, size_bytes, _ in guest.moves:
                if kind not in ("give", "take"):
                    continue
                recent = [part for part in recent if when_s - part[0] <= VAIN_S]
                left_bytes = abs(size_bytes)
                for part in reversed(recent):
                    if (part[1] > 0) != (size_bytes > 0) and left_bytes:
                        back_bytes = min(abs(part[1]), left_bytes)
                        vain_bytes += back_bytes
                        left_bytes -= back_bytes
                        part[1] -= back_bytes if part[1] > 0 else -back_bytes
                if left_bytes:
                    recent.append([when_s, left_bytes if size_bytes > 0 else -left_bytes])
        return vain_bytes


def steady(used_bytes):
    """A load that stays."""
    return lambda _s: used_bytes


def working_day(seed, quiet_bytes, busy_bytes, noise_bytes=8 * MIB):
    """A load of office hours, with a job now and then, and noise at every second."""
    draw = random.Random(seed)
    jobs = sorted(draw.sample(range(8 * 3600, 18 * 3600, 300), 12))
    lengths = {start: draw.randrange(120, 1500) for start in jobs}
    levels = {start: draw.uniform(0.3, 1) for start in jobs}
    noise = [draw.randrange(noise_bytes) for _ in range(997)]

    def used_bytes(now_s):
        day_s = now_s % 86400
        level = max((levels[start] * min(1, (day_s - start) / 30) for start in jobs
                     if start <= day_s < start + lengths[start]), default=0)
        return int(quiet_bytes + level * (busy_bytes - quiet_bytes) + noise[day_s % 997])
    return used_bytes


def day_of_guests(nr_guests=8, ram_bytes=4 * GIB):
    """Guests of all kinds for a day: seven that work at their own times, two drivers."""
    guests = []
    for number in range(nr_guests):
        load = working_day(number, 600 * MIB, 3 * GIB) if number else steady(500 * MIB)
        guests.append(SimulatedGuest(
            f"guest{number}", ram_bytes, load, Limits(ram_bytes // 4, ram_bytes,
                                                      100 if number % 2 else 200),
            driver="obeys" if number % 4 == 3 else "guards"))
    return guests


def nightly_backup(now_s):
    """What the host's own processes use: a backup at night, a build at noon."""
    day_s = now_s % 86400
    busy = 3 * 3600 <= day_s < 4 * 3600 or 12 * 3600 <= day_s < 12 * 3600 + 1800
    return GIB + (2 * GIB if busy else 0) + (day_s * 7919) % (64 * MIB)
