# SPDX-License-Identifier: GPL-2.0-only
"""Prometheus and node_exporter without a system around them: their folders are ours alone."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

START_SECONDS = 120
ATTEMPTS = 5
CONFIG = """\
global:
  scrape_interval: 1s
  scrape_timeout: 1s
  evaluation_interval: 1s
rule_files: {rules}
scrape_configs:
"""
JOB = """\
  - job_name: {job}
    file_sd_configs:
      - files: ['{folder}/{job}.targets.json']
"""


def find(program):
    """Return a program's path or say which package has it."""
    path = shutil.which(program)
    assert path, f"{program} is missing; 'scripts/setup host' brings it"
    return path


def free_port():
    """Return a port of the loopback that nobody has at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url):
    """Return what is there, or None as long as nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=START_SECONDS) as answer:
            return answer.read().decode()
    except (ConnectionError, urllib.error.URLError):
        return None


@contextlib.contextmanager
def serving(make_command, log_path, ready_path):
    """Run a server at a free port, which make_command gets; gives the address."""
    for _ in range(ATTEMPTS):
        address = f"127.0.0.1:{free_port()}"
        with open(log_path, "wb") as log:
            process = subprocess.Popen(make_command(address), stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=log)
        try:
            limit = time.monotonic() + START_SECONDS
            while process.poll() is None and get(f"http://{address}{ready_path}") is None:
                assert time.monotonic() < limit, Path(log_path).read_text()
                time.sleep(0.1)
            # it ends at once where somebody else took the port meanwhile
            if process.poll() is None:
                yield address
                return
        finally:
            process.kill()
            process.wait()
    raise AssertionError(Path(log_path).read_text())


def node_exporter(folder, textfiles):
    """Run node_exporter with its textfile collector only."""
    return serving(lambda address: [
        find("prometheus-node-exporter"), "--collector.disable-defaults", "--collector.textfile",
        f"--collector.textfile.directory={textfiles}", f"--web.listen-address={address}"],
        Path(folder) / "node_exporter.log", "/metrics")


class Prometheus:
    """A server that scrapes every second; a context manager."""

    def __init__(self, folder, jobs, rules=()):
        self._folder = Path(folder)
        self._targets = {job: [] for job in jobs}
        config = CONFIG.format(rules=json.dumps([os.fspath(path) for path in rules]))
        config += "".join(JOB.format(job=job, folder=folder) for job in jobs)
        (self._folder / "prometheus.yml").write_text(config, "ascii")
        self._stack = contextlib.ExitStack()
        self._address = None

    def scrape(self, job, address):
        """Add a target to a job; it is noticed at once, before and after the start."""
        self._targets[job].append(address)
        path = self._folder / f"{job}.targets.json"
        new = path.with_suffix(".new")
        new.write_text(json.dumps([{"targets": self._targets[job]}]), "ascii")
        new.rename(path)

    def __enter__(self):
        self._address = self._stack.enter_context(serving(
            self._command, self._folder / "prometheus.log", "/-/ready"))
        return self

    def __exit__(self, *_):
        self._stack.close()

    def _command(self, address):
        return [find("prometheus"), f"--config.file={self._folder}/prometheus.yml",
                f"--storage.tsdb.path={self._folder}/data", f"--web.listen-address={address}"]

    def ask(self, path, **parameters):
        """Return what the API answers; a question that it does not understand is an error."""
        url = f"http://{self._address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=START_SECONDS) as answer:
            found = json.load(answer)
        assert found["status"] == "success"
        return found["data"]

    def query(self, expression):
        """Return the samples of an expression, at this moment."""
        return self.ask("query", query=expression)["result"]
