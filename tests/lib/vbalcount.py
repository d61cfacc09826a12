# SPDX-License-Identifier: GPL-2.0-only
"""What a suite's results come to: its closing line, and which skips are allowed."""

import re
from pathlib import Path

ALLOWED = Path(__file__).resolve().parents[1] / "allowed-skips"
# As `closing` words it; suites that never skip leave the last number out.
CLOSING = re.compile(r"^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?$")
# How a suite names what failed; tests/run/test repeats these lines at its end.
FAILED = "failed: "


def closing(passed, failed, skipped):
    """Return the line that every suite ends with."""
    return f"{passed} passed, {failed} failed, {skipped} skipped"


def tell_failed(name, reason=""):
    """Name what failed, and why in so many words, on a line of its own."""
    print(f"{FAILED}{name}" + (f": {' '.join(reason.split())}"[:400] if reason else ""))


def _pattern(text):
    return re.compile(".*".join(map(re.escape, text.strip().split("*"))))


def allowed_skips(path=ALLOWED):
    """Return a pattern of names and one of reasons for each line of the list."""
    lines = [line for line in path.read_text("utf-8").splitlines()
             if line.strip() and not line.startswith("#")]
    return [tuple(map(_pattern, line.split(": ", 1))) for line in lines]


def forbidden(skips, path=ALLOWED):
    """Return those of the (name, reason) pairs that the list does not name."""
    allowed = allowed_skips(path)
    return [(name, reason) for name, reason in skips
            if not any(names.fullmatch(name) and reasons.fullmatch(reason)
                       for names, reasons in allowed)]


def _skips(reporter):
    return [(report.nodeid, str(report.longrepr[2]).removeprefix("Skipped: "))
            for report in reporter.stats.get("skipped", [])]


def end_pytest(session):
    """Make a skip that is not allowed a failure; for pytest_sessionfinish()."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter and forbidden(_skips(reporter)) and not session.exitstatus:
        session.exitstatus = 1


def _failures(reporter):
    """Return (name, reason) of each failure and error, the reason as pytest's summary has it."""
    reports = [*reporter.stats.get("failed", []), *reporter.stats.get("error", [])]
    return [(report.nodeid, getattr(getattr(report.longrepr, "reprcrash", None), "message", ""))
            for report in reports]


def close_pytest(config):
    """Print the skips, the failures and the closing line; for pytest_unconfigure()."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or config.option.collectonly:
        return
    skips = _skips(reporter)
    wrong = forbidden(skips)
    for name, reason in skips:
        if (name, reason) in wrong:
            tell_failed(name, f"a skip that is not allowed: {reason}")
        else:
            print(f"skipped: {name}: {reason}")
    failures = _failures(reporter)
    for name, reason in failures:
        tell_failed(name, reason)
    print(closing(len(reporter.stats.get("passed", [])), len(failures) + len(wrong),
                  len(skips) - len(wrong)))
