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
PROPERTIES = ("deflate-on-oom", "free-page-reporting", "free-page-hint", "page-poison")
GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}},
                    "capabilities": []}}
ALL_WORDS = ("stats", "deflate-on-oom", "free-page-reporting")
RING = ["VIRTIO_RING_F_EVENT_IDX: Used & avail. event fields enabled"]
FEATURES = {"stats": "VIRTIO_BALLOON_F_STATS_VQ: Guest memory stats VQ available",
            "deflate-on-oom": "VIRTIO_BALLOON_F_DEFLATE_ON_OOM: Deflate balloon when guest OOM",
            "free-page-reporting": "VIRTIO_BALLOON_F_REPORTING: Page reporting VQ enabled",
            "page-poison": "VIRTIO_BALLOON_F_PAGE_POISON: Guest page poisoning enabled",
            "must-tell-host": "VIRTIO_BALLOON_F_MUST_TELL_HOST: Tell host before reclaiming pages"}
DRIVER_OK = ["VIRTIO_CONFIG_S_DRIVER_OK: Driver setup and ready",
             "VIRTIO_CONFIG_S_FEATURES_OK: Feature negotiation complete",
             "VIRTIO_CONFIG_S_DRIVER: Guest OS compatible with device",
             "VIRTIO_CONFIG_S_ACKNOWLEDGE: Valid virtio device found"]


def virtio_status(offered=ALL_WORDS, negotiated=ALL_WORDS, statuses=tuple(DRIVER_OK)):
    """Return an answer as QEMU gives it to x-query-virtio-status."""
    return {"status": {"statuses": list(statuses)},
            "host-features": {"transports": RING,
                              "dev-features": [FEATURES[word] for word in offered]},
            "guest-features": {"transports": RING,
                               "dev-features": [FEATURES[word] for word in negotiated]}}


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
        self.properties = {(BALLOON_PATH, name): False for name in PROPERTIES}
        self.backends = [{"id": "pc.ram", "prealloc": False, "share": False}]
        # QEMU before 7.2 knows no more than the properties
        self.virtio_status = None
        self.polling_s = polling_s
        self.polling_log = []
        self.asked_bytes = []
        self.stats = {"stat-free-memory": 300 * MIB, "stat-total-memory": 970 * MIB,
                      "stat-available-memory": 400 * MIB, "stat-disk-caches": (1 << 64) - 1,
                      "stat-swap-in": 0, "stat-major-faults": 7, "stat-from-the-future": 1}
        self._follow = follow
        self._driver = driver
        # the newest that was seen to answer x-query-virtio-status
        self.version = (10, 0)
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
        if function is None or (command == "x-query-virtio-status" and not self.virtio_status):
            return {"error": {"class": "CommandNotFound", "desc": f"no {command} here"}}
        try:
            return {"return": function(**{name.replace("-", "_"): value
                                          for name, value in arguments.items()})}
        except LookupError as error:
            return {"error": {"class": "GenericError", "desc": f"Property {error} not found"}}

    def _do_query_version(self):
        major, minor = self.version
        return {"qemu": {"major": major, "minor": minor, "micro": 0}, "package": ""}

    def _do_x_query_virtio_status(self, path):
        if path != f"/machine/{self._folder}/balloon0/virtio-backend":
            raise LookupError(path)
        return self.virtio_status

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

    def _do_query_memdev(self):
        return self.backends

    def _do_qom_list(self, path):
        if path != f"/machine/{self._folder}":
            return [{"name": "type", "type": "string"}]
        return [{"name": "type", "type": "string"},
                {"name": "balloon0", "type": "child<virtio-balloon-pci-non-transitional>"},
                *({"name": f"device{number}", "type": f"child<{device}>"}
                  for number, device in enumerate(self.devices))]

    def _do_qom_get(self, path, property):
        if (path, property) in self.properties:
            return self.properties[path, property]
        if property == "guest-stats-polling-interval":
            return self.polling_s
        if property != "guest-stats":
            raise LookupError(f"{path}.{property}")
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
