# SPDX-License-Identifier: GPL-2.0-only
"""`balloonctl balance` as a process, with settings, a /proc and a status of its own."""

import json
import os
import socket
import subprocess
import time

from conftest import BALLOONCTL
from fake_qemu import FakeQemu

GIB = 1 << 30


class Balance:
    """A running service, its settings, its host and its status."""

    def __init__(self, folder, text="interval = 1\n", more=""):
        self.folder = folder
        self.socket = folder / "status"
        self.config = folder / "balance.toml"
        self.log = folder / "log"
        (folder / "pressure").mkdir()
        (folder / "guests").mkdir()
        self.set_host(8 * GIB, 6 * GIB)
        self.config.write_text(f'{text}[qmp]\nsockets = ["{folder}/guests/*"]\n{more}')
        self._environment = dict(os.environ)
        self.limit_s = 60
        self.process = None

    def guest(self, name, **options):
        """Return a stand-in for QEMU where the service looks for one."""
        qemu = FakeQemu(self.folder / "guests" / name, **options)
        qemu.name = name
        return qemu

    def set_host(self, total_bytes, available_bytes):
        """Write another /proc; readers see the old or the new one."""
        new = self.folder / "meminfo.new"
        new.write_text(f"MemTotal:  {total_bytes // 1024} kB\nMemFree:  0 kB\n"
                       f"MemAvailable:  {available_bytes // 1024} kB\n")
        new.rename(self.folder / "meminfo")
        (self.folder / "pressure" / "memory").write_text("some avg10=0.00 avg60=0.00\n")

    def __enter__(self):
        starts = self.lines().count("balancing with")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [BALLOONCTL, "balance", "--config", self.config, "--socket", self.socket,
                 "--proc", self.folder], stderr=log, env=self._environment)
        self.wait_for(lambda: self.lines().count("balancing with") > starts,
                      "the service to start")
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(self.limit_s)
        assert "Traceback" not in self.lines()

    def listen_for_systemd(self):
        """Return a socket that hears what systemd would."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(str(self.folder / "notify"))
        listener.settimeout(self.limit_s)
        self._environment["NOTIFY_SOCKET"] = str(self.folder / "notify")
        return listener

    def lines(self):
        """What it logged."""
        return self.log.read_text("utf-8") if self.log.exists() else ""

    def status(self):
        """What it tells."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(self.limit_s)
            connection.connect(str(self.socket))
            return json.loads(connection.makefile().readline())

    def guests(self):
        """What it tells of each guest."""
        return {guest["name"]: guest for guest in self.status()["guests"]}

    def wait_for(self, look, what):
        """Poll until look() is true."""
        limit = time.monotonic() + self.limit_s
        while not look():
            assert self.process.poll() is None, f"the service ended: {self.lines()}"
            assert time.monotonic() < limit, f"waited too long for {what}:\n{self.lines()}"
            time.sleep(0.05)

    def wait_known(self, *names):
        """Wait until it has seen these guests."""
        self.wait_for(lambda: all(self.guests().get(name, {}).get("actual_bytes")
                                  for name in names), f"{names} to be seen")
