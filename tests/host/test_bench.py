# SPDX-License-Identifier: GPL-2.0-only
"""How bench reports and writes into documents: no guest is needed for that."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "bench"))

import vbaldoc  # noqa: E402
from bench_lib import report  # noqa: E402
from bench_lib.rows import DRIVERS  # noqa: E402

BENCH = ROOT / "tests" / "bench" / "bench"


def sample(speed, cpu_ms):
    """Return figures of a round."""
    return {"inflate_gib_s": speed, "deflate_gib_s": 2 * speed,
            "inflate_cpu_ms_per_gib": cpu_ms, "deflate_cpu_ms_per_gib": cpu_ms / 2}


@pytest.fixture(name="measured")
def fixture_measured():
    """Two rows, two rounds each."""
    results = {driver.name: [sample(speed, 100 / speed), sample(2 * speed, 50 / speed)]
               for driver, speed in zip(DRIVERS, (1, 100, 2))}
    return {"4g": results, "16g-untouched": results, "4g-untouched": results}


def test_only_what_is_between_the_markers_changes():
    text = "before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n"
    assert vbaldoc.between_markers(text, "a", "new\n") == \
        "before\n<!-- a: begin -->\nnew\n<!-- a: end -->\nafter\n"
    with pytest.raises(ValueError):
        vbaldoc.between_markers(text, "b", "new")


def test_document_has_a_place_for_each_part(measured):
    parts = report.document(measured, report.verdicts([], measured))
    text = (ROOT / "docs/performance.md").read_text("utf-8")
    for name, new in parts.items():
        assert new in vbaldoc.between_markers(text, name, new)


def test_readme_has_one_guest(measured):
    text = (ROOT / "README.md").read_text("utf-8")
    table = report.readme(measured)
    assert table in vbaldoc.between_markers(text, report.README_MARKERS, table)
    assert "| inflate, GiB/s | 1.50 | 150 (100 x) | 3 (2 x) |" in table


def test_document_says_what_was_missed(measured):
    found = [("4g", "as fast as light", 0.5, False), ("4g", "exact", 1, True)]
    text = report.document(measured, found)["bench-targets"]
    assert text == "1 of 2 targets met in these rows. Not met:\n\n- 4g: as fast as light: 0.50"


def test_a_tebibyte_is_reckoned_from_the_largest_guest(measured):
    lines = report.document(measured, [])["bench-tib"].splitlines()
    assert lines[0] == "|  | 4 GiB | 16 GiB | 1 TiB, all of it |"
    assert lines[2] == "| in-tree | 75 / 37.5 | 75 / 37.5 | 77 s / 38 s |"


def bench(*args):
    """Run the program."""
    return subprocess.run([sys.executable, BENCH, *args], capture_output=True, text=True,
                          check=False)


def test_an_earlier_run_is_shown_again(measured, tmp_path):
    path = tmp_path / "bench.json"
    path.write_text(json.dumps({"rows": measured}), "utf-8")
    result = bench("--from", path)
    assert "range inflate >= 50 x in-tree" in result.stdout
    # the counts are missing, so are their targets; by PFN it is too slow
    assert result.returncode == 1, result.stderr


@pytest.mark.parametrize("text", ["", "[]", '{"rows": 3}', '{"rows": {"4g": 3}}'])
def test_what_is_no_result_is_refused(tmp_path, text):
    path = tmp_path / "bench.json"
    path.write_text(text, "utf-8")
    result = bench("--from", path)
    assert result.returncode == 1
    assert "is no result of bench" in result.stderr
    assert "Traceback" not in result.stderr


def test_documents_are_not_written_from_some_rows():
    result = bench("--write", "--rows", "4g")
    assert result.returncode == 2
    assert "--write needs all rows" in result.stderr
