# SPDX-License-Identifier: GPL-2.0-only
"""A stand-in for QEMU's QMP server: a real unix socket, a balloon that does as it is told."""

import contextlib
import json
import os
import socket
import threading
import time

MIB = 1 << 20
BALLOON_PATH = "/machine/peripheral/balloon0"
GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}},
                    "capabilities": []}}


class FakeQemu:
    """A guest of 1 GiB behind a socket; serves one client at a time, as QEMU does.

    follow says what the guest does about a target: True (obeys), False (nothing), or the
    size in bytes below which it does not go. driver=False also keeps it from sending
    statistics. answers replaces the answer to a command; a command of `dies_at` ends QEMU.
    """

    def __init__(self, path, follow=True, driver=True, answers=None, dies_at=None,
                 greeting=json.dumps(GREETING), polling_s=0, folder="peripheral"):
        self.path = str(path)
        self.name = "fake"
        self.ram_bytes = self.actual_bytes = 1024 * MIB
        self.memory_devices = []
        self.status = "running"
        self.migration = {}
        self.devices = []
        self.polling_s = polling_s
        self.polling_log = []
        self.asked_bytes = []
        self.stats = {"stat-free-memory": 300 * MIB, "stat-total-memory": 970 * MIB,
                      "stat-available-memory": 400 * MIB, "stat-disk-caches": (1 << 64) - 1,
                      "stat-swap-in": 0, "stat-major-faults": 7, "stat-from-the-future": 1}
        self._follow = follow
        self._driver = driver
        self._answers = answers or {}
        self._dies_at = dies_at
        self._greeting = greeting
        self._folder = folder
        self._reports = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._stopped = False
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self):
        self._listener.bind(self.path)
        self._listener.listen(1)
        self._listener.settimeout(0.05)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stopped = True
        self._thread.join(60)
        self._listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)

    def _serve(self):
        while not self._stopped:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            with client, contextlib.suppress(ConnectionError, TimeoutError):
                client.settimeout(30)
                self._talk(client)

    def _talk(self, client):
        client.sendall(self._greeting.encode() + b"\r\n")
        # an event may come at any moment
        event = {"event": "BALLOON_CHANGE", "data": {"actual": 1}, "timestamp": {"seconds": 1}}
        for line in client.makefile("rb"):
            request = json.loads(line)
            if request["execute"] == self._dies_at:
                self._stopped = True
            if self._stopped:
                return
            answer = self._answer(request["execute"], request.get("arguments", {}))
            for message in (event, answer):
                client.sendall(json.dumps(message).encode() + b"\r\n")

    def _answer(self, command, arguments):
        if command in self._answers:
            return self._answers[command]
        function = getattr(self, "_do_" + command.replace("-", "_"), None)
        if function is None:
            return {"error": {"class": "CommandNotFound", "desc": f"no {command} here"}}
        return {"return": function(**arguments)}

    def _do_qmp_capabilities(self):
        return {}

    def _do_query_name(self):
        return {"name": self.name}

    def _do_query_memory_size_summary(self):
        plugged_bytes = sum(device["data"]["size"] for device in self.memory_devices)
        return {"base-memory": self.ram_bytes, "plugged-memory": plugged_bytes}

    def _do_query_memory_devices(self):
        return self.memory_devices

    def _do_query_status(self):
        return {"status": self.status, "running": self.status == "running", "singlestep": False}

    def _do_query_migrate(self):
        return self.migration

    def _do_query_balloon(self):
        return {"actual": self.actual_bytes}

    def _do_balloon(self, value):
        self.asked_bytes.append(value)
        if self._follow is True:
            self.actual_bytes = value
        elif self._follow is not False:
            self.actual_bytes = max(value, self._follow)
        return {}

    def _do_qom_list(self, path):
        if path != f"/machine/{self._folder}":
            return [{"name": "type", "type": "string"}]
        return [{"name": "type", "type": "string"},
                {"name": "balloon0", "type": "child<virtio-balloon-pci-non-transitional>"},
                *({"name": f"device{number}", "type": f"child<{device}>"}
                  for number, device in enumerate(self.devices))]

    def _do_qom_get(self, path, property):
        assert path == f"/machine/{self._folder}/balloon0"
        if property == "guest-stats-polling-interval":
            return self.polling_s
        if self._driver and self.polling_s:
            self._reports += 1
        # time enough between reports for one of them to be new
        last_update = int(time.time()) + self._reports if self._reports else 0
        return {"stats": self.stats, "last-update": last_update}

    def _do_qom_set(self, path, property, value):
        assert property == "guest-stats-polling-interval"
        self.polling_s = value
        self.polling_log.append(value)
        return {}
