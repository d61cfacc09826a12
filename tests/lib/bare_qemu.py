# SPDX-License-Identifier: GPL-2.0-only
"""A real QEMU without an operating system in it: starts at once and costs nothing."""

import socket
import subprocess
import time

from vbalguest.kernels import tool

START_SECONDS = 60
MACHINE = ("-machine", "q35", "-accel", "tcg", "-m", "128")


class BareQemu:
    """QEMU whose processors stand still; path is that of its QMP socket. A context manager."""

    def __init__(self, path, *arguments, machine=MACHINE):
        self.path = path
        self._arguments = [*machine, *arguments]
        self._process = None

    def __enter__(self):
        # setpriv: QEMU dies with us even when we are killed
        self._process = subprocess.Popen(
            [tool("setpriv", "util-linux"), "--pdeathsig", "KILL",
             tool("qemu-system-x86_64", "qemu-system-x86"), "-S", "-nodefaults",
             "-no-user-config", "-display", "none", "-name", "bare",
             "-qmp", f"unix:{self.path},server=on,wait=off", *self._arguments],
            stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        limit = time.monotonic() + START_SECONDS
        while not self._greets():
            assert self._process.poll() is None, self._process.stderr.read()
            assert time.monotonic() < limit, "QEMU does not answer"
            time.sleep(0.02)
        return self

    def _greets(self):
        """True once QEMU says something: from then on it is ready for others."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(START_SECONDS)
            try:
                client.connect(str(self.path))
                return bool(client.recv(1))
            except OSError:
                return False

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()
        self._process.stderr.close()
