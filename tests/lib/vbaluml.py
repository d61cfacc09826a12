# SPDX-License-Identifier: GPL-2.0-only
"""The simulation in User Mode Linux: boot it, hand it plans, read what came of them."""

import contextlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from vbalguest import GuestError
import vbalkunit

KERNELS = ("uml", "uml-debug")
BUSYBOX = Path("/bin/busybox")
MEM_MIB = 128
# So long it may compute or sleep and say nothing; a report comes every few seconds.
SILENCE_SECONDS = 120
# Of one that panics: with what it says of its memory.
LAST_WORDS = 400
# Virtual time: without a cost of computing two runs are the same; but who waits for time to go by
# while he computes, as unit tests do, would wait for ever.
SAME_EACH_TIME, CPU_TIME = "time-travel=inf-cpu", "time-travel"
PARAMETERS = "/sys/module/vballoon_kunit/parameters"
INIT = f"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t debugfs debugfs /sys/kernel/debug
({vbalkunit.FAULTS})
insmod /vballoon_kunit.ko @options || echo 'simulate: no module'
# not by "read": that takes a system call for each byte
IFS='
'
for plan in $(cat /plans); do
    echo "begin $plan"
    echo "$plan" >{PARAMETERS}/@parameter || failed=y
    cat {PARAMETERS}/@parameter
    echo "end $plan"
    [ -z "$failed" ] || break
done
rmmod vballoon_kunit
cd /sys/kernel/debug
[ ! -e kmemleak ] || {{ sleep 6; echo scan >kmemleak; echo scan >kmemleak; cat kmemleak; }}
echo finished
poweroff -f
"""


@dataclass(frozen=True)
class Plan:
    """What the kernel side is asked for; see sim_parse() in tests/kunit/simulate.c."""

    seed: int
    episodes: int = 1
    steps: int = 200
    keep: tuple = None
    trace: bool = False

    def report(self):
        """Return what is to be filled in with what came of it."""
        return Report(self)

    def __str__(self):
        words = f"seed={self.seed} episodes={self.episodes} steps={self.steps}"
        if self.keep is not None:
            words += f" keep={ranges(self.keep)}"
        return words + (" trace=1" if self.trace else "")


@dataclass
class Report:
    """What came of a plan."""

    plan: Plan
    steps: int = 0
    digest: str = ""
    failure: str = ""
    done: Counter = field(default_factory=Counter)
    idle: Counter = field(default_factory=Counter)
    longest_ms: Counter = field(default_factory=Counter)
    checked: Counter = field(default_factory=Counter)
    traced: list = field(default_factory=list)  # of (seed, step, operation)
    last_words: str = ""

    def read(self, line):
        """Read one line of the kernel's report."""
        words = line.split("|")
        if words[0] == "steps":
            self.steps, self.digest = int(words[1]), words[2]
        elif words[0] == "failed":
            self.failure = words[1]
        elif words[0] == "op":
            name = words[1]
            self.done[name] += int(words[2])
            self.idle[name] += int(words[3])
            self.longest_ms[name] = max(self.longest_ms[name], int(words[4]))
        elif words[0] == "check":
            self.checked[words[1]] += int(words[2])

    @property
    def failed_at(self):
        """Return seed and step of the failure, or the last that was traced."""
        match = re.match(r"seed=(\d+) step=(\d+): ", self.failure)
        if match:
            return int(match[1]), int(match[2])
        return self.traced[-1][:2] if self.traced else None

    @property
    def kind(self):
        """Return what went wrong, without the numbers in it."""
        return kind_of(self.failure)


def show_progress(text):
    """Tell how far a run is, on one line, where somebody sees it."""
    if sys.stderr.isatty():
        print(f"\r{text}", end="", file=sys.stderr, flush=True)


def kind_of(failure):
    """Return what went wrong, without the numbers in it."""
    return re.sub(r"\b[0-9a-f]*\d[0-9a-f]*\b", "N", re.sub(r"^seed=\S+ step=\S+ ", "", failure))


def ranges(numbers):
    """Return numbers as the kernel reads a bitmap: 0-3,7."""
    parts = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)


class World:
    """A kernel and a module to simulate with."""

    def __init__(self, flavour, suites, room="simulate", mem_mib=MEM_MIB, clock=SAME_EACH_TIME,
                 parameter="simulate", make_options=(), append=(), module_options=""):
        self.append = append
        self.build = vbalkunit.test_kernel(flavour)
        self.mem_mib, self.clock = mem_mib, clock
        self.init = INIT.replace("@parameter", parameter).replace("@options", module_options)
        self.module = vbalkunit.build(self.build, suites, ("ARCH=um", *make_options),
                                      f"{room}-{flavour}")
        self.folder = Path(tempfile.mkdtemp(prefix="vballoon-simulate-"))

    def change(self, changed):
        """Build the module with sources that are changed."""
        vbalkunit.rebuild(self.build, self.module.parent, changed)

    def close(self):
        """Forget all of it."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _root(self, plans):
        root = Path(tempfile.mkdtemp(dir=self.folder))
        for name in ("bin", "proc", "sys", "dev", "tmp"):
            (root / name).mkdir()
        shutil.copy(BUSYBOX, root / "bin/busybox")
        shutil.copy(self.module, root / "vballoon_kunit.ko")
        (root / "plans").write_text("".join(f"{plan}\n" for plan in plans), "ascii")
        (root / "init").write_text(self.init, "ascii")
        (root / "init").chmod(0o755)
        return root

    def _command(self, root, trace, kunit):
        return [self.build / "linux", f"mem={self.mem_mib}M", self.clock,
                "root=/dev/root", "rootfstype=hostfs", f"rootflags={root}", "rw", "init=/init",
                "con=null", "con0=null,fd:1", f"uml_dir={root}/tmp", "nokaslr",
                "panic_on_warn=1", "oops=panic", "panic=-1", "printk.time=0",
                f"loglevel={7 if trace or kunit else 3}", f"kunit.enable={int(kunit)}",
                *self.append]

    def run(self, plans, kunit=False, heard=None, enough=None, silence=SILENCE_SECONDS):
        """Simulate; return the reports, and the console's text.

        The last report is of the plan that failed, if one did. heard(report) is called for each.
        It ends at a line of the console for which enough(line) is true, and when nothing is
        heard for so many seconds; those in which it waits for a processor do not count.
        """
        root = self._root(plans)
        trace = any(plan.trace for plan in plans)
        try:
            console = _listen(self._command(root, trace, kunit), Console(plans, heard),
                              enough or (lambda line: False), silence)
        finally:
            shutil.rmtree(root, ignore_errors=True)
        return console.reports, console.text

    def run_on_all(self, more, add):
        """Run on all processors the plans that more() returns, until it returns none.

        add(reports) is called for each run; both are called by several threads.
        """
        def work():
            while plans := more():
                add(self.run(plans)[0])

        number = os.cpu_count() or 1
        with ThreadPoolExecutor(number) as pool:
            for done in [pool.submit(work) for _ in range(number)]:
                done.result()


class Console:
    """Reads what a kernel says."""

    def __init__(self, plans, heard):
        self.waiting = list(plans)
        self.heard = heard
        self.reports = []
        self.lines = []
        self.open = False
        self.finished = False

    @property
    def text(self):
        return "\n".join(self.lines)

    def read(self, line):
        """Take notice of one line."""
        self.lines.append(line)
        traced = re.search(r"simulate: (\d+)/(\d+) (.*)", line)
        if line.startswith("begin ") and self.waiting:
            self.reports.append(self.waiting.pop(0).report())
            self.open = True
        elif line.startswith("end ") and self.open:
            self.open = False
            if self.heard:
                self.heard(self.reports[-1])
        elif line == "finished":
            self.finished = True
        elif traced and self.open:
            self.reports[-1].traced.append((int(traced[1]), int(traced[2]), traced[3]))
        elif self.open:
            self.reports[-1].read(line)

    def end(self, why):
        """Nothing more will be heard."""
        if self.finished and not self.open:
            return
        if not self.reports:
            raise GuestError(f"User Mode Linux did not come up ({why}):\n{self.text[-2000:]}")
        if not self.reports[-1].failure:
            self.reports[-1].failure = f"the kernel stopped: {self._complaint() or why}"
            self.reports[-1].last_words = "\n".join(self.lines[-LAST_WORDS:])

    def _complaint(self):
        for line in self.lines:
            if re.search(r"WARNING: |BUG|KASAN|Kernel panic|Oops|possible circular", line):
                return line.strip()
        return ""


class Silence:
    """Counts seconds in which a process computes or sleeps, on a machine however busy."""

    def __init__(self, pid):
        self.stat = Path(f"/proc/{pid}/stat")
        self.seconds = 0
        self._computed = self._look()[1]

    def _look(self):
        state, *numbers = self.stat.read_text("ascii").rpartition(")")[2].split()
        ticks = int(numbers[10]) + int(numbers[11])  # utime and stime, see proc(5)
        return state, ticks / os.sysconf("SC_CLK_TCK")

    def broken(self):
        """Something was heard."""
        self.seconds = 0
        self._computed = self._look()[1]

    def passes(self, seconds):
        """So many seconds have gone by, and nothing was heard."""
        state, computed = self._look()
        self.seconds += computed - self._computed if state == "R" else seconds
        self._computed = computed


def _lines(process, silence):
    """Yield the lines of a process; None when it says nothing for too long."""
    selector = selectors.DefaultSelector()
    selector.register(process.stdout, selectors.EVENT_READ)
    rest = b""
    quiet = Silence(process.pid)
    while True:
        if not selector.select(1):
            quiet.passes(1)
            if quiet.seconds >= silence:
                yield None
                return
            continue
        quiet.broken()
        data = os.read(process.stdout.fileno(), 65536)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield line.decode("ascii", "replace").rstrip("\r")


def _listen(command, console, enough, silence):
    why = "it ended"
    with subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          start_new_session=True) as process:
        try:
            for line in _lines(process, silence):
                if line is None:
                    why = f"nothing was heard for {silence} s"
                    break
                console.read(line)
                if enough(line):
                    return console
        finally:
            # its helpers are of its session
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    console.end(why)
    return console
