# SPDX-License-Identifier: GPL-2.0-only
"""The tests' own counting: what went wrong is seen, whatever else went well."""

import subprocess
import sys
from pathlib import Path

import vbalcount
import vbalkunit

GOOD = """
    # Subtest: vballoon_a
        # Subtest: case_with_parameters
        ok 1 one
        ok 2 two
    ok 1 - case_with_parameters
    ok 2 - case
ok 1 - vballoon_a
"""
CHOSEN = {"a": 2}


def judge(*changes):
    """Judge GOOD with some words of it exchanged."""
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    return vbalkunit.judge(text, CHOSEN)


def test_a_good_run_is_good():
    outcome = judge()
    assert outcome.good
    assert len(outcome.passed) == 3


def test_a_failure_is_told_once():
    outcome = judge(("ok 2 two", "not ok 2 two"), ("ok 1 - case_w", "not ok 1 - case_w"),
                    ("ok 1 - vball", "not ok 1 - vball"))
    assert outcome.failed == ["vballoon_a / case_with_parameters / two"]


def test_a_parent_may_fail_alone():
    assert judge(("ok 1 - case_w", "not ok 1 - case_w")).failed == [
        "vballoon_a / case_with_parameters"]
    assert judge(("ok 1 - vball", "not ok 1 - vball")).failed == ["vballoon_a"]


def test_what_is_missing_fails():
    assert judge(("    ok 2 - case\n", "")).failed == ["vballoon_a ran 1 of 2 cases"]
    assert judge(("ok 1 - vballoon_a\n", "")).failed == ["vballoon_a did not end"]
    assert vbalkunit.judge("", CHOSEN).failed == ["vballoon_a ran 0 of 2 cases"]


def test_skips_have_their_reason():
    outcome = judge(("ok 2 - case", "ok 2 - case # SKIP needs a dog"))
    assert outcome.skipped == [("vballoon_a / case", "needs a dog")]
    assert vbalcount.forbidden(outcome.skipped) == outcome.skipped


def test_a_suite_that_is_skipped_is_the_sum_of_its_cases():
    outcome = judge(("ok 1 - vballoon_a", "ok 1 - vballoon_a # SKIP "),
                    ("ok 2 - case", "ok 2 - case # SKIP needs a dog"))
    assert outcome.skipped == [("vballoon_a / case", "needs a dog")]


def test_complaints_of_the_kernel_are_seen():
    for line in ("rcu: INFO: rcu_preempt self-detected stall on CPU",
                 "rcu: INFO: rcu_sched detected stalls on CPUs/tasks:",
                 "kworker/0:1: page allocation failure: order:0, mode:0xcc0",
                 "INFO: task kworker:7 blocked for more than 120 seconds.",
                 "BUG: Bad page state in process insmod"):
        assert len(judge(("ok 1 - vball", f"[ 1.0] {line}\nok 1 - vball")).trouble) == 1


def test_only_listed_skips_are_allowed(tmp_path):
    path = tmp_path / "allowed"
    path.write_text("# a comment\n\ntests/a.py::b[*]: needs * legs\n", "ascii")
    allowed = ("tests/a.py::b[x]", "needs 4 legs")
    wrong = [("tests/a.py::b[x]", "needs wings"), ("tests/a.py::c[x]", "needs 4 legs")]
    assert vbalcount.forbidden([allowed, *wrong], path) == wrong
    assert all(vbalcount.allowed_skips())


def test_closing_lines_are_understood():
    assert vbalcount.CLOSING.match(vbalcount.closing(1, 2, 3)).groups() == ("1", "2", "3")
    assert vbalcount.CLOSING.match("4 passed, 5 failed").groups() == ("4", "5", None)


def test_what_failed_is_named_with_its_reason(tmp_path):
    (tmp_path / "conftest.py").write_text(f"""import sys
sys.path.insert(0, {str(Path(vbalcount.__file__).parent)!r})
from vbalcount import close_pytest as pytest_unconfigure
""", "utf-8")
    (tmp_path / "test_it.py").write_text("""import pytest

@pytest.fixture
def broken():
    raise OSError("no dog")

def test_good():
    pass

def test_bad():
    assert 1 == 2, "one is\\n  not two"

def test_worse(broken):
    pass

def test_skipped():
    pytest.skip("needs a dog")
""", "utf-8")
    run = subprocess.run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tmp_path],
                         cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    lines = run.stdout.splitlines()
    assert [line for line in lines if line.startswith(vbalcount.FAILED)] == [
        "failed: test_it.py::test_skipped: a skip that is not allowed: needs a dog",
        "failed: test_it.py::test_bad: AssertionError: one is not two assert 1 == 2",
        "failed: test_it.py::test_worse: OSError: no dog"]
    assert lines[-1] == "1 passed, 3 failed, 0 skipped"
