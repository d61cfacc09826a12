# SPDX-License-Identifier: GPL-2.0-only
"""One QMP connection: QEMU's control protocol, JSON lines over a unix socket."""

import json
import os
import socket
import stat
import struct

from .errors import BalloonError, UnreachableError

GREETING_SECONDS = 3
ANSWER_SECONDS = 30


class CommandError(BalloonError):
    """QEMU refused a command."""

    def __init__(self, message, error_class):
        super().__init__(message)
        self.error_class = error_class


class QmpConnection:
    """A connection that is ready for commands once it is made."""

    def __init__(self, path, greeting_seconds=GREETING_SECONDS):
        self._path = path
        self._buffer = b""
        self._socket = self._connect(greeting_seconds)
        try:
            self._greet(greeting_seconds)
            self._socket.settimeout(ANSWER_SECONDS)
            self.command("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def close(self):
        """Let the next client have QEMU's attention."""
        self._socket.close()

    @property
    def peer_pid(self):
        """The process that listens at the other end."""
        size = struct.calcsize("3i")
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        return struct.unpack("3i", credentials)[0]

    def command(self, name, **arguments):
        """Run a command and return what it returns; underscores in names stand for dashes."""
        request = {"execute": name}
        if arguments:
            request["arguments"] = {key.replace("_", "-"): value
                                    for key, value in arguments.items()}
        try:
            self._socket.sendall(json.dumps(request).encode() + b"\n")
        except OSError as error:
            raise self._lost(error.strerror) from error
        # events come between request and answer
        while True:
            message = self._receive(f"does not answer '{name}' within {ANSWER_SECONDS} s")
            if "return" in message:
                return message["return"]
            if "error" in message:
                details = message["error"]
                raise CommandError(f"{self._path}: QEMU refuses '{name}': {details['desc']}",
                                   details["class"])

    def _connect(self, seconds):
        try:
            if not stat.S_ISSOCK(os.stat(self._path).st_mode):
                raise UnreachableError(f"{self._path} is not a socket")
        except OSError as error:
            raise UnreachableError(f"{self._path}: {error.strerror}") from error
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(seconds)
        try:
            connection.connect(str(self._path))
        except (TimeoutError, BlockingIOError) as error:
            connection.close()
            raise self._busy() from error
        except ConnectionRefusedError as error:
            connection.close()
            raise UnreachableError(f"{self._path}: nobody listens; has the guest ended?") from error
        except OSError as error:
            connection.close()
            raise UnreachableError(f"{self._path}: {error.strerror or error}") from error
        return connection

    def _greet(self, seconds):
        self._socket.settimeout(seconds)
        try:
            greeting = self._receive(None)
        except TimeoutError as error:
            raise self._busy() from error
        if "QMP" not in greeting:
            raise UnreachableError(f"{self._path} does not speak QMP")

    def _receive(self, complaint):
        """Return the next message; on silence raise the complaint, or TimeoutError without."""
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(1 << 16)
            except TimeoutError as error:
                if complaint is None:
                    raise
                raise UnreachableError(f"{self._path}: QEMU {complaint}") from error
            except OSError as error:
                raise self._lost(error.strerror) from error
            if not data:
                raise self._lost("it closed the connection")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError as error:
            raise UnreachableError(f"{self._path} does not speak QMP") from error
        if not isinstance(message, dict):
            raise UnreachableError(f"{self._path} does not speak QMP")
        return message

    def _busy(self):
        return UnreachableError(
            f"{self._path} takes connections but says nothing: another client is connected "
            "(QMP serves one client at a time), or QEMU hangs")

    def _lost(self, reason):
        return UnreachableError(f"{self._path}: lost QEMU: {reason}")
