# SPDX-License-Identifier: GPL-2.0-only
"""The rule of `balloonctl balance` on a simulated host: no clock, no guest, no luck."""

import pytest
from ballooncontrol.balance import policy
from ballooncontrol.balance.model import (LAST_HOLD_S, MIB, Facts, Guest, HostFacts,
                                          Limits)
from ballooncontrol.balance.policy import CALM_S, share, share_among_few
from ballooncontrol.base import Statistics
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from simulated_host import (GIB, SimulatedGuest, SimulatedHost, day_of_guests,
                            nightly_backup, steady, working_day)

RAM_BYTES = 4 * GIB
LIMITS = Limits(GIB, RAM_BYTES)
RELAXED = settings(deadline=None, derandomize=True, max_examples=25,
                   suppress_health_check=[HealthCheck.too_slow])


def guest(name, used_bytes, **options):
    """A guest of 4 GiB; the load may be a number."""
    load = used_bytes if callable(used_bytes) else steady(used_bytes)
    options.setdefault("limits", LIMITS)
    return SimulatedGuest(name, RAM_BYTES, load, **options)


def host(*guests, total_bytes=8 * GIB, others=steady(GIB), **options):
    """A host with a margin of 512 MiB."""
    return SimulatedHost(total_bytes, list(guests), 512 * MIB, others, **options)


def jump(at_s, before_bytes, after_bytes):
    """A load that changes at once."""
    return lambda now_s: before_bytes if now_s < at_s else after_bytes


def asks(simulated, kind=None):
    """What a guest was asked for."""
    return [move for move in simulated.moves if kind is None or move[1] == kind]


# Sharing out

AMOUNTS = st.dictionaries(st.sampled_from("abcdefgh"),
                          st.tuples(st.integers(0, 1 << 36), st.integers(1, 1000)), min_size=1)


@RELAXED
@given(total=st.integers(0, 1 << 37), table=AMOUNTS,
       split=st.sampled_from([share, share_among_few]))
def test_share_splits_no_more_than_there_is(total, table, split):
    caps = {name: cap for name, (cap, _) in table.items()}
    parts = split(total, caps, {name: weight for name, (_, weight) in table.items()})
    assert all(0 <= part <= caps[name] for name, part in parts.items())
    assert sum(parts.values()) <= total
    # rounding loses less than a byte for each
    assert sum(parts.values()) > min(total, sum(caps.values())) - len(caps) - 1


def test_share_goes_by_weight():
    parts = share(300, {"a": 1000, "b": 1000}, {"a": 200, "b": 100})
    assert parts == {"a": 200, "b": 100}


def test_little_goes_to_few():
    caps = {str(number): GIB for number in range(1000)}
    parts = share_among_few(200 * MIB, caps, dict.fromkeys(caps, 1))
    assert sum(1 for part in parts.values() if part) == 3


# What always holds

@st.composite
def some_guest(draw, number):
    """A guest of any kind, with any load."""
    ram_bytes = draw(st.integers(256, 16384)) * MIB
    minimum_bytes = draw(st.integers(64 * MIB, ram_bytes))
    maximum_bytes = draw(st.integers(minimum_bytes, ram_bytes))
    levels = draw(st.lists(st.floats(0, 1.1), min_size=1, max_size=6))
    return SimulatedGuest(
        f"g{number}", ram_bytes, lambda s: int(levels[s // 20 % len(levels)] * ram_bytes),
        Limits(minimum_bytes, maximum_bytes, draw(st.integers(1, 1000)),
               draw(st.floats(0, 1)), draw(st.booleans()) or draw(st.booleans())),
        driver=draw(st.sampled_from(["guards", "guards", "obeys", "none"])),
        obstacle=draw(st.sampled_from([None, None, None, "paused", "is being migrated"])),
        lie=draw(st.sampled_from([None, None, None, lambda _: 0, lambda g: 2 * g.ram_bytes,
                                  lambda g: g.used_bytes])),
        reports=draw(st.booleans()) or draw(st.booleans()),
        answers=draw(st.booleans()) or draw(st.booleans()))


@RELAXED
@given(data=st.data(), total_gib=st.integers(1, 64), nr_guests=st.integers(0, 6),
       used=st.lists(st.integers(0, 16), min_size=1, max_size=5))
def test_no_plan_breaks_a_promise(data, total_gib, nr_guests, used):
    guests = [data.draw(some_guest(number)) for number in range(nr_guests)]
    simulated = host(*guests, total_bytes=total_gib * GIB,
                     others=lambda s: used[s // 30 % len(used)] * GIB // 2)
    simulated.run(120)
    # minimum, maximum, room, nobody asked who cannot follow: see SimulatedHost._check()
    assert simulated.breaches == []


ANY_BYTES = st.one_of(st.none(), st.integers(-(1 << 64), 1 << 64), st.sampled_from(
    [0, 64 * MIB, 300 * MIB, GIB, (1 << 63), (1 << 64) - 1]))
ANY_FACTS = st.builds(
    Facts, ram_bytes=st.just(RAM_BYTES), actual_bytes=st.integers(0, RAM_BYTES),
    resident_bytes=st.one_of(st.none(), st.integers(0, 2 * RAM_BYTES)),
    statistics=st.builds(Statistics, total_bytes=ANY_BYTES, available_bytes=ANY_BYTES,
                         free_bytes=ANY_BYTES, swap_in_bytes=ANY_BYTES, swap_out_bytes=ANY_BYTES,
                         last_update_unix_s=st.integers(0, 100)),
    unix_s=st.integers(0, 100), obstacle=st.sampled_from([None, None, "is paused"]))


@settings(RELAXED, max_examples=300)
@given(looks=st.lists(st.lists(ANY_FACTS, min_size=4, max_size=4), max_size=3),
       available=st.lists(st.integers(0, 8 * GIB), min_size=4, max_size=4))
def test_whatever_guests_say_no_promise_is_broken(looks, available):
    guests = [Guest(f"g{number}", LIMITS) for number in range(len(looks))]
    rule = policy.Policy(512 * MIB)
    for step, available_bytes in enumerate(available):
        for each, facts in zip(guests, looks):
            each.observe(facts[step], 2 * step)
        plan = rule.decide(HostFacts(8 * GIB, available_bytes), guests, 2 * step)
        gives = [move for move in plan.moves if move.kind == "give"]
        assert sum(move.target_bytes - move.guest.size_bytes
                   for move in gives) <= max(0, plan.room_bytes)
        for move in plan.moves:
            assert str(move) and not move.guest.trouble
            assert move.kind != "take" or move.target_bytes >= LIMITS.minimum_bytes
            assert move.kind != "give" or move.target_bytes <= RAM_BYTES
            move.guest.asked(move.target_bytes, 2 * step)


def test_only_guests_that_nobody_knows_and_too_little_memory():
    """A guest below its minimum that does not report, on a host in need."""
    small = guest("small", 100 * MIB, reports=False)
    small.actual_bytes = small.target_bytes = GIB // 2
    simulated = host(small, total_bytes=2 * GIB, others=steady(2 * GIB - 100 * MIB))
    simulated.run(60)
    assert simulated.breaches == []


@RELAXED
@given(seed=st.integers(0, 1000), nr_guests=st.integers(2, 8))
def test_claims_are_covered(seed, nr_guests):
    """Once guests are within bounds, no load of theirs can use up the host.

    (What drivers take back by DEFLATE_ON_OOM nobody can refuse: the margin is for that.)
    """
    guests = [guest(f"g{number}", working_day(seed + number, 300 * MIB, 3 * GIB), driver="obeys")
              for number in range(nr_guests)]
    simulated = host(*guests, total_bytes=(nr_guests + 2) * GIB)
    simulated.run(120)
    simulated.least_available_bytes = simulated.total_bytes
    simulated.run(300, since_s=9 * 3600)
    assert simulated.least_available_bytes > 0
    assert simulated.plan.room_bytes > -simulated.policy.margin_bytes


# Hunting

def test_a_day_without_hunting():
    guests = day_of_guests()
    simulated = SimulatedHost(20 * GIB, guests, 2 * GIB, nightly_backup)
    simulated.run(86400)
    assert simulated.breaches == []
    assert simulated.least_available_bytes > 2 * GIB
    assert simulated.nr_moves() < 2500
    assert simulated.vain_bytes() < simulated.moved_bytes() / 5
    assert max(each.longest_short_s for each in guests) <= 5


def test_nothing_moves_without_need():
    guests = [guest("a", 600 * MIB), guest("b", 900 * MIB)]
    simulated = host(*guests, total_bytes=6 * GIB)
    simulated.run(600)
    before = simulated.nr_moves()
    simulated.run(3600, since_s=600)
    assert simulated.nr_moves() == before


def test_spare_memory_goes_back():
    guests = [guest("a", GIB), guest("b", GIB)]
    simulated = host(*guests, total_bytes=16 * GIB, others=jump(60, 12 * GIB, GIB))
    simulated.run(60)
    assert sum(each.actual_bytes for each in guests) < 5 * GIB
    simulated.run(CALM_S + 60, since_s=60)
    assert [each.actual_bytes for each in guests] == [RAM_BYTES, RAM_BYTES]


# Need

def test_host_in_need_is_helped_at_once():
    guests = [guest("a", GIB), guest("b", GIB)]
    simulated = host(*guests, total_bytes=11 * GIB, others=jump(100, GIB, 7 * GIB))
    simulated.run(100)
    assert simulated.nr_moves() == 0
    simulated.run(1, since_s=100)
    assert [move[1] for each in guests for move in each.moves] == ["take", "take"]


def test_host_in_distress_takes_buffers_but_nothing_in_use():
    simulated = host(guest("a", 2 * GIB, driver="obeys"), total_bytes=5 * GIB,
                     others=jump(60, GIB, 4 * GIB))
    simulated.run(60)
    assert simulated.guests[0].available_bytes > 300 * MIB
    simulated.run(60, since_s=60)
    assert 80 * MIB < simulated.guests[0].available_bytes < 150 * MIB
    assert simulated.guests[0].swap_bytes == 0


def test_host_in_distress_asks_whoever_does_not_report():
    blind = guest("blind", 2 * GIB, reports=False)
    simulated = host(blind, total_bytes=5 * GIB, others=jump(60, GIB, 4 * GIB))
    simulated.run(120)
    targets = [move[3] for move in asks(blind, "take")]
    assert targets and min(targets) >= LIMITS.minimum_bytes


@pytest.mark.parametrize("period_s", [1, 2, 5])
def test_guest_in_need_is_helped_within_two_reports(period_s):
    needy = guest("needy", jump(300, 500 * MIB, 1600 * MIB), driver="obeys")
    idle = guest("idle", jump(200, 2 * GIB, 400 * MIB))
    needy.guest.period_s = idle.guest.period_s = period_s
    simulated = host(needy, idle, total_bytes=5 * GIB, period_s=period_s)
    simulated.run(300)
    assert needy.actual_bytes < 1600 * MIB
    simulated.run(2 * period_s, since_s=300)
    assert asks(needy, "give")[-1][0] >= 300
    simulated.run(10, since_s=300 + 2 * period_s)
    assert needy.available_bytes > 100 * MIB


def test_the_heavier_gets_more():
    heavy = guest("heavy", 3 * GIB, limits=Limits(GIB, RAM_BYTES, 300), driver="obeys")
    light = guest("light", 3 * GIB, limits=Limits(GIB, RAM_BYTES, 100), driver="obeys")
    for each in (heavy, light):
        each.actual_bytes = each.target_bytes = 3 * GIB
    simulated = host(heavy, light, total_bytes=8 * GIB, period_s=1)
    simulated.run(10)
    gained_bytes = [each.actual_bytes - 3 * GIB for each in (heavy, light)]
    assert gained_bytes[0] == pytest.approx(3 * gained_bytes[1], rel=0.01)
    assert gained_bytes[1] > 0


def test_idle_memory_of_light_guests_goes_first():
    heavy = guest("heavy", 500 * MIB, limits=Limits(GIB, RAM_BYTES, 400))
    light = guest("light", 500 * MIB, limits=Limits(GIB, RAM_BYTES, 100))
    simulated = host(heavy, light, total_bytes=7 * GIB)
    simulated.run(60)
    assert light.actual_bytes < heavy.actual_bytes


def test_stalls_double_the_margin():
    rule = policy.Policy(GIB)
    calm = rule.decide(HostFacts(16 * GIB, 3 * GIB // 2, 1.0), [], 0)
    stalled = rule.decide(HostFacts(16 * GIB, 3 * GIB // 2, 30.0), [], 1)
    plenty = rule.decide(HostFacts(16 * GIB, 8 * GIB, 30.0), [], 2)
    assert (calm.host, stalled.host, plenty.host) == ("well", "short", "well")
    assert stalled.margin_bytes == 2 * GIB


# Guests of special kinds

@pytest.mark.parametrize("options, word", [
    ({"obstacle": "is paused"}, "paused"),
    ({"obstacle": "is being migrated"}, "migrated"),
    ({"obstacle": "a VFIO device keeps its memory from the host"}, "VFIO"),
    ({"answers": False}, "answer"),
    ({"limits": Limits(GIB, RAM_BYTES, balanced=False)}, "settings"),
])
def test_guest_that_cannot_follow_is_left_alone(options, word):
    odd = guest("odd", 500 * MIB, **options)
    other = guest("other", 500 * MIB)
    simulated = host(odd, other, total_bytes=6 * GIB)
    simulated.run(120)
    assert odd.moves == []
    assert word in odd.guest.trouble
    # what the odd one may claim comes from the other
    assert other.moves


def test_guest_that_hangs_counts_as_before():
    hung, other = guest("hung", 500 * MIB), guest("other", 500 * MIB)
    simulated = host(hung, other, total_bytes=6 * GIB)
    simulated.run(30)
    size_bytes, nr_asks = hung.guest.size_bytes, len(hung.moves)
    hung.answers = False
    simulated.run(60, since_s=30)
    assert (hung.guest.size_bytes, len(hung.moves)) == (size_bytes, nr_asks)
    assert hung.guest.trouble == "does not answer"


def test_guest_without_statistics_keeps_its_size():
    blind = guest("blind", 500 * MIB, reports=False)
    simulated = host(blind, guest("other", 500 * MIB), total_bytes=7 * GIB)
    simulated.run(120)
    assert blind.moves == []
    assert blind.guest.blind == "no statistics"


def test_guest_that_claims_too_much_is_named():
    liar = guest("liar", 500 * MIB, lie=lambda each: 5 * each.ram_bytes)
    simulated = host(liar, guest("other", 500 * MIB), total_bytes=7 * GIB)
    simulated.run(60)
    assert liar.moves == []
    assert "lies" in liar.guest.blind


def test_guest_that_hoards_is_found_out():
    hoarder = guest("hoarder", 200 * MIB, lie=lambda _: 0)
    simulated = host(hoarder, guest("other", 500 * MIB), total_bytes=7 * GIB)
    simulated.run(120)
    assert hoarder.guest.blind == "lies: calls memory used that it never touched"
    assert asks(hoarder, "give") == []


@pytest.mark.parametrize("reports, others_bytes", [(True, 3 * GIB), (False, 9 * GIB // 2)])
def test_guest_that_stands_still_is_not_asked_for_ever(reports, others_bytes):
    still = guest("still", 500 * MIB, driver="none")
    if reports:
        # statistics, and a balloon that does not move
        still.driver, still._move_balloon = "guards", lambda: None
    simulated = host(still, total_bytes=5 * GIB, others=steady(others_bytes))
    hours = 12
    simulated.run(hours * 3600)
    takes = asks(still, "take")
    assert 1 < len(takes) <= 7 + hours * 3600 // LAST_HOLD_S
    # it is asked for what it has, so that its driver can rest
    assert asks(still, "withdraw")[-1][3] == still.actual_bytes == RAM_BYTES
    assert still.guest.driver == ("holds back" if reports else "none")


def test_guest_that_can_give_again_is_asked_again():
    # it overrates what it can give, as long as it is busy
    tight = guest("tight", jump(400, 3900 * MIB, 500 * MIB), lie=lambda each: max(
        GIB, each.available_bytes))
    simulated = host(tight, total_bytes=5 * GIB, others=steady(3 * GIB))
    simulated.run(100)
    refused = len(asks(tight, "withdraw"))
    assert refused
    simulated.run(60, since_s=400)
    assert tight.actual_bytes < 2 * GIB


def test_guest_that_took_memory_back_keeps_it():
    needy = guest("needy", jump(100, 300 * MIB, 3 * GIB))
    simulated = host(needy, guest("other", 300 * MIB), total_bytes=6 * GIB)
    simulated.run(100)
    assert needy.actual_bytes < 3 * GIB
    simulated.run(3, since_s=100)
    assert asks(needy, "accept") or asks(needy, "give")
    simulated.run(50, since_s=103)
    assert not [move for move in asks(needy, "take") if move[0] >= 100]


def test_guest_that_obeys_is_not_driven_into_swap():
    obedient = guest("obedient", 2 * GIB, driver="obeys")
    needy = guest("needy", jump(100, 300 * MIB, RAM_BYTES), driver="obeys")
    simulated = host(obedient, needy, total_bytes=6 * GIB)
    simulated.run(300)
    assert obedient.swap_bytes == 0
    assert obedient.available_bytes > 0


def test_more_than_the_maximum_is_taken():
    small = guest("small", 500 * MIB, limits=Limits(GIB, 2 * GIB))
    simulated = host(small, total_bytes=64 * GIB)
    simulated.run(10)
    assert small.actual_bytes == 2 * GIB


def test_less_than_the_minimum_is_given():
    small = guest("small", 100 * MIB, reports=False, limits=Limits(2 * GIB, RAM_BYTES))
    small.actual_bytes = small.target_bytes = GIB
    simulated = host(small, total_bytes=64 * GIB)
    simulated.run(10)
    assert small.actual_bytes == 2 * GIB


def test_restart_leaves_guests_as_they_are():
    guests = [guest("a", 600 * MIB), guest("b", 900 * MIB)]
    first = host(*guests, total_bytes=6 * GIB)
    first.run(300)
    sizes = [each.actual_bytes for each in guests]
    for each in guests:
        each.moves.clear()
        each.__post_init__()
        each.actual_bytes = each.target_bytes = sizes[guests.index(each)]
    second = host(*guests, total_bytes=6 * GIB)
    second.run(300, since_s=300)
    assert second.nr_moves() == 0
    assert [each.actual_bytes for each in guests] == sizes


def test_guest_that_swaps_after_it_gave_is_named_and_gets_memory_back():
    obedient = guest("obedient", jump(32, 500 * MIB, 3 * GIB), driver="obeys")
    simulated = host(obedient, total_bytes=8 * GIB, others=jump(20, GIB, 5 * GIB))
    simulated.run(30)
    assert obedient.actual_bytes < 3 * GIB
    simulated.others = steady(GIB)
    simulated.run(30, since_s=30)
    assert obedient.guest.driver == "obeys"
    assert obedient.guest.note.startswith("swaps after it gave")
    assert obedient.actual_bytes > 3 * GIB


def test_page_cache_is_taken_in_portions():
    cached = guest("cached", 500 * MIB, cached_share=0.9)
    simulated = host(cached, total_bytes=64 * GIB)
    simulated.run(10)
    free_bytes = cached.guest.free_bytes
    assert 0 < free_bytes < 400 * MIB
    portion_bytes = policy._step(cached.guest, cached.guest.idle_bytes(), 1 / 16)
    assert portion_bytes == free_bytes + RAM_BYTES // 16 < cached.guest.idle_bytes()
