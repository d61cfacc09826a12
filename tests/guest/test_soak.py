# SPDX-License-Identifier: GPL-2.0-only
"""Everything at once, for a number of rounds, and then every page is counted.

The operations are drawn from a fixed seed: a failure can be had again. Meanwhile a monitor reads
the driver's tracepoints.
"""

import random

import pytest
from conftest import FRAME, MIB, Balloon, memory
from vbalmonitor import Watch

ROUNDS = 40
SEED = 20
MEM_MIB = 768
MOST = 480 * MIB
# Memory that a process dirties and gives back, again and again; small enough to fit always.
HOG = ("while [ ! -e /tmp/stop ]; do dd if=/dev/zero of=/dev/null bs=24M count=1; "
       "dd if=/dev/zero of=/tmp/file bs=1M count=16; rm /tmp/file; done >/dev/null 2>&1; "
       "echo ended >/tmp/stop")


class Soak:
    """A guest under load, and what can be done to it."""

    def __init__(self, guest, balloon, seed):
        self.guest = guest
        self.balloon = balloon
        self.random = random.Random(seed)
        self.target = 0
        self.log = []
        self.watch = Watch(guest)
        self.nr_watched = 0

    def operations(self):
        """The operations and how often each is drawn."""
        return {self.resize: 8, self.flap: 3, self.settle: 4, self.stop_and_go: 4,
                self.compact: 4, self.drop_caches: 2, self.reload: 2, self.rebind: 2,
                self.ask_stats: 3}

    def step(self):
        """Do one operation at random."""
        weights = self.operations()
        operation, = self.random.choices(list(weights), list(weights.values()))
        self.log.append(f"{operation.__name__} at {self.target // FRAME} frames")
        operation()

    def resize(self):
        """A new target, not waited for."""
        self.target = self.random.randrange(MOST // FRAME) * FRAME
        self.guest.inflate(self.target)

    def flap(self):
        """Many targets in a row."""
        for _ in range(10):
            self.resize()

    def look(self):
        """See what the tracepoints have told since the module was loaded."""
        monitor = self.watch.end()
        assert not monitor.breaches
        self.nr_watched += monitor.nr_events

    def settle(self):
        """Wait for the target."""
        self.guest.wait_inflated(self.target, 300)

    def stop_and_go(self):
        """The machine stands still for a moment."""
        self.guest.qmp("stop")
        self.guest.qmp("cont")

    def compact(self):
        """Compaction moves the balloon's single pages."""
        self.guest.check("echo 1 >/proc/sys/vm/compact_memory", 180)

    def drop_caches(self):
        """The guest forgets what it need not know."""
        self.guest.check("echo 3 >/proc/sys/vm/drop_caches", 180)

    def reload(self):
        """Unload in the midst of things, and load with another transfer mode."""
        self.look()
        self.guest.rmmod()
        assert self.guest.inflated_bytes() == 0
        # The target waits there: watched as soon as the balloon has it.
        self.guest.inflate(0)
        self.guest.insmod(f"transfer={self.random.choice(('pfn', 'range'))} deflate_on_oom=0")
        self.watch = Watch(self.guest)
        self.guest.inflate(self.target)

    def rebind(self):
        """Take the device away and give it back."""
        self.guest.check("cd /sys/bus/virtio/drivers/vballoon; set -- virtio*; "
                         "echo $1 >unbind; echo $1 >bind", 180)

    def ask_stats(self):
        """Statistics keep coming."""
        assert self.guest.fresh_stats(180)["stat-total-memory"] > 0


@pytest.mark.parametrize("seed", (SEED,))
def test_soak(lab, seed):
    with lab.fresh(mem_mib=MEM_MIB, load=False) as guest:
        total_kb = memory(guest)["total"]
        enough_kb = guest.free_kb() - 12 * 1024 - guest.quarantine_kb
        guest.insmod("deflate_on_oom=0")
        balloon = Balloon(guest, total_kb)
        soak = Soak(guest, balloon, seed)
        guest.check(f"rm -f /tmp/stop; ({HOG}) >/dev/null 2>&1 &")
        try:
            for _ in range(ROUNDS):
                soak.step()
            soak.settle()
            balloon.check_counts(soak.target)
            guest.check("touch /tmp/stop")
            guest.wait_for(lambda: guest.run("[ -s /tmp/stop ]")[0] == 0, 120, "the load to end")
            last = MOST // 2 + 3 * FRAME
            balloon.resize(last, 300)
            assert int(balloon.attr("given_bytes")) - \
                int(balloon.attr("taken_back_bytes")) == last
            assert int(balloon.attr("requests_in_flight")) == 0
            balloon.resize(0)
            soak.look()
            assert soak.nr_watched
            guest.rmmod()
            guest.check("echo 3 >/proc/sys/vm/drop_caches")
            assert guest.meminfo()["MemTotal"] == total_kb
            guest.wait_for(lambda: guest.free_kb() > enough_kb, 60,
                           lambda: f"free memory to come back: {guest.free_kb()} of {enough_kb}")
            guest.check_clean()
        except BaseException:
            print(f"seed {seed}:", *soak.log, sep="\n  ")
            raise
