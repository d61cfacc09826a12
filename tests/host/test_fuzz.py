# SPDX-License-Identifier: GPL-2.0-only
"""How runners in User Mode Linux read their arguments, and how the fuzzer searches: no kernel."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT, run_program

RUN = ROOT / "tests/run"


@pytest.fixture(name="fuzz", scope="module")
def fixture_fuzz():
    """The program."""
    return run_program("fuzz")


def run(name, *args, **environment):
    """Run one of the runners, so that it gets no further than its arguments."""
    return subprocess.run([sys.executable, RUN / name, *args], capture_output=True, text=True,
                          check=False, env={"PATH": "/nowhere", **environment})


@pytest.mark.parametrize("name", ["fuzz", "simulate", "kunit"])
def test_an_unknown_kernel_is_refused(name):
    for result in (run(name, "--kernel", "other"), run(name, KERNEL="other")):
        assert result.returncode == 2, result.stdout
        assert "other" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("text", ["xy", "0", "00" * 193])
def test_an_input_that_is_none_is_refused(text):
    for result in (run("fuzz", "--input", text), run("fuzz", INPUT=text)):
        assert result.returncode == 2, result.stdout
        assert "--input" in result.stderr


def test_inputs_are_as_long_as_the_kernel_side_takes_them(fuzz):
    source = (ROOT / "tests/kunit/fuzz.c").read_text("utf-8")
    assert int(re.search(r"#define FUZZ_MAX_LEN (\d+)", source)[1]) == fuzz.INPUT_BYTES
    for text in fuzz.CORPUS.read_text("ascii").split():
        fuzz.as_input(text)


class Kernel:
    """Fails where an input has a certain byte, and finds an edge for each different one."""

    def __init__(self, fuzz, bad="ff"):
        self.fuzz, self.bad = fuzz, bad

    def run(self, words):
        """Answer as World.run() does."""
        seen, reports = set(), []
        for word in words:
            report = word.report()
            data = bytes.fromhex("".join(word.inputs))
            seen |= set(data)
            report.read(f"runs|1|1|{len(seen)}")
            if self.bad in data.hex(" ").split():
                report.read(f"failed|seed=1 step=2: {len(data)} pages are lost")
            reports.append(report)
        return reports, ""


def test_a_failing_input_is_made_shorter(fuzz):
    kernel = Kernel(fuzz)
    kind = fuzz.kind_of("seed=1 step=2: 9 pages are lost")
    assert fuzz.fails(kernel, "0102ff0304", kind)
    assert not fuzz.fails(kernel, "0102", kind)
    assert not fuzz.fails(kernel, "ff", "another failure")
    assert fuzz.shrink(kernel, "0102ff030405060708", kind) == "ff"


def test_what_brings_no_edge_is_not_learned(fuzz, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fuzz, "REPO", tmp_path)
    monkeypatch.setattr(fuzz, "CORPUS", tmp_path / "corpus")
    fuzz.learn(Kernel(fuzz), ["0102", "01", "0201", "0103", "02"])
    assert fuzz.CORPUS.read_text("ascii").split() == ["01", "02", "0103"]
    assert "kept 3 of 5" in capsys.readouterr().out


@pytest.mark.parametrize("wanted, processors, told", [
    (7, 2, ["run 1 4", "run 2 3"]),
    (100005, 1, ["run 1 50000", "run 2 50000", "run 3 5"]),
])
def test_a_search_ends(fuzz, monkeypatch, wanted, processors, told):
    monkeypatch.setattr(fuzz.os, "cpu_count", lambda: processors)
    search = fuzz.Search(["01"], wanted)
    assert [str(search.words()[-1]) for _ in told] == told
    assert search.words() == []


def test_a_search_ends_when_it_is_told(fuzz):
    search = fuzz.Search(["01"], 10 * fuzz.RUNS_PER_BOOT)
    assert search.words()
    search.end(fuzz.signal.SIGTERM, None)
    assert search.words() == []


def test_a_search_ends_with_what_it_finds(fuzz):
    search = fuzz.Search(["01"], 10 * fuzz.RUNS_PER_BOOT)
    report = search.words()[-1].report()
    for line in ("runs|7|0|12", "new|0203", "failing|ff", "failed|seed=1 step=2: lost"):
        report.read(line)
    search.add([report])
    assert (search.runs, search.edges, search.inputs) == (7, 12, ["01", "0203"])
    assert search.failed is report and search.words() == []


def test_the_inputs_are_told_in_few_words(fuzz):
    inputs = [f"{number:02x}" * length for number, length in enumerate([1, 192, 5] * 20)]
    words = fuzz.in_few_words(inputs)
    assert [text for word in words for text in word.inputs] == inputs
    assert all(len(str(word)) <= fuzz.WORD_CHARS for word in words) and len(words) < 5
    assert fuzz.in_few_words([]) == []


def test_what_brings_a_boot_nothing_is_dropped(fuzz):
    search = fuzz.Search(["01", "02", "03"], 10)
    reports = [word.report() for word in search.words()]
    search.inputs.append("04")  # found by another boot meanwhile
    for line in ("new|01", "new|03", "runs|3|2|12"):
        reports[0].read(line)
    for line in ("new|05", "runs|13|3|13"):
        reports[1].read(line)
    search.add(reports)
    assert search.inputs == ["01", "03", "04", "05"]


def test_nothing_is_dropped_where_a_word_was_not_done(fuzz):
    search = fuzz.Search(["01", "02"], 10)
    report = search.words()[0].report()
    report.read("new|01")
    search.add([report])
    assert search.inputs == ["01", "02"]
    assert search.failed is report and report.failure


def test_searches_go_different_ways(fuzz):
    assert str(fuzz.Search([], 1, seed=41).words()[-1]) == "run 42 1"
