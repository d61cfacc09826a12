# SPDX-License-Identifier: GPL-2.0-only
"""QMP for a thousand guests: one asyncio protocol per socket, commands in batches.

QMP answers in the order of the commands, so a batch is one write and its answers need no
numbers. Whoever does not answer in time is cut off: a late answer then goes with the socket.
"""

import asyncio
import json
import socket
import struct
from collections import deque

from ..errors import GoneError, UnreachableError
from ..qmp import CommandError

# QEMU's answers are some hundred bytes; a line beyond this is no answer
LONGEST_LINE_BYTES = 1 << 20


def command(name, **arguments):
    """Return a command as it goes over the wire; underscores in names stand for dashes."""
    request = {"execute": name}
    if arguments:
        request["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
    return json.dumps(request).encode() + b"\n"


class QmpLink(asyncio.Protocol):
    """One connection.

    on_event is called with the name and the data of each event, on_lost at the end.
    """

    def __init__(self, on_event, on_lost):
        self._on_event = on_event
        self._on_lost = on_lost
        self._transport = None
        self._buffer = b""
        self._batches = deque()
        self.lost = None
        self._greeted = asyncio.get_running_loop().create_future()

    # Life

    @classmethod
    async def open(cls, path, on_event, on_lost, timeout_s):
        """Return a link that is ready for commands."""
        loop = asyncio.get_running_loop()
        link = None
        try:
            async with asyncio.timeout(timeout_s):
                _, link = await loop.create_unix_connection(lambda: cls(on_event, on_lost), path)
                await link._greeted
                await link.run(command("qmp_capabilities"), timeout_s=timeout_s)
        except TimeoutError as error:
            if link:
                link.close()
            raise UnreachableError(
                "takes connections but says nothing: another client is connected, "
                "or QEMU hangs") from error
        except ConnectionRefusedError as error:
            raise GoneError("its QEMU is gone") from error
        except OSError as error:
            raise UnreachableError(error.strerror or str(error)) from error
        except BaseException:
            if link:
                link.close()
            raise
        return link

    def close(self):
        """End the connection; whoever waits is told."""
        self.cut("the connection was closed")

    @property
    def closed(self):
        """True once nothing can be asked any more."""
        return self.lost is not None

    @property
    def peer_pid(self):
        """The process that listens at the other end."""
        size = struct.calcsize("3i")
        connection = self._transport.get_extra_info("socket")
        return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED,
                                                         size))[0]

    # Commands

    async def run(self, *commands, timeout_s):
        """Return the answers in order: what a command returned, or a CommandError."""
        return await self.send(b"".join(commands), len(commands), timeout_s)

    async def send(self, data, nr_commands, timeout_s):
        """The same for a batch that is already joined."""
        loop = asyncio.get_running_loop()
        future = loop.create_future()
        self.post(data, nr_commands, lambda answers: future.done() or future.set_result(answers))
        self._batches[-1].future = future
        late = loop.call_later(timeout_s, self.cut, f"QEMU does not answer within {timeout_s:g} s")
        try:
            return await future
        finally:
            late.cancel()

    def post(self, data, nr_commands, on_answers):
        """Send a batch and have a function called with its answers: costs no task."""
        if self.lost is not None:
            raise UnreachableError(self.lost)
        self._batches.append(_Batch(nr_commands, on_answers))
        self._transport.write(data)

    async def one(self, name, timeout_s, **arguments):
        """Return what one command returns; a refusal is raised."""
        answer, = await self.run(command(name, **arguments), timeout_s=timeout_s)
        if isinstance(answer, CommandError):
            raise answer
        return answer

    def cut(self, why):
        """Give the connection up."""
        if self._transport is not None:
            self._transport.abort()
        self._end(why)

    # What asyncio calls

    def connection_made(self, transport):
        """Connected."""
        self._transport = transport

    def connection_lost(self, _error):
        """The other end is gone."""
        self._end("QEMU closed the connection")

    def data_received(self, data):
        """Take the pieces that make lines."""
        lines = (self._buffer + data if self._buffer else data).split(b"\n")
        self._buffer = lines.pop()
        if len(self._buffer) > LONGEST_LINE_BYTES:
            self.cut("sends a line without end")
            return
        for line in lines:
            try:
                message = json.loads(line)
                self._take(message)
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                self.cut("does not speak QMP")
                return

    def _take(self, message):
        if "return" in message:
            self._answer(message["return"])
        elif "event" in message:
            self._on_event(message["event"], message.get("data", {}))
        elif "error" in message:
            details = message["error"]
            self._answer(CommandError(details["desc"], details["class"]))
        elif "QMP" in message:
            if not self._greeted.done():
                self._greeted.set_result(None)
        else:
            raise ValueError("no QMP")

    def _answer(self, answer):
        if not self._batches:
            raise ValueError("an answer without a question")
        batch = self._batches[0]
        batch.answers.append(answer)
        if len(batch.answers) == batch.nr_commands:
            self._batches.popleft()
            batch.on_answers(batch.answers)

    def _end(self, why):
        if self.lost is not None:
            return
        self.lost = why
        futures = [batch.future for batch in self._batches] + [self._greeted]
        self._batches.clear()
        for future in futures:
            if future is not None and not future.done():
                future.set_exception(UnreachableError(why))
                # nobody may be waiting for it
                future.exception()
        self._on_lost()


class _Batch:
    """Commands that wait for their answers."""

    __slots__ = ("nr_commands", "on_answers", "answers", "future")

    def __init__(self, nr_commands, on_answers):
        self.nr_commands = nr_commands
        self.on_answers = on_answers
        self.answers = []
        self.future = None
