# SPDX-License-Identifier: GPL-2.0-only
"""How bench-life reads, judges and reports: no guest is needed for that."""

import json
import subprocess
import sys

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests" / "bench"))

from life import judge, report, seen, turn  # noqa: E402
from life.judge import IN_TREE, NONE, OURS, Goal  # noqa: E402
from life.rows import ROWS, Row  # noqa: E402
import vbaldoc  # noqa: E402
from vbalguest import GuestError, GuestTimeout, Missing  # noqa: E402

BENCH = ROOT / "tests" / "bench" / "bench-life"
BUDDYINFO = """\
Node 0, zone      DMA      1      0      0      0      0      0      0      0      0      1      0
Node 0, zone    DMA32      4      2      0      0      0      0      0      0      0      2      3
Node 1, zone   Normal      0      0      0      0      0      0      0      0      1      0      1
"""
ZONEINFO = """\
Node 0, zone      DMA
  per-node stats
      nr_inactive_anon 12
  pages free     256
        min      33
Node 0, zone    DMA32
  pages free     1024
Node 1, zone    DMA32
  pages free     512
Node 1, zone  Movable
  pages free     2560
"""
STALLS = """\
# event histogram
{ common_pid: dd              [       107] } hitcount:          3
{ common_pid: kworker/u4:0    [         9] } hitcount:         52
{ common_pid: kswapd0         [        40] } hitcount:          2
{ common_pid: my task         [       156] } hitcount:          1

Totals:
    Hits: 58
"""


def make_row(goals=(), never_worse=(), **options):
    """Return a row that is only judged."""
    return Row("kind", "a kind of guest", None, goals, never_worse, **options)


def ran(**figures):
    """Return what a run that came to its end left."""
    return {"figures": figures}


def word(row, ours, theirs):
    """Judge one run of each driver; return the word for it."""
    return judge.judge(row, {OURS: [ours], IN_TREE: [theirs]}).word()


# Reading


def test_buddyinfo_is_added_up_over_nodes_and_zones():
    free, large = seen.parse_buddyinfo(BUDDYINFO)
    assert large == (3 * 2 + 4 * 4) << 20
    assert free == large + 4096 * (1 + 4 + 2 * 2 + 256)


def test_large_blocks_are_bytes_and_not_orders():
    # pages of 64 KiB: a block of 2 MiB is of order 5
    line = "Node 0, zone   Normal      0      0      0      0      1      1\n"
    assert seen.parse_buddyinfo(line, 65536)[1] == 2 << 20


def test_waiting_for_a_disk_is_not_busy():
    busy, passed = seen.parse_stat("cpu  100 0 50 700 100 0 0 50 30 0\ncpu0 1 2 3\n")
    assert busy * seen.TICKS == pytest.approx(200)
    assert passed * seen.TICKS == pytest.approx(1000)


def test_zones_are_added_up_over_nodes():
    assert seen.parse_free_mib(ZONEINFO) == {"DMA": 1, "DMA32": 6, "Movable": 10}


def test_the_balloons_own_stalls_are_not_others():
    assert seen.parse_stalls(STALLS) == {"own": 54, "others": 4}


def test_deltas_leave_out_what_the_kernel_does_not_count():
    before = {"pswpout": 5, "allocstall_normal": 1, "allocstall_movable": 0}
    after = {"pswpout": 9, "allocstall_normal": 3, "allocstall_movable": 5}
    found = seen.deltas(before, after)
    assert found == {"swapped_out": 4, "allocstall_normal": 2, "allocstall_movable": 5,
                     "stalls": 7}


def test_curve_tells_when_and_whether():
    curve = seen.Curve(1000)
    for seconds, mib in ((0, 0), (1, 899), (2, 900), (3, 900), (4, 995)):
        curve.add(seconds, mib)
    assert curve.seconds_to(0.9) == 2
    assert curve.seconds_to(0.99) == 4
    assert curve.seconds_to(1) is None
    assert curve.given_mib() == 995
    assert len(curve.points) == 4


def run_with(error):
    """Let a driver's turn end with that error; return what is noted."""
    def run(_):
        raise error
    row = Row("kind", "", run, (), ())
    return turn.Turn(OURS, turn.Options()).run(row)


def test_a_run_that_fails_is_noted():
    assert run_with(GuestTimeout("a command\nmore")) == {"failed": "the guest hung: a command"}
    assert run_with(GuestError("words")) == {"failed": "failed: words"}


def test_a_machine_that_lacks_something_is_no_run():
    for error in (Missing("mke2fs"), turn.LeftOut("no MGLRU")):
        with pytest.raises(type(error)):
            run_with(error)


@pytest.fixture(scope="module", name="program")
def fixture_program():
    """The program that lives in the guests."""
    with turn.compiled() as path:
        yield path


@pytest.mark.parametrize("work", judge.WORKS)
def test_program_times_small_work(program, work):
    result = subprocess.run([program, work, "20"], capture_output=True, text=True, check=True)
    samples, p50, p99, p999, slowest = map(float, result.stdout.split())
    assert samples >= 1
    assert 0 <= p50 <= p99 <= p999 <= slowest


def test_program_makes_and_thins_files(program, tmp_path):
    subprocess.run([program, "files", tmp_path, "5", "3"], check=True)
    subprocess.run([program, "thin", tmp_path, "5"], check=True)
    assert {path.name: path.stat().st_size for path in (tmp_path / "0").iterdir()} == \
        {"1": 3072, "3": 3072}


def test_program_refuses_what_it_does_not_know(program):
    assert subprocess.run([program, "dance"], capture_output=True, check=False).returncode == 2


# Judging


def test_at_goal():
    row = make_row((Goal("seconds_100", "<=", 0.4, of=IN_TREE),), ("seconds_100",))
    assert word(row, ran(seconds_100=1.5), ran(seconds_100=4.3)) == "at goal"


def test_below_goal_says_what_was_seen():
    row = make_row((Goal("seconds_100", "<=", 0.4, of=IN_TREE),), ("seconds_100",))
    verdict = judge.judge(row, {OURS: [ran(seconds_100=3)], IN_TREE: [ran(seconds_100=4)]})
    assert verdict.word() == "below goal"
    assert verdict.missed == [{"goal": "to 100 % at most 0.40 x virtio_balloon's",
                               "met": False, "seen": "3 s, virtio_balloon 4 s"}]


def test_worse_than_in_tree():
    row = make_row(never_worse=("seconds_100",))
    assert word(row, ran(seconds_100=5.5), ran(seconds_100=4.3)) == "WORSE"
    assert word(row, ran(seconds_100=4.4), ran(seconds_100=4.3)) == "at goal"


def test_a_size_never_reached_is_worse_than_a_late_one():
    row = make_row(never_worse=("seconds_100",))
    assert word(row, ran(seconds_100=None), ran(seconds_100=59)) == "WORSE"
    assert word(row, ran(seconds_100=59), ran(seconds_100=None)) == "at goal"
    assert word(row, ran(seconds_100=None), ran(seconds_100=None)) == "at goal"


def test_less_given_is_worse():
    row = make_row(never_worse=("given_mib",))
    assert word(row, ran(given_mib=500), ran(given_mib=512)) == "WORSE"


def test_more_than_all_of_the_speed_is_noise():
    row = make_row(never_worse=("speed_kept",))
    assert word(row, ran(speed_kept=99), ran(speed_kept=168)) == "at goal"
    assert word(row, ran(speed_kept=90), ran(speed_kept=168)) == "WORSE"


def test_one_killed_process_more_is_worse():
    row = make_row(never_worse=("oom_kills",))
    assert word(row, ran(oom_kills=1), ran(oom_kills=0)) == "WORSE"


def test_a_goal_without_another_driver_has_no_slack():
    row = make_row((Goal("swapped_out", "<=", 0),))
    assert word(row, ran(swapped_out=1), ran(swapped_out=1)) == "below goal"


def test_a_guest_that_dies_makes_the_row_worse():
    row = make_row((Goal("oom_kills", "<=", 0),), ("oom_kills",))
    died = {"failed": "the guest died: Kernel panic"}
    verdict = judge.judge(row, {OURS: [ran(oom_kills=0), died], IN_TREE: [ran(oom_kills=0)] * 2})
    assert verdict.word() == "WORSE"
    assert verdict.worse == ["1 of 2 runs failed: the guest died: Kernel panic"]


def test_a_guest_that_dies_with_in_tree_too_is_no_worse():
    died = {"failed": "the guest hung: a condition"}
    assert word(make_row(), died, died) == "at goal"


def test_what_was_not_measured_is_no_pass():
    row = make_row((Goal("discards_per_gib", "<=", 4096),))
    assert word(row, ran(), ran()) == "partly measured"


def test_goals_of_no_balloon():
    row = make_row((Goal("touch_s", "<=", 1.3, of=NONE),))
    results = {OURS: [ran(touch_s=3.4)], IN_TREE: [ran(touch_s=22)], NONE: [ran(touch_s=2.2)]}
    assert judge.judge(row, results).word() == "below goal"


@pytest.mark.parametrize("busy, expected", [(5, "WORSE"), (60, "partly measured")])
def test_latencies_are_judged_on_a_quiet_machine_only(busy, expected):
    row = make_row((Goal("wake_p99_us", "<=", 1.1, of=NONE),), ("wake_p99_us",))
    results = {OURS: [ran(wake_p99_us=900, others_percent=busy)],
               IN_TREE: [ran(wake_p99_us=300)], NONE: [ran(wake_p99_us=100)]}
    assert judge.judge(row, results).word() == expected


def test_medians_leave_out_failed_runs():
    samples = [ran(touch_s=1), {"failed": "x"}, ran(touch_s=3), ran(touch_s=2)]
    assert judge.medians_of(samples) == {"touch_s": 2}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_rows_name_figures_that_exist(row):
    names = [goal.metric for goal in row.goals]
    names += [*row.never_worse, *row.shown, row.headline]
    assert set(names) <= set(judge.METRICS)
    assert row.goals and row.never_worse


def test_row_names_differ():
    assert len({row.name for row in ROWS}) == len(ROWS)


# Reporting


@pytest.fixture(name="measured")
def fixture_measured():
    """Two rows: one at goal, one in which ours never got there."""
    goals = (Goal("seconds_100", "<=", 1, of=IN_TREE),)
    cold = Row("cache-cold", "full of files", None, goals, ("seconds_100",))
    stream = Row("streaming", "reads on", None, goals, ("seconds_100",))
    return {
        "cache-cold": (cold, {IN_TREE: [ran(seconds_100=4, host_system_s=1)],
                              OURS: [ran(seconds_100=1, host_system_s=0.1)]}),
        "streaming": (stream, {IN_TREE: [ran(seconds_100=5.7)],
                               OURS: [ran(seconds_100=None, given_mib=0)]}),
    }


def verdicts_of(measured):
    """Judge rows."""
    return {name: judge.judge(row, results) for name, (row, results) in measured.items()}


def test_document_says_what_is_worse(measured):
    text = report.document(measured, verdicts_of(measured), "with care")
    assert "### cache-cold: at goal" in text
    assert "### streaming: WORSE" in text
    assert "- Worse than virtio_balloon: to 100 %: never, virtio_balloon 5.70 s" in text
    assert "| to 100 % | 4 s | 1 s |" in text
    assert "- Met: to 100 % at most 1 x virtio_balloon's" in text


def test_readme_has_few_rows(measured):
    text = report.readme(measured, "with care")
    assert "| full of files: to 100 % | 4 s | 1 s |" in text
    assert "| reads on: to 100 % | 5.70 s | never |" in text
    assert len(report.README_ROWS) <= 6
    assert set(report.README_ROWS) <= {row.name for row in ROWS}


@pytest.mark.parametrize("name", ["README.md", "docs/life.md"])
def test_documents_have_the_markers(name):
    text = (ROOT / name).read_text("utf-8")
    assert "\nnew\n" in vbaldoc.between_markers(text, report.MARKERS, "new")


def test_picture_is_the_same_each_time(measured, tmp_path):
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        report.picture(measured, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "never" in (tmp_path / "a.svg").read_text("utf-8")


# The program


def bench(*arguments):
    """Run the program; return what subprocess says."""
    return subprocess.run([BENCH, *map(str, arguments)], capture_output=True, text=True,
                          check=False)


def saved(tmp_path, measured):
    """Save figures as a run does."""
    path = tmp_path / "life.json"
    path.write_text(json.dumps({"rows": {name: results for name, (_, results)
                                         in measured.items()},
                                "left_out": {}, "environment": ""}), "utf-8")
    return path


def test_status_is_1_when_a_row_is_worse(tmp_path, measured):
    result = bench("--from", saved(tmp_path, measured))
    assert result.returncode == 1
    assert "streaming: WORSE" in result.stdout


def test_status_is_0_when_none_is(tmp_path, measured):
    del measured["streaming"]
    assert bench("--from", saved(tmp_path, measured)).returncode == 0


@pytest.mark.parametrize("arguments, words", [
    (["--rows", "tepid"], "no row 'tepid'"),
    (["--drivers", "hv"], "no driver 'hv'"),
    (["--size", "0"], "--size"),
    (["--repeat", "0"], "--repeat must be at least 1"),
    (["--write", "--rows", "slab"], "--write needs all rows"),
    (["--from", "/dev/null"], "is no result of bench-life"),
])
def test_bad_arguments_are_named(arguments, words):
    result = bench(*arguments)
    assert result.returncode == 2
    assert words in result.stderr
