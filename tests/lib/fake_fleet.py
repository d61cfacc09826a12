# SPDX-License-Identifier: GPL-2.0-only
"""A thousand stand-ins for QEMU in one process: QMP servers with a balloon, asynchronous.

    python3 fake_fleet.py FOLDER COUNT [--odd SHARE] [--resident MIB]

makes FOLDER/guestN.qmp, prints "ready", and serves until it is ended. An odd share of them
answers as real ones do on a bad day: late, in pieces, not at all, or with what is no answer. The
others' loads go up and down; as they are one process, all have the same resident memory. At its
end it prints what it was asked for, as JSON.
"""

import argparse
import asyncio
import json
import math
import signal
import time
from pathlib import Path

MIB = 1 << 20
RAM_BYTES = 2048 * MIB
KERNEL_BYTES = 40 * MIB
GREETING = {"QMP": {"version": {"qemu": {"major": 7, "minor": 2, "micro": 0}},
                    "capabilities": []}}
BALLOON = {"name": "balloon0", "type": "child<virtio-balloon-pci>"}
KINDS = ("slow", "pieces", "silent", "junk", "refuses", "hangs up")
PROPERTIES = {"free-page-reporting": True, "deflate-on-oom": True}
SLOW_S = 2
# how long a load takes to come and go
PERIOD_S = 600
PIECE_BYTES = 11


class FakeGuest:
    """One server."""

    def __init__(self, path, number, kind):
        self.path = path
        self.kind = kind
        self.actual_bytes = RAM_BYTES
        self.polling_s = 0
        self.nr_looks = 0
        self.asked = []
        self._number = number
        self._started = time.monotonic()

    async def serve(self):
        """Listen; one client at a time is all there will be."""
        return await asyncio.start_unix_server(self._talk, self.path)

    async def _talk(self, reader, writer):
        try:
            await self._send(writer, GREETING)
            while line := await reader.readline():
                request = json.loads(line)
                answer = self._answer(request["execute"], request.get("arguments", {}))
                if self.kind == "silent" and self.nr_looks > 2:
                    continue
                if self.kind == "hangs up" and self.nr_looks % 5 == 4:
                    return
                if self.kind == "slow":
                    await asyncio.sleep(SLOW_S / 2)
                if self.kind == "junk" and self.nr_looks % 5 == 4:
                    writer.write(b"}{ no JSON\n")
                await self._send(writer, answer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def _send(self, writer, message):
        data = json.dumps(message).encode() + b"\r\n"
        if self.kind != "pieces":
            writer.write(data)
            return
        for start in range(0, len(data), PIECE_BYTES):
            writer.write(data[start:start + PIECE_BYTES])
            await writer.drain()
            await asyncio.sleep(0.001)

    def _used_bytes(self):
        """A load that comes and goes, at another time for each."""
        phase = (time.monotonic() - self._started) / PERIOD_S + self._number / 7
        return int((500 + 350 * math.sin(2 * math.pi * phase)) * MIB)

    def _answer(self, name, arguments):
        if name == "balloon":
            self.asked.append(arguments["value"])
            if self.kind == "refuses":
                return {"error": {"class": "GenericError", "desc": "not today"}}
            self.actual_bytes = max(arguments["value"], self._used_bytes() + KERNEL_BYTES)
            return {"return": {}}
        return {"return": self._value(name, arguments)}

    def _value(self, name, arguments):
        if name == "query-balloon":
            self.nr_looks += 1
            return {"actual": self.actual_bytes}
        if name == "qom-get":
            if arguments["property"] in PROPERTIES:
                return PROPERTIES[arguments["property"]]
            if arguments["property"] != "guest-stats":
                return self.polling_s
            return {"stats": self._stats(), "last-update": int(time.time())}
        if name == "qom-set":
            self.polling_s = arguments["value"]
        if name == "qom-list":
            return [BALLOON] if arguments["path"] == "/machine/peripheral" else []
        return {"query-name": {"name": f"guest{self._number}"},
                "query-memory-size-summary": {"base-memory": RAM_BYTES, "plugged-memory": 0},
                "query-status": {"status": "running", "running": True},
                }.get(name, {})

    def _stats(self):
        available_bytes = max(0, self.actual_bytes - KERNEL_BYTES - self._used_bytes())
        return {"stat-total-memory": RAM_BYTES - KERNEL_BYTES,
                "stat-available-memory": available_bytes,
                "stat-free-memory": available_bytes * 2 // 3,
                "stat-disk-caches": available_bytes // 3, "stat-swap-in": 0, "stat-swap-out": 0,
                "stat-major-faults": 12, "stat-minor-faults": 34567,
                "stat-htlb-pgalloc": 0, "stat-htlb-pgfail": 0}


async def main():
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--odd", type=float, default=0)
    parser.add_argument("--resident", type=int, default=0, metavar="MIB")
    options = parser.parse_args()
    memory = bytearray(b"x") * (options.resident * MIB)
    nr_odd = round(options.odd * options.count)
    guests = [FakeGuest(options.folder / f"guest{number}.qmp", number,
                        KINDS[number % len(KINDS)] if number < nr_odd else "good")
              for number in range(options.count)]
    servers = [await guest.serve() for guest in guests]
    ended = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
    print("ready", flush=True)
    await ended.wait()
    for server in servers:
        server.close()
    del memory
    print(json.dumps([{"kind": guest.kind, "looks": guest.nr_looks, "asked": len(guest.asked)}
                      for guest in guests]))


if __name__ == "__main__":
    asyncio.run(main())
