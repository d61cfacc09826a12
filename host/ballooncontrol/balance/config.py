# SPDX-License-Identifier: GPL-2.0-only
"""The settings of `balloonctl balance`: a TOML file, checked to the last word.

A mistake is told with its file and line, and with what is valid there.
"""

import difflib
import fnmatch
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UsageError
from ..units import FRAME_BYTES, UNITS, VALID_SIZES
from ..units import SIZE as SIZE_PATTERN
from .model import Limits

SECONDS_RANGE = (1, 60)
WEIGHT_RANGE = (1, 10000)


class ConfigError(UsageError):
    """The settings make no sense; the text says where, and what is valid."""


@dataclass(frozen=True)
class Size:
    """A number of bytes, or a share of something that is known later."""

    text: str
    nr_bytes: int = 0
    part: float = 0.0

    def of(self, whole_bytes):
        """Return bytes in whole frames, at most the whole."""
        size_bytes = min(whole_bytes, self.nr_bytes or int(self.part * whole_bytes))
        return size_bytes // FRAME_BYTES * FRAME_BYTES


def parse_amount(value):
    """Return a Size."""
    match = SIZE_PATTERN.fullmatch(value.strip()) if isinstance(value, str) else None
    if not match:
        raise ValueError(f"{value!r} is no size: {VALID_SIZES}")
    number, unit, plain, percent = match.groups()
    if percent:
        if float(number) > 100:
            raise ValueError(f"{value!r} is more than all of it")
        return Size(value, part=float(number) / 100)
    return Size(value, nr_bytes=int(float(number) * UNITS[(unit or plain).upper()]))


def parse_some(value):
    """Return a Size that is more than nothing."""
    size = parse_amount(value)
    if not size.of(1 << 40):
        raise ValueError(f"{value!r} leaves nothing")
    return size


def parse_share(value):
    """Return a share between 0 and 1."""
    size = parse_amount(value)
    if size.nr_bytes:
        raise ValueError(f"{value!r} is no share: write one as 20%")
    return size.part


def parse_number(low, high):
    """Return a parser of numbers within limits."""
    def parse(value):
        if isinstance(value, bool) or not isinstance(value, (int, float)) \
                or not low <= value <= high:
            raise ValueError(f"{value!r} is no number between {low} and {high}")
        return value
    return parse


def parse_truth(value):
    """Return true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def parse_texts(value):
    """Return a list of texts; a single one will do."""
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(text, str) and text for text in values):
        raise ValueError(f"{value!r} is no list of texts")
    return values


@dataclass(frozen=True)
class Setting:
    """One setting: how it is read, its default as people write it, and what it means."""

    parse: object
    default: object
    meaning: str


GUEST = {
    "minimum": Setting(parse_amount, "25%", "the guest is never asked to have less: a size, or "
                       "a share of its RAM"),
    "maximum": Setting(parse_amount, "100%", "it never gets more"),
    "weight": Setting(parse_number(*WEIGHT_RANGE), 100, "twice the weight gets twice as much "
                      "where memory is short, and gives half as much of what lies idle"),
    "buffer": Setting(parse_share, "20%", "room to breathe: what shall be available in the guest, "
                      "as a share of what it uses, at least 64 MiB"),
    "balance": Setting(parse_truth, True, "false leaves the guest alone"),
}
SECTIONS = {
    "": {"interval": Setting(parse_number(*SECONDS_RANGE), 2, "seconds between two reports of a "
                             "guest's statistics")},
    "host": {
        "margin": Setting(parse_amount, "10%", "what stays available on the host: a size, or a "
                          "share of its memory"),
        "memory": Setting(parse_some, "100%", "what the guests and the margin may have of the "
                          "host's memory altogether"),
    },
    "libvirt": {"uri": Setting(parse_texts, [], "libvirt's URIs, such as \"qemu:///system\"; "
                               "all their running domains are balanced")},
    "qmp": {"sockets": Setting(parse_texts, [], "paths of QMP sockets for balloonctl alone; * "
                               "and ? stand for other characters")},
    "guests": GUEST,
}


@dataclass(frozen=True)
class Settings:
    """What the file says, checked."""

    interval: float = 2
    margin: Size = parse_amount("10%")
    # where the margin is set, for what can only be said on the host
    margin_place: str = "margin"
    memory: Size = parse_amount("100%")
    uris: tuple = ()
    sockets: tuple = ()
    defaults: dict = field(default_factory=dict)
    guests: dict = field(default_factory=dict)

    def limits(self, name, ram_bytes, more=None):
        """Return a guest's Limits; `more` overrides the file, as libvirt's metadata does."""
        values = {key: setting.parse(setting.default) for key, setting in GUEST.items()}
        values |= self.defaults | self._overrides(name) | (more or {})
        minimum_bytes = values["minimum"].of(ram_bytes)
        return Limits(minimum_bytes, max(minimum_bytes, values["maximum"].of(ram_bytes)),
                      values["weight"], values["buffer"], values["balance"])

    def _overrides(self, name):
        """An exact name wins over patterns, the first pattern over later ones."""
        if name in self.guests:
            return self.guests[name]
        return next((values for pattern, values in self.guests.items()
                     if fnmatch.fnmatchcase(name, pattern)), {})


def load(path):
    """Return the Settings in a file; they have to name guests."""
    try:
        text = Path(path).read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is no text in UTF-8") from error
    settings = parse(text, path)
    if not settings.uris and not settings.sockets:
        raise ConfigError(f"{path}: names no guests: set uri below [libvirt] or sockets below "
                          "[qmp]")
    return settings


def parse(text, path="settings"):
    """Return the Settings in a text."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(_syntax(error, text, path)) from error
    return _Reader(text, path).settings(document)


def _syntax(error, text, path):
    """TOML's own complaint, with its line in front."""
    message = str(error)
    match = re.search(r" \(at (?:line (\d+), column \d+|end of document)\)$", message)
    line = match[1] if match and match[1] else len(text.splitlines()) or 1
    return f"{path}:{line}: {message[:match.start()] if match else message}"


class _Reader:
    """Turns a TOML document into Settings, or says what is wrong with it, and where."""

    def __init__(self, text, path):
        self._lines = text.splitlines()
        self._path = path

    def settings(self, document):
        """Return the Settings."""
        tables = {name: value for name, value in document.items() if name in SECTIONS}
        top = {name: value for name, value in document.items()
               if name not in SECTIONS and name != "guest"}
        known = {*SECTIONS[""], *filter(None, SECTIONS), "guest"}
        values = {"": self._table("", "", top, SECTIONS[""], known)}
        for section, content in tables.items():
            values[section] = self._table(section, section, content, SECTIONS[section])
        guests = self._guests(document.get("guest", {}))
        for name, overrides in [("", {}), *guests.items()]:
            self._check_bounds(name, values.get("guests", {}) | overrides)
        host = values.get("host", {})
        return Settings(
            interval=values[""].get("interval", 2),
            margin=host.get("margin", Settings.margin),
            margin_place=f"{self._path}:{self._line('host', 'margin')}: margin",
            memory=host.get("memory", Settings.memory),
            uris=tuple(values.get("libvirt", {}).get("uri", ())),
            sockets=tuple(values.get("qmp", {}).get("sockets", ())),
            defaults=values.get("guests", {}), guests=guests)

    def _guests(self, content):
        if not isinstance(content, dict):
            self._fail("", "guest", "a guest's settings stand below [guest.NAME]")
        return {name: self._table(f'guest.{name}', f"guest.{name}", table, GUEST)
                for name, table in content.items()}

    def _table(self, section, title, content, known, words=None):
        if not isinstance(content, dict):
            self._fail("", section, f"[{title}] is a table of settings")
        values = {}
        for key, value in content.items():
            if key not in known:
                self._fail(section, key, self._unknown(title, key, words or known))
            try:
                values[key] = known[key].parse(value)
            except ValueError as error:
                self._fail(section, key, f"{key}: {error}")
        return values

    @staticmethod
    def _unknown(title, key, words):
        place = f"[{title}]" if title else "this file"
        near = difflib.get_close_matches(key, words, 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{place} knows no {key}: valid are {', '.join(sorted(words))}{hint}"

    def _check_bounds(self, name, values):
        """A minimum above the maximum, where both can be compared without a guest."""
        low = values.get("minimum", parse_amount(GUEST["minimum"].default))
        high = values.get("maximum", parse_amount(GUEST["maximum"].default))
        comparable = bool(low.nr_bytes) == bool(high.nr_bytes)
        if comparable and (low.nr_bytes, low.part) > (high.nr_bytes, high.part):
            self._fail(f"guest.{name}" if name else "guests", "minimum",
                       f"the minimum of {low.text} is above the maximum of {high.text}")

    def _fail(self, section, key, message):
        raise ConfigError(f"{self._path}:{self._line(section, key)}: {message}")

    def _line(self, section, key):
        """Find a key's line: that of its table's title where it is written otherwise."""
        current, title_line = "", 1
        for number, line in enumerate(self._lines, 1):
            title = re.match(r"\s*\[\s*([^\]]+?)\s*\]", line)
            if title:
                current = re.sub(r"""["'\s]""", "", title[1])
                if current in (section, key):
                    title_line = number
            elif current == section.replace(" ", "") and re.match(
                    rf"""\s*["']?{re.escape(key)}["']?\s*[.=]""", line):
                return number
        return title_line


def parse_overrides(texts):
    """Return settings from texts, as libvirt's metadata has them; raises ValueError."""
    values = {}
    for key, text in texts.items():
        if key not in GUEST:
            raise ValueError(f"there is no {key}: valid are {', '.join(sorted(GUEST))}")
        if key == "weight":
            text = float(text)
        elif key == "balance":
            text = {"true": True, "false": False}.get(text, text)
        values[key] = GUEST[key].parse(text)
    return values


def settings_table():
    """Return the settings as a table in Markdown: the docs have it from here."""
    rows = ["| setting | default | meaning |", "|---|---|---|"]
    for section, known in SECTIONS.items():
        for key, setting in known.items():
            where = f"`[{section}]` `{key}`" if section else f"`{key}`"
            rows.append(f"| {where} | `{_written(setting.default)}` | {setting.meaning} |")
    return "\n".join(rows)


def _written(value):
    """Return a default as TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)
