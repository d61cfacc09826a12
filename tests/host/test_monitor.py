# SPDX-License-Identifier: GPL-2.0-only
"""What the monitor of the driver's tracepoints lets pass, and what it does not."""

import pytest
from vbalmonitor import Monitor

LIFE = """
vbal_state: virtio0 from=at-target to=inflating held_bytes=0 target_bytes=12288
vbal_block_alloc: pfn=0x10 order=1
vbal_block_alloc: pfn=0x20 order=0
vbal_batch_submit: virtio0 queue=inflate batch=0000b1 bytes=12288 nr_pfns=3 nr_ranges=0
vbal_batch_ack: virtio0 queue=inflate batch=0000b1 bytes=12288 latency_us=7
vbal_state: virtio0 from=inflating to=at-target held_bytes=12288 target_bytes=12288
vbal_resize_end: virtio0 held_bytes=12288 target_bytes=12288 duration_us=9 state=at-target
vbal_page_move: pfn=0x20 to_pfn=0x30
vbal_batch_submit: virtio0 queue=deflate batch=0000b2 bytes=4096 nr_pfns=1 nr_ranges=0
vbal_batch_ack: virtio0 queue=deflate batch=0000b2 bytes=4096 latency_us=7
vbal_block_free: pfn=0x30 order=0
vbal_resize_end: virtio0 held_bytes=8192 target_bytes=8192 duration_us=9 state=at-target
""".strip().splitlines()
RANGES = """
vbal_block_alloc: pfn=0x400 order=9
vbal_batch_submit: virtio0 queue=report batch=0000b1 bytes=2097152 nr_pfns=0 nr_ranges=1
vbal_batch_ack: virtio0 queue=report batch=0000b1 bytes=2097152 latency_us=7
vbal_block_free: pfn=0x400 order=9
vbal_hint_round_begin: virtio0 round_id=0x101 host_id=0x101 total_hinted_bytes=0
vbal_block_alloc: pfn=0x400 order=9
vbal_resize_end: virtio0 held_bytes=0 target_bytes=0 duration_us=9 state=at-target
vbal_hint_round_end: virtio0 round_id=0x101 host_id=0x1 total_hinted_bytes=2097152
vbal_block_free: pfn=0x400 order=9
vbal_state: virtio0 from=at-target to=broken held_bytes=0 target_bytes=0
""".strip().splitlines()


def breaches(lines, **options):
    """Return what a monitor has to say of a trace."""
    monitor = Monitor(**options)
    monitor.feed("\n".join(f"  kworker/u4:0-9  [000] ..... 74: {line}" for line in lines))
    assert monitor.nr_events == len(lines)
    return monitor.breaches


@pytest.mark.parametrize("told", (False, True))
@pytest.mark.parametrize("lines", (LIFE, RANGES))
def test_a_correct_life_passes(lines, told):
    assert not breaches(lines, told=told)


def test_a_page_of_more_than_a_frame_counts_whole():
    assert not breaches([line.replace("12288", str(3 << 16)).replace("8192", str(2 << 16))
                         .replace("4096", str(1 << 16)) for line in LIFE], page_bytes=1 << 16)


def test_batches_without_a_name_are_counted():
    sent = LIFE[3].replace("0000b1", "(____ptrval____)")
    answered = LIFE[4].replace("0000b1", "(____ptrval____)")
    small_sent, small_answered = (line.replace("12288", "4096") for line in (sent, answered))
    begin = [*LIFE[1:3], LIFE[2].replace("0x20", "0x21")]
    assert not breaches([*begin, sent, small_sent, answered, small_answered])
    assert not breaches([*begin, sent, small_sent, small_answered, answered])
    assert "not sent like that" in " ".join(breaches([*begin, sent, answered, answered]))


# What is changed in a life, and what the monitor says of it: the line's number, and the line to be
# there instead, or none.
WRONG = {
    "taken twice": (2, LIFE[1], "held already"),
    "more is told than was taken": (2, None, "only 8192 held"),
    "answered with another size": (4, LIFE[4].replace("12288", "4096"), "not sent like that"),
    "answered on another queue": (4, LIFE[4].replace("inflate", "deflate"), "not sent like that"),
    "sent twice": (4, LIFE[3], "sent twice"),
    "at rest without an answer": (4, None, "at rest with 1 batches"),
    "a state that does not follow": (5, LIFE[5].replace("=inflating", "=deflating"),
                                     "the state was inflating"),
    "told to hold more": (6, LIFE[6].replace("held_bytes=12288", "held_bytes=16384"),
                          "12288 bytes are held"),
    "told to hold less": (11, LIFE[11].replace("held_bytes=8192", "held_bytes=4096"),
                          "8192 bytes are held"),
    "moves where another is": (7, LIFE[7].replace("to_pfn=0x30", "to_pfn=0x11"), "moves"),
    "moves, not held": (7, LIFE[7].replace("pfn=0x20", "pfn=0x21"), "moves"),
    "used before the host is told": (8, LIFE[10], "8192 held"),
    "broken, with pages": (11, "vbal_state: virtio0 from=at-target to=broken held_bytes=8192 "
                               "target_bytes=0", "of a device that was reset"),
}
WRONG_RANGES = {
    "given back twice": (4, RANGES[3], "not held"),
    "a round in a round": (5, RANGES[4], "in another"),
    "a round that nobody asked for": (4, RANGES[4].replace("host_id=0x101", "host_id=0x1"),
                                      "not asked for"),
    "an end without a round": (4, None, "the end of no round"),
}


@pytest.mark.parametrize("lines, change", [
    pytest.param(lines, change, id=name)
    for lines, changes in ((LIFE, WRONG), (RANGES, WRONG_RANGES))
    for name, change in changes.items()])
def test_a_breach_is_seen(lines, change):
    number, line, says = change
    changed = [*lines[:number], *([line] if line else []), *lines[number + 1:]]
    assert says in " ".join(breaches(changed))


def test_an_answer_is_waited_for_where_that_was_promised():
    early = [*LIFE[:9], LIFE[10], LIFE[9], LIFE[11]]
    assert not breaches(early)
    assert "8192 held" in " ".join(breaches(early, told=True))
