# SPDX-License-Identifier: GPL-2.0-only
"""How `make mutants` changes a source, and how it knows that somebody noticed."""

import pytest
import vbalmutants
from conftest import run_program
from vbalguest import GuestError

SOURCE = """/*
 * if (a < b)
 */
static int first(int a)
{
\tint ret = 0;

\tmutex_lock(&x->lock);
\tif (a < 3 && ready(a))
\t\tret = more(a);
\tdev_warn(dev, "%d < 3\\n", a);
\twake_up_all(&x->wait);
\tset_up(x);
\tsend(x);
\tx->nr_sent++;
\tmutex_unlock(&x->lock);
\treturn ret;
}
"""


PROGRAM = run_program("mutants")
MUTANTS = vbalmutants.mutants("a.c", SOURCE)


def texts(kind):
    """Return the texts of the mutants of a kind."""
    return [mutant.text for mutant in MUTANTS if mutant.kind == kind]


@pytest.mark.parametrize("kind, old, new", [
    ("comparison", "a < 3 &&", "a <= 3 &&"),
    ("condition", "if (a < 3 && ready(a))", "if (!(a < 3 && ready(a)))"),
    ("condition", "if (a < 3 && ready(a))", "if (ready(a))"),
    ("error", "return ret;", "return 0;"),
    ("wake-up", "wake_up_all(&x->wait);", ";"),
    ("count", "x->nr_sent++;", ";"),
    ("call", "set_up(x);", ";"),
    ("order", "set_up(x);\n\tsend(x);", "send(x);\n\tset_up(x);"),
])
def test_a_change_is_made(kind, old, new):
    assert SOURCE.replace(old, new) in texts(kind)


def test_a_lock_goes_with_its_release():
    assert texts("lock") == [SOURCE.replace("\tmutex_lock(&x->lock);", ";")
                             .replace("\tmutex_unlock(&x->lock);", ";")]


def test_comments_and_messages_stay():
    for mutant in MUTANTS:
        assert " * if (a < b)" in mutant.text
        assert '\tdev_warn(dev, "%d < 3\\n", a);' in mutant.text


def test_names_are_unique():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)


def test_a_larger_sample_holds_the_smaller_and_each_kind():
    small = vbalmutants.sample(MUTANTS, 8, 3)
    assert small == vbalmutants.sample(MUTANTS, 12, 3)[:8]
    assert {mutant.kind for mutant in small} == {mutant.kind for mutant in MUTANTS}


@pytest.mark.parametrize("lines, hung, noticed", [
    (["    # Subtest: vballoon_wire", "    ok 1 a", "    not ok 2 b"], False, "wire: b"),
    (["    # Subtest: vballoon_wire", "    ok 1 a"], True, "wire: no end"),
    (["    # Subtest: vballoon_wire", "BUG: KASAN: double-free"], False,
     "wire: BUG: KASAN: double-free"),
    (["    # Subtest: vballoon_wire", "    ok 1 a", "ok 1 vballoon_wire"], False, ""),
])
def test_it_knows_what_noticed(lines, hung, noticed):
    assert PROGRAM.noticed_in(lines, hung, PROGRAM.places()["plain"]) == noticed


def test_a_skip_is_noticed_where_the_suite_has_what_it_wants():
    lines = ["    # Subtest: vballoon_poison", "    ok 1 a # SKIP freed pages are not poisoned"]
    places = PROGRAM.places()
    assert not PROGRAM.noticed_in(lines, False, places["checked"])
    assert "SKIP" in PROGRAM.noticed_in(lines, False, places["poison"])


def test_an_explanation_needs_a_reason():
    assert PROGRAM.explanations("# x\na.c:f:lock:1: one CPU\n") == {"a.c:f:lock:1": "one CPU"}
    with pytest.raises(GuestError, match="no reason: a.c"):
        PROGRAM.explanations("a.c:f:lock:1\n")
