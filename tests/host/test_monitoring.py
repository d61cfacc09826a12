# SPDX-License-Identifier: GPL-2.0-only
"""Alert rules and dashboard, by promtool and in a real Prometheus that scrapes stand-ins."""

import contextlib
import itertools
import json
import os
import re
import shutil
import subprocess
import time

import pytest
from balance_process import Balance
from conftest import BALLOONCTL, MIB, ROOT
from fake_qemu import BALLOON_PATH, FakeQemu
from fake_sysfs import FakeSysfs
from private_prometheus import Prometheus, node_exporter

RULES = ROOT / "monitoring/alerts.yml"
TESTS = ROOT / "monitoring/alerts_test.yml"
DASHBOARD = json.loads((ROOT / "monitoring/dashboard.json").read_text("ascii"))
DOCUMENT = (ROOT / "docs/metrics.md").read_text("utf-8")
EMPTY = "Empty when healthy."
LIMIT_SECONDS = 180
ALERT = re.compile(r"- alert: (\w+)\n +expr: (>-\n(?: {10}.*\n)+|.*\n)(?: +for: (\w+)\n)?")


def alerts():
    """Return name -> (expression as it stands in the file, its for)."""
    return {name: (expression, wait) for name, expression, wait in
            ALERT.findall(RULES.read_text("ascii"))}


def promtool(*arguments, **options):
    """Run promtool; return its status and what it printed."""
    result = subprocess.run(["promtool", *arguments], stdout=subprocess.PIPE, text=True,
                            stderr=subprocess.STDOUT, check=False, **options)
    return result.returncode, result.stdout


# By promtool

def test_rules_are_valid():
    status, said = promtool("check", "rules", RULES)
    assert status == 0, said
    assert f"{len(alerts())} rules found" in said


def test_rules_do_what_they_should():
    status, said = promtool("test", "rules", TESTS)
    assert status == 0, said


def never(text):
    """Rules that see nothing."""
    return ALERT.sub(r"- alert: \1\n        expr: vector(0) == 1\n", text)


def always(text):
    """Rules that see what is not there."""
    return ALERT.sub(r"- alert: \1\n        expr: vector(1)\n", text)


def at_once(text):
    """Rules that do not wait."""
    return re.sub(r" +for: .*\n", "", text)


@pytest.mark.parametrize("spoil, line", [(never, "exp"), (always, "got"), (at_once, "got")])
def test_tests_notice_each_rule_that_is_spoilt(tmp_path, spoil, line):
    (tmp_path / "alerts.yml").write_text(spoil(RULES.read_text("ascii")), "ascii")
    shutil.copy(TESTS, tmp_path)
    status, said = promtool("test", "rules", tmp_path / TESTS.name)
    assert status == 1
    noticed = {name for found in re.findall(rf"^ +{line}: (.*)$", said, re.MULTILINE)
               for name in re.findall(r'alertname="(\w+)"', found)}
    assert noticed == {name for name, (_, wait) in alerts().items() if wait or spoil != at_once}


def test_documented_are_all_and_no_other():
    table = DOCUMENT[DOCUMENT.index("## Alerts"):]
    assert re.findall(r"^\| `(Balloon\w+)` \|", table, re.MULTILINE) == list(alerts())


def test_rules_and_dashboard_know_the_metrics():
    documented = set(re.findall(r"^\| `(\w+)` \|", DOCUMENT, re.MULTILINE))
    known = documented | {"node_textfile_mtime_seconds"}
    expressions = [expression for expression, _ in alerts().values()]
    expressions += [target["expr"] for _, target in queries()]
    used = set(itertools.chain.from_iterable(
        re.findall(r"\b[a-z]+_\w+_\w+\b(?=[^(\w]|$)", re.sub(r'"[^"]*"', "", expression))
        for expression in expressions))
    assert {name for name in used if not name.endswith("_over_time")} - known == set()


# The dashboard

def panels():
    """Return the panels that show something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries():
    """Return pairs of a panel and one of its queries."""
    return [(panel, target) for panel in panels() for target in panel["targets"]]


def test_panels_lie_side_by_side():
    taken = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = set(itertools.product(range(place["x"], place["x"] + place["w"]),
                                      range(place["y"], place["y"] + place["h"])))
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_panels_ask_the_chosen_prometheus():
    variables = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    for panel, target in queries():
        assert panel["title"] and panel["description"].endswith((".", "given."))
        assert target["datasource"] == panel["datasource"] == {
            "type": "prometheus", "uid": "${datasource}"}
        assert set(re.findall(r"\$(\w+)", target["expr"])) <= variables | {"__rate_interval"}


def filled_in(expression):
    """Return a query as Grafana would send it, with everything chosen."""
    return (expression.replace("$__rate_interval", "1m").replace("$domain", ".*")
            .replace("$instance", ".*"))


# Both in a real Prometheus

@contextlib.contextmanager
def exporting(*arguments):
    """Run `export --listen`; gives its address."""
    process = subprocess.Popen([BALLOONCTL, "export", "--timeout", "60", "--listen", "127.0.0.1:0",
                                *arguments], stderr=subprocess.PIPE, text=True)
    try:
        yield re.search(r"http://(.*)/metrics", process.stderr.readline())[1]
    finally:
        process.kill()
        process.stderr.close()
        process.wait()


class Site:
    """A host with stand-ins for QEMU and a guest with a stand-in for sysfs, scraped."""

    def __init__(self, folder):
        self._folder = folder
        self._guests = folder / "guests"
        self._textfiles = folder / "textfiles"
        for path in (self._guests, self._textfiles, folder / "balance"):
            path.mkdir()
        self._balance = Balance(folder / "balance")
        self._sysfs = FakeSysfs(folder / "sys")
        self._stack = contextlib.ExitStack()
        self.prometheus = Prometheus(folder, ("balloonctl", "node"), [RULES])

    def __enter__(self):
        with contextlib.ExitStack() as self._stack:
            for name in ("web", "db"):
                self._add_qemu(name, 640 * MIB)
            self._sysfs.add("virtio3")
            self._sysfs.set("virtio3", target_bytes=MIB, actual_bytes=MIB)
            self.run_guest_script()
            self._add_balanced("balanced")
            self._stack.enter_context(self._balance)
            self._add_export("--poll", "1", f"{self._guests}/*.qmp",
                             "--balance", "--socket", str(self._balance.socket))
            self.prometheus.scrape("node", self._stack.enter_context(
                node_exporter(self._folder, self._textfiles)))
            self._stack.enter_context(self.prometheus)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _add_qemu(self, name, actual_bytes, **options):
        qemu = self._stack.enter_context(FakeQemu(self._guests / f"{name}.qmp", **options))
        qemu.name, qemu.actual_bytes = name, actual_bytes
        qemu.stats["stat-swap-out"] = 0
        qemu.properties[BALLOON_PATH, "free-page-reporting"] = True
        return qemu

    def _add_balanced(self, name, **options):
        """Add a guest that the balance is connected to."""
        qemu = self._stack.enter_context(self._balance.guest(name, **options))
        qemu.stats |= {"stat-disk-caches": 0, "stat-swap-out": 0}

    def _add_export(self, *arguments):
        self.prometheus.scrape("balloonctl", self._stack.enter_context(exporting(*arguments)))

    def run_guest_script(self):
        """Do what the guest's timer does."""
        subprocess.run([ROOT / "guest/vballoon-metrics", "--sysfs", self._sysfs.top,
                        self._textfiles / "vballoon.prom"], check=True)

    def fall_ill(self):
        """Bring about everything that a panel or a rule looks for."""
        vfio = self._add_qemu("vfio", 512 * MIB, driver=False)
        vfio.devices = ["vfio-pci"]
        vfio.properties[BALLOON_PATH, "free-page-reporting"] = False
        self._add_qemu("unasked", 1024 * MIB)
        (self._guests / "unasked.qmp").rename(self._guests / "unasked")
        (self._guests / "gone.qmp").touch()
        self._add_export("--connect", f"qemu+unix:///system?socket={self._folder}/none",
                         "libvirt:any", str(self._guests / "unasked"), "--balance",
                         "--socket", str(self._folder / "none"))
        self._add_balanced("mute", driver=False)
        self._balance.set_host(8 << 30, 1 << 20)
        for name in ("virtio4", "virtio5"):
            self._sysfs.add(name)
        self._sysfs.add("virtio6", "virtio_balloon")
        self._sysfs.add("virtio7", None)
        self._sysfs.set("virtio3", recoveries=1_000_000)
        self._sysfs.set("virtio4", state="held-by-pressure")
        self._sysfs.set("virtio5", state="broken", target_bytes=900 * MIB, actual_bytes=0)
        self.run_guest_script()
        # duplicates are not for node_exporter
        old = self._textfiles / "old-vballoon.prom"
        old.write_text("other 1\n", "ascii")
        os.utime(old, (time.time() - 3600,) * 2)


@pytest.fixture(scope="module", name="site")
def fixture_site(tmp_path_factory):
    """In good health, as long as the first test runs; ill from the second one on."""
    with Site(tmp_path_factory.mktemp("site")) as site:
        yield site


def wait_for_each(site, wanted, look, what):
    """Poll until each of them was there once: on a busy machine scrapes may fail."""
    limit = time.monotonic() + LIMIT_SECONDS
    while wanted := [item for item in wanted if not look(item)]:
        assert time.monotonic() < limit, f"{what}: {wanted}"
        # figures that are older than 300 s are a rule's business, however long this takes
        site.run_guest_script()
        time.sleep(0.5)


def wait_for_data(site, empty_when_healthy):
    """Wait until each query of such panels had data."""
    wanted = [(panel["title"], filled_in(target["expr"])) for panel, target in queries()
              if panel["description"].startswith(EMPTY) == empty_when_healthy]
    wait_for_each(site, wanted, lambda item: site.prometheus.query(item[1]), "panels without data")


def test_healthy_site_fills_the_dashboard_and_alerts_nobody(site):
    wait_for_data(site, empty_when_healthy=False)
    for panel, target in queries():
        if panel["description"].startswith(EMPTY):
            assert site.prometheus.query(filled_in(target["expr"])) == [], panel["title"]
    # a guest that has only just been asked has not reported yet
    wait_for_each(site, ["alerts"], lambda _: not site.prometheus.query("ALERTS"),
                  "a healthy site without")
    assert {sample["value"][1] for sample in
            site.prometheus.query("node_textfile_scrape_error")} == {"0"}
    rules = site.prometheus.ask("rules")["groups"]
    assert {rule["health"] for group in rules for rule in group["rules"]} == {"ok"}


def test_ill_site_fills_the_other_panels_and_all_rules_see_it(site):
    site.fall_ill()
    wait_for_data(site, empty_when_healthy=True)
    seen = {}

    def look(name):
        seen.update({alert["labels"]["alertname"]: alert for alert in
                     site.prometheus.ask("alerts")["alerts"]})
        return name in seen
    wait_for_each(site, alerts(), look, "rules that see nothing")
    for alert in seen.values():
        for text in alert["annotations"].values():
            assert not re.search(r"<error|<no value>|\{\{|\bof  |  ", text), text


def test_choices_of_the_dashboard_are_filled(site):
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            metric, label = re.fullmatch(r"label_values\((\w+), (\w+)\)",
                                         variable["query"]["query"]).groups()
            found = site.prometheus.query(f"count by ({label}) ({metric})")
            assert found and all(sample["metric"][label] for sample in found)
