# SPDX-License-Identifier: GPL-2.0-only
"""Each feature is used when the host offers it, and declined when a parameter says so."""

import pytest
from conftest import FRAME, MIB

pytestmark = pytest.mark.core
BITS = {"must_tell_host": 0, "stats": 1, "deflate_on_oom": 2, "hinting": 3, "page_poison": 4,
        "reporting": 5}
HIGHEST_BALLOON_BIT = 5
TRANSPORT_BITS = range(24, 64)
# QEMU's, for those that it can be told to offer
PROPERTIES = {"deflate-on-oom": 2, "free-page-hint": 3, "page-poison": 4, "free-page-reporting": 5}


def offered(guest):
    """The balloon feature bits that QEMU offers: statistics always, and what it was told to."""
    path = "/machine/peripheral/balloon0"
    return {BITS["stats"]} | {bit for name, bit in PROPERTIES.items()
                              if guest.qmp("qom-get", path=path, property=name)}


def test_only_known_features_are_negotiated(lab, guest):
    with lab.loaded(guest) as balloon:
        bits = balloon.features() - set(TRANSPORT_BITS)
        assert bits <= offered(guest)
        assert max(bits) <= HIGHEST_BALLOON_BIT


@pytest.mark.parametrize("name", [name for name in BITS if name != "page_poison"])
def test_feature_can_be_declined(lab, guest, name):
    bit = BITS[name]
    if bit not in offered(guest):
        pytest.skip(f"this QEMU does not offer {name}")
    with lab.loaded(guest) as balloon:
        usual = balloon.features()
        assert bit in usual
    with lab.loaded(guest, f"{name}=0") as balloon:
        assert balloon.features() == usual - {bit}
        balloon.resize(100 * MIB + FRAME)
        balloon.resize(0)


def test_page_poison_needs_a_guest_that_clears_freed_pages(lab, guest):
    with lab.loaded(guest) as balloon:
        assert BITS["page_poison"] not in balloon.features()
    clearing = lab.guest(append="init_on_free=1")
    with lab.loaded(clearing) as balloon:
        assert BITS["page_poison"] in balloon.features()
        balloon.resize(100 * MIB + FRAME)
        balloon.resize(0)
    with lab.loaded(clearing, "page_poison=0") as balloon:
        assert BITS["page_poison"] not in balloon.features()
        balloon.resize(100 * MIB + FRAME)


def test_without_statistics_the_host_hears_nothing(lab, guest):
    """The other queues keep their numbers: reporting and hinting still work."""
    with lab.loaded(guest, "stats=0") as balloon:
        guest.poll_stats(1)
        balloon.resize(50 * MIB)
        assert balloon.attr("stats_sent") == "0"
        assert balloon.attr("transfer") == "range"
        guest.poll_stats(0)


@pytest.mark.parametrize("param, valid", [
    ("transfer=fast", ("auto", "pfn", "range")),
    ("guard=maybe", ("protect", "squeeze")),
    ("floor=12X", ("K, M or G",)),
    ("floor=120%", ("no more than the guest has",)),
    ("reserve=-1", ("K, M or G",)),
])
def test_unknown_value_is_refused_with_the_valid_ones(lab, guest, param, valid):
    guest.check("dmesg -c >/dev/null")
    returncode, _ = guest.run(f"insmod /modules/vballoon.ko {param}")
    assert returncode
    log = guest.dmesg()
    for word in (param.split("=")[1], *valid):
        assert word in log
    assert "vballoon" not in guest.check("cat /proc/modules")


def test_unknown_switch_value_is_refused(lab, guest):
    guest.check("dmesg -c >/dev/null")
    assert guest.run("insmod /modules/vballoon.ko stats=perhaps")[0]
    assert "`perhaps' invalid for parameter `stats'" in guest.dmesg()
