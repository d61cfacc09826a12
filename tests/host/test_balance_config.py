# SPDX-License-Identifier: GPL-2.0-only
"""The settings of `balloonctl balance`: what is valid, and how a mistake is told."""

import pytest
from ballooncontrol.balance import config
from ballooncontrol.balance.host import Host
from ballooncontrol.balance.model import MIB
from conftest import ROOT

GIB = 1 << 30
FULL = """\
interval = 5

[host]
margin = "1G"
memory = "50%"

[libvirt]
uri = "qemu:///system"

[qmp]
sockets = ["/run/guests/*.qmp"]

[guests]
minimum = "512M"
weight = 50

[guest.web]
weight = 200
buffer = "30%"

[guest."db-*"]
maximum = "75%"
balance = false
"""


def test_all_settings_are_read():
    settings = config.parse(FULL)
    assert settings.interval == 5
    assert settings.margin.of(64 * GIB) == GIB
    assert settings.memory.of(64 * GIB) == 32 * GIB
    assert settings.uris == ("qemu:///system",)
    assert settings.sockets == ("/run/guests/*.qmp",)


def test_guests_override_defaults():
    settings = config.parse(FULL)
    web = settings.limits("web", 4 * GIB)
    assert (web.minimum_bytes, web.maximum_bytes) == (512 * MIB, 4 * GIB)
    assert (web.weight, web.buffer_share, web.balanced) == (200, 0.3, True)
    database = settings.limits("db-1", 4 * GIB)
    assert (database.maximum_bytes, database.weight) == (3 * GIB, 50)
    assert not database.balanced
    assert settings.limits("other", 4 * GIB).weight == 50


def test_nothing_is_needed():
    limits = config.parse("").limits("any", 4 * GIB)
    assert (limits.minimum_bytes, limits.maximum_bytes) == (GIB, 4 * GIB)
    assert (limits.weight, limits.buffer_share, limits.balanced) == (100, 0.2, True)


def test_a_size_beyond_the_guest_is_all_of_it():
    limits = config.parse('[guests]\nminimum = "8G"').limits("small", GIB)
    assert (limits.minimum_bytes, limits.maximum_bytes) == (GIB, GIB)


@pytest.mark.parametrize("text, line, words", [
    ("interval = 0", 1, "between 1 and 60"),
    ("interval = true", 1, "no number"),
    ("intervals = 2", 1, "did you mean interval?"),
    ("\n[host]\n\nmargin = 5", 4, "is no size"),
    ('[host]\nmargin = "120%"', 2, "more than all"),
    ('[host]\nmargn = "1G"', 2, "valid are margin, memory"),
    ('[guests]\nbuffer = "64M"', 2, "no share"),
    ("[guests]\nbalance = 1", 2, "neither true nor false"),
    ("[guest.web]\n# heavy\nweight = 0", 3, "between 1 and 10000"),
    ('[guest."a b"]\nweight = "x"', 2, "no number"),
    ('[guest.web]\nminimum = "2G"\nmaximum = "1G"', 2, "above the maximum"),
    ('[guests]\nminimum = "60%"\n[guest.x]\nmaximum = "50%"', 3, "above the maximum"),
    ("host = 5", 1, "table of settings"),
    ("guest = 5", 1, "[guest.NAME]"),
    ("[qmp]\nsockets = [1]", 2, "list of texts"),
    ("[libvrt]\n", 1, "did you mean libvirt?"),
    ("[host\n", 1, "Expected ']'"),
    ('interval = 2\n[host]\nmargin = "1G', 3, ""),
    ("interval = 2\ninterval = 3", 2, "Cannot overwrite"),
])
def test_mistakes_have_a_line(text, line, words):
    with pytest.raises(config.ConfigError) as caught:
        config.parse(text, "balance.toml")
    assert str(caught.value).startswith(f"balance.toml:{line}: ")
    assert words in str(caught.value)
    assert caught.value.exit_status == 2


def test_missing_file_is_told(tmp_path):
    with pytest.raises(config.ConfigError, match="No such file"):
        config.load(tmp_path / "none.toml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(config.ConfigError, match="no text"):
        config.load(tmp_path / "binary")


def test_metadata_is_read_like_the_file():
    overrides = config.parse_overrides({"minimum": "1G", "weight": "300", "balance": "false"})
    limits = config.parse("").limits("any", 4 * GIB, overrides)
    assert (limits.minimum_bytes, limits.weight, limits.balanced) == (GIB, 300, False)
    for wrong in ({"minimum": "much"}, {"weight": "x"}, {"balance": "perhaps"}, {"size": "1G"}):
        with pytest.raises(ValueError):
            config.parse_overrides(wrong)


def test_the_guide_has_every_setting():
    assert config.settings_table() in (ROOT / "docs" / "balance.md").read_text("utf-8")


def proc(tmp_path, total_kib, available_kib, stalled="0.00"):
    """A /proc with other figures."""
    (tmp_path / "pressure").mkdir(exist_ok=True)
    (tmp_path / "meminfo").write_text(f"MemTotal:       {total_kib} kB\n"
                                      f"MemFree:        1 kB\nMemAvailable:   {available_kib} kB\n")
    (tmp_path / "pressure" / "memory").write_text(f"some avg10={stalled} avg60=0.00 total=1\n")
    return tmp_path


def test_host_is_read(tmp_path):
    host = Host(config.parse('[host]\nmargin = "10%"'), proc(tmp_path, 8 << 20, 3 << 20, "12.50"))
    facts = host.read(0)
    assert (facts.total_bytes, facts.available_bytes) == (8 * GIB, 3 * GIB)
    assert facts.stalled_percent == 12.5
    assert host.margin_bytes() == pytest.approx(8 * GIB / 10, abs=4096)


def test_part_of_the_host_is_granted(tmp_path):
    host = Host(config.parse('[host]\nmemory = "4G"'), proc(tmp_path, 8 << 20, 6 << 20))
    facts = host.read(GIB)
    assert (facts.total_bytes, facts.available_bytes) == (4 * GIB, 3 * GIB)
    # but no more than there is
    host = Host(config.parse('[host]\nmemory = "4G"'), proc(tmp_path, 8 << 20, 1 << 20))
    assert host.read(GIB).available_bytes == GIB


def test_host_without_pressure_information(tmp_path):
    folder = proc(tmp_path, 8 << 20, 3 << 20)
    (folder / "pressure" / "memory").unlink()
    assert Host(config.parse(""), folder).read(0).stalled_percent is None
