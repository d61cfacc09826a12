# SPDX-License-Identifier: GPL-2.0-only
"""One guest: its QEMU, its console, its command agent and its balloon."""

import atexit
import base64
import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from . import accel as accelerators
from .arch import AMD64
from .errors import CommandFailed, GuestError, GuestTimeout, Missing
from .image import build_image
from .kernels import Kernel, build_hold_reports, build_module, tool
from .qmp import Qmp

MIB = 1 << 20
FRAME_BYTES = 4096
BALLOON_ID = "balloon0"
BALLOON_PATH = f"/machine/peripheral/{BALLOON_ID}"
HINT_THREAD = "hint0"
CONSOLE_TAIL_LINES = 40
KVM_BOOT_SECONDS = 30
BASE_CMDLINE = (
    # no-reboot: a panic ends QEMU instead of going round
    "quiet panic=-1 oops=panic rdinit=/init "
    # emulation is slow and the machine may be busy: neither is a bug of the guest
    "watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120 "
    "audit=0 random.trust_cpu=on")
# Unless said otherwise: clear pages as Debian's kernels do; and be without kmemleak, which makes
# a boot three times as long.
TEST_KERNEL_CMDLINE = ("init_on_alloc=1", "kmemleak=off")
# An emulated microvm has no clock to measure the TSC by but the PIT; on a busy machine that
# fails and the kernel waits for ticks for ever. Telling it the figures avoids the measurement.
GIVEN_CLOCK = "lpj=5000000 tsc_early_khz=2500000"
# QEMU before 9.0 loses an emulated guest's writes during a migration if the length of its RAM is
# a multiple of 256 KiB (fixed by QEMU's commit 03bfc2188f06): the guest crashes after it.
ODD_RAM_BYTES = 8192
REPORTING_ORDER = "/sys/module/page_reporting/parameters/page_reporting_order"
NO_BLOCK_ORDER = 11
# What makes QEMU's devices modern, legacy, or either as the driver likes.
TRANSPORTS = {
    "pci": {"modern": ",disable-legacy=on", "transitional": ",disable-legacy=off",
            "legacy": ",disable-legacy=off,disable-modern=on"},
    "ccw": {"modern": "", "transitional": "", "legacy": ",max_revision=0"},
}
TROUBLE = re.compile(
    r"Kernel panic|BUG:|WARNING:|Call Trace:|Oops|general protection|Bad page state|"
    r"KASAN:|UBSAN:|kmemleak: [1-9]|possible (circular|recursive|irq|unsafe)|"
    r"INFO: task .* blocked for more|suspicious RCU|stall on CPU|detected stalls")

# kmemleak tells of nothing younger than 5 s, and the first scan finds what is just being freed.
LEAKS = """
cd /sys/kernel/debug && sleep 6 && echo scan >kmemleak && echo scan >kmemleak &&
cat kmemleak >/dev/kmsg
"""


@dataclass
class Request:
    """A command that a guest was told to run."""

    number: int
    command: str
    seconds: int
    started: float


def choose_accel(arch=AMD64):
    """Return the accelerator of guests that are not told theirs."""
    return accelerators.choose(arch, _boots_with_kvm)


def _boots_with_kvm():
    try:
        with Guest(mem_mib=256, smp=1, module=None, balloon_opts=None, accel=accelerators.KVM,
                   boot_timeout=KVM_BOOT_SECONDS):
            return True
    except Missing:
        raise
    except GuestError:
        return False


class Guest:
    """A guest under QEMU, to be used in a with statement.

    kernel is None for the stock Debian kernel, or what Kernel.find() takes; its architecture
    is the guest's. machine is None for the usual one, or microvm. balloon_opts are properties
    of QEMU's balloon device (None: no such device); transport is modern, transitional or
    legacy. module is loaded with module_params after boot: vballoon (built
    if needed), virtio_balloon, or None; with load=False it only lies ready in /modules.

    mem_backend is a QEMU memory backend with its properties. files maps paths in the guest
    to files here, extra_modules names further kernel modules to load at boot. incoming
    makes a guest that waits for a migration instead of booting. icount, such as
    "shift=0,sleep=off", makes time in the guest a count of its instructions. patience
    multiplies every time limit (for slow debug kernels).
    """

    def __init__(self, mem_mib=1024, smp=2, kernel=None,
                 balloon_opts="deflate-on-oom=on,free-page-reporting=on",
                 module="vballoon", module_params="", load=True, swap_mib=0, extra_qemu=(),
                 machine=None, transport="transitional", mem_backend="memory-backend-ram",
                 append="", files=None, extra_modules=(), module_path=None, incoming=False,
                 odd_ram=False, accel=None, icount=None, boot_timeout=300, patience=1,
                 name="guest"):
        self.mem_mib = mem_mib
        self.mem_bytes = mem_mib * MIB + (ODD_RAM_BYTES if odd_ram else 0)
        self.smp = smp
        self.kernel = Kernel.find(kernel)
        self.module = module
        self.module_params = module_params
        self.load = load
        self.machine = machine or self.kernel.arch.machine
        self.patience = patience
        self.name = name
        self.qemu_pid = None
        self._balloon_opts = balloon_opts
        self._swap_mib = swap_mib
        self._extra_qemu = list(extra_qemu)
        self._transport = transport
        self._mem_backend = mem_backend
        self._append = append
        self._files = dict(files or {})
        self._extra_modules = list(extra_modules)
        self._module_path = module_path
        self._incoming = incoming
        self.accel = accel
        self._icount = icount
        self._boot_timeout = boot_timeout
        self._process = None
        self._monitor = None
        self._agent = None
        self._agent_buffer = b""
        self._request = 0
        self._checked_to = 0
        self._folder = None

    # Life

    def __enter__(self):
        try:
            self.start()
            if not self._incoming:
                self.wait_boot()
                if self.module and self.load:
                    self.insmod(self.module_params)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    @property
    def _is_test_kernel(self):
        """Not a distribution's, with its modules in a tree."""
        return self.kernel.root is None

    @property
    def _agent_port(self):
        """Where the agent is: a serial port, or "virtio" where the machine has but one."""
        return "virtio" if self.machine == "microvm" else self.kernel.arch.agent

    @property
    def counts_instructions(self):
        """True if the guest's clock counts instructions instead of time."""
        return bool(self._icount)

    @property
    def qmp_socket(self):
        """The path of a second QMP socket, for other programs."""
        return self._folder / "qmp-outside"

    @property
    def console_log(self):
        """The path of what the guest's kernel printed."""
        return self._folder / "console"

    @property
    def alive(self):
        """True while QEMU runs."""
        return self._process is not None and self._process.poll() is None

    def start(self):
        """Start QEMU and connect to it; the guest begins to boot."""
        if self.accel is None:
            self.accel = choose_accel(self.kernel.arch)
        if self.counts_instructions:
            self.accel = accelerators.TCG_SINGLE
        self._folder = Path(tempfile.mkdtemp(prefix="vballoon-"))
        atexit.register(self.close)
        with open(self._folder / "qemu.log", "wb") as log:
            # setpriv: QEMU dies with us even when we are killed
            self._process = subprocess.Popen(
                [tool("setpriv", "util-linux"), "--pdeathsig", "KILL", *self.command_line()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        self.qemu_pid = self._process.pid
        self._monitor = Qmp(self._connect("qmp"), self._limit(60))
        self._agent = self._connect("agent")

    def wait_boot(self):
        """Wait until the guest takes commands, and make its swap ready."""
        limit = time.monotonic() + self._limit(self._boot_timeout)
        self._read_agent(lambda data: b"VBAL-READY\n" in data, limit, "the guest to boot")
        self._agent_buffer = b""
        if self._swap_mib:
            self.check("mkswap /dev/vda >/dev/null && swapon /dev/vda")

    def close(self):
        """Kill QEMU and remove its files."""
        atexit.unregister(self.close)
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
        if self._process is not None:
            self._process.wait()
        for connection in (self._monitor, self._agent):
            if connection is not None:
                connection.close()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def wait_exit(self, timeout=120):
        """Wait until QEMU ended by itself (power off, or -no-reboot) and return its status."""
        try:
            return self._process.wait(self._limit(timeout))
        except subprocess.TimeoutExpired:
            raise self._failure(GuestTimeout, "QEMU did not end") from None

    # QEMU's command line

    def command_line(self):
        """Return the command that starts QEMU."""
        arch = self.kernel.arch
        command = [tool(arch.qemu, arch.qemu_package),
                   "-name", self.name, "-nodefaults", "-no-user-config", "-display", "none",
                   "-no-reboot", "-smp", str(self.smp), "-m", f"{self.mem_bytes}B",
                   "-object", f"{self._mem_backend},id=ram0,size={self.mem_bytes}",
                   *self.accel.arguments()]
        if self.machine == "microvm":
            command += self._microvm_arguments()
        else:
            command += ["-machine", f"{self.machine},memory-backend=ram0"]
        if self.counts_instructions:
            command += ["-icount", self._icount, "-rtc", "clock=vm"]
        command += self._boot_arguments()
        for number, socket_name in enumerate(("qmp", "qmp-outside")):
            command += ["-chardev", f"socket,id=mon{number},server=on,wait=off,"
                        f"path={self._folder / socket_name}", "-mon", f"mon{number},mode=control"]
        command += ["-chardev", f"file,id=console,path={self.console_log}",
                    "-serial", "chardev:console", *self._agent_arguments()]
        command += self._balloon_arguments()
        if self._swap_mib:
            command += self._swap_arguments()
        if self._incoming:
            command += ["-incoming", "defer"]
        return command + self._extra_qemu

    def _boot_arguments(self):
        return ["-kernel", str(self.kernel.image), "-initrd", str(self.image()),
                "-append", self._cmdline()]

    def _microvm_arguments(self):
        legacy = "true" if self._transport == "legacy" else "false"
        return ["-machine", "microvm,rtc=on,memory-backend=ram0",
                "-global", f"virtio-mmio.force-legacy={legacy}"]

    def _virtio(self, device):
        """A virtio device's name on this machine, with the transport's properties."""
        if self.machine == "microvm":
            return f"{device}-device"
        bus = self.kernel.arch.bus
        return f"{device}-{bus}{TRANSPORTS[bus][self._transport]}"

    def _agent_arguments(self):
        arguments = ["-chardev", "socket,id=agent,server=on,wait=off,"
                     f"path={self._folder / 'agent'}"]
        if self._agent_port == "virtio":
            return arguments + ["-device", self._virtio("virtio-serial"), "-device",
                                "virtserialport,chardev=agent,name=vbal.agent"]
        return arguments + ["-serial", "chardev:agent"]

    def _balloon_arguments(self):
        if self._balloon_opts is None:
            return []
        thread = ["-object", f"iothread,id={HINT_THREAD}"] if self._hints() else []
        return [*thread, "-device", self.balloon_device()]

    def _hints(self):
        """True where QEMU wants a thread for free page hints and the options name none."""
        return "free-page-hint=on" in self._balloon_opts and "iothread=" not in self._balloon_opts

    def balloon_device(self):
        """Return the balloon as an argument of -device."""
        thread = f"iothread={HINT_THREAD}" if self._hints() else ""
        return ",".join(filter(None, [self._virtio("virtio-balloon"), f"id={BALLOON_ID}",
                                      self._balloon_opts, thread]))

    def plug_balloon(self):
        """Plug the balloon device in again, after a device_del."""
        driver, *properties = self.balloon_device().split(",")
        arguments = dict(item.split("=", 1) for item in properties)
        for name, value in arguments.items():
            # the one that can be "auto", too: no bool for QEMU
            if value in ("on", "off") and name != "disable-legacy":
                arguments[name] = value == "on"
        self.qmp("device_add", driver=driver, **arguments)

    def add_disk(self, path):
        """Give it a disk with a file's content, before start(); needs virtio_blk in it."""
        self._extra_qemu += self._disk_arguments(path, f"disk{len(self._extra_qemu)}")

    def _disk_arguments(self, path, name):
        return ["-drive", f"if=none,id={name},format=raw,cache=unsafe,file={path}",
                "-device", f"{self._virtio('virtio-blk')},drive={name}"]

    def _swap_arguments(self):
        disk = self._folder / "swap"
        with open(disk, "wb") as stream:
            stream.truncate(self._swap_mib * MIB)
        return self._disk_arguments(disk, "swap")

    def _cmdline(self):
        arch = self.kernel.arch
        words = [f"console={arch.console}", BASE_CMDLINE, arch.cmdline,
                 f"vbal.agent={self._agent_port}"]
        if self.machine == "microvm" and not self.accel.is_kvm:
            words.append(GIVEN_CLOCK)
        if self._is_test_kernel:
            words += [word for word in TEST_KERNEL_CMDLINE
                      if word.partition("=")[0] + "=" not in self._append]
        return " ".join(words + [self._append])

    def image(self):
        """Return the path of its initramfs, built if need be."""
        bus = "mmio" if self.machine == "microvm" else self.kernel.arch.bus
        # channel I/O is part of its kernels
        boot = [] if bus == "ccw" else [f"virtio_{bus}"]
        if self._agent_port == "virtio":
            boot.append("virtio_console")
        if self._swap_mib:
            boot.append("virtio_blk")
        boot_files = self.kernel.module_files(boot + self._extra_modules)
        late_files = self.kernel.module_files(["virtio_balloon"])[-1:]
        if self._module_path:
            late_files.append(Path(self._module_path))
        elif self.module == "vballoon":
            late_files.append(build_module(self.kernel))
        hold_reports = build_hold_reports(self.kernel)
        if hold_reports:
            late_files.append(hold_reports)
        return build_image(boot_files, late_files, self._files, self.kernel)

    # Commands in the guest

    def begin(self, command, timeout=60):
        """Start a shell command, one at a time; finish() has its result.

        For commands after which the guest does not answer for a while, or never.
        """
        seconds = int(self._limit(timeout))
        self._request += 1
        code = base64.b64encode(command.encode()).decode()
        self._agent.sendall(f"{self._request} {seconds} {code}\n".encode())
        return Request(self._request, command, seconds, time.monotonic())

    def finish(self, request):
        """Wait for a command's end; return its return code and its output."""
        marker = f"VBAL-{request.number} ".encode()
        # the guest ends the command itself; longer than that means it is stuck
        limit = request.started + request.seconds + self._limit(60)
        what = f"the command '{request.command}'"
        self._read_agent(lambda data: b"\n" in data.partition(marker)[2], limit, what)
        header, _, self._agent_buffer = \
            self._agent_buffer.partition(marker)[2].partition(b"\n")
        returncode, length = (int(word) for word in header.split())
        self._read_agent(lambda data: len(data) >= length, limit, what)
        output = self._agent_buffer[:length].decode(errors="replace")
        self._agent_buffer = self._agent_buffer[length:]
        if returncode in (137, 143) and time.monotonic() - request.started >= request.seconds:
            raise self._failure(GuestTimeout,
                                f"{what} ran for more than {request.seconds} s: {output}")
        return returncode, output

    def run(self, command, timeout=60):
        """Run a shell command in the guest; return its return code and its output."""
        return self.finish(self.begin(command, timeout))

    def check(self, command, timeout=60):
        """Run a shell command that must succeed; return its output."""
        returncode, output = self.run(command, timeout)
        if returncode:
            raise CommandFailed(command, returncode, output)
        return output

    def insmod(self, params="", module=None, timeout=120):
        """Load the module."""
        self.check(f"insmod /modules/{module or self.module}.ko {params}", timeout)

    def rmmod(self, module=None, timeout=300):
        """Unload the module."""
        self.check(f"rmmod {module or self.module}", timeout)

    def meminfo(self):
        """Return /proc/meminfo, in kB."""
        return {name.rstrip(":"): int(value) for name, value, *_ in
                map(str.split, self.check("cat /proc/meminfo").splitlines())}

    def kernel_threads_ns(self):
        """Return how long the guest's kernel threads have run, in ns.

        With -icount shift=0 an instruction takes a nanosecond of the guest's time: then these
        are instructions, however busy the host is.
        """
        # who was started by a program has a command line
        return sum(map(int, self.check(
            "for p in /proc/[0-9]*; do c=; read -r c <$p/cmdline; "
            "[ -n \"$c\" ] || { read -r t rest <$p/schedstat && echo $t; }; "
            "done 2>/dev/null; true").split()))

    def page_bytes(self):
        """Return the size of the guest's pages."""
        size = self.check("grep -m 1 ^KernelPageSize: /proc/self/smaps").split()
        return int(size[1]) * 1024

    def free_kb(self):
        """Return the free memory: MemFree, and what lies free in the lists of the CPUs.

        From one file, because pages go from the lists to the zones at any time.
        """
        free = re.findall(r"^\s+(?:nr_free_pages|count:) +(\d+)$",
                          self.check("cat /proc/zoneinfo"), re.MULTILINE)
        return sum(map(int, free)) * self.page_bytes() // 1024

    @property
    def quarantine_kb(self):
        """What of the freed memory KASAN may keep: a 32nd of all, in kernels that have it."""
        return self.mem_bytes // 32 // 1024 if self._is_test_kernel else 0

    def vmstat(self):
        """Return /proc/vmstat."""
        return {name: int(value) for name, value in
                map(str.split, self.check("cat /proc/vmstat").splitlines())}

    def dmesg(self):
        """Return the kernel's log."""
        return self.check("dmesg")

    def scan_for_leaks(self):
        """Let kmemleak (append="kmemleak=on") look; what it finds fails check_clean()."""
        self.check(LEAKS, 300)

    def dirty(self, mib, timeout=300):
        """Touch that much memory and free it again, so that the host has it resident."""
        # a kernel that clears pages when they are allocated touches them, and is ten times
        # faster under emulation than writing them from user space
        clears = "init_on_alloc=0" not in self._append
        fill = f"fallocate -l {mib}M /mnt/fill" if clears else \
            f"dd if=/dev/zero of=/mnt/fill bs=1M count={mib} 2>/dev/null"
        options = f"size={mib + 16}M"
        self.check(f"mount -t tmpfs -o {options},huge=always dirty /mnt 2>/dev/null || "
                   f"mount -t tmpfs -o {options} dirty /mnt; {fill} && umount /mnt", timeout)

    # The balloon

    def hold_reports(self):
        """Let free page reporting find nothing, whichever driver it works for.

        It finds blocks of an order and above, and no block has this one. To be called after
        the driver was loaded, which may set the order.
        """
        self.check(f"echo {NO_BLOCK_ORDER} >{REPORTING_ORDER} || "
                   "grep -q ^hold_reports /proc/modules || insmod /modules/hold_reports.ko")

    def allow_reports(self, order=9):
        """Let free page reporting find blocks of that order and above, of 2 MiB if not told."""
        self.check(f"echo {order} >{REPORTING_ORDER}")

    def qmp(self, command, timeout=60, **arguments):
        """Run a QMP command; underscores in argument names stand for dashes."""
        arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
        return self._talk(self._monitor.command, command, arguments, self._limit(timeout))

    def events(self):
        """Return all QMP events so far."""
        return self._talk(self._monitor.poll_events)

    def wait_event(self, name, timeout=120, since=0):
        """Wait for a QMP event; `since` is a number of earlier events to pass over."""
        return self._talk(self._monitor.wait_event, name, self._limit(timeout), since)

    def _talk(self, function, *arguments):
        try:
            return function(*arguments)
        except GuestTimeout as error:
            raise self._failure(GuestTimeout, str(error)) from error

    def balloon(self, target_bytes):
        """Ask for a guest of that size (QEMU's meaning: the size that is left to it)."""
        self.qmp("balloon", value=target_bytes)

    def inflate(self, inflated_bytes):
        """Ask for a balloon of that size."""
        self.balloon(self.mem_bytes - inflated_bytes)

    def actual_bytes(self):
        """Return the guest's size as the host knows it (RAM less balloon)."""
        return self.qmp("query-balloon")["actual"]

    def inflated_bytes(self):
        """Return the balloon's size as the host knows it."""
        return self.mem_bytes - self.actual_bytes()

    def wait_actual(self, size_bytes, timeout=120):
        """Wait until the guest has exactly that size."""
        self.wait_for(lambda: self.actual_bytes() == size_bytes, timeout,
                      lambda: f"actual to become {size_bytes} (it is {self.actual_bytes()})")

    def wait_inflated(self, inflated_bytes, timeout=120):
        """Wait until the balloon has exactly that size."""
        self.wait_actual(self.mem_bytes - inflated_bytes, timeout)

    def poll_stats(self, seconds):
        """Make QEMU ask for statistics every so many seconds (0: not at all)."""
        self.qmp("qom-set", path=BALLOON_PATH, property="guest-stats-polling-interval",
                 value=seconds)

    def guest_stats(self):
        """Return QEMU's guest-stats: its own dictionary, stats and last-update."""
        return self.qmp("qom-get", path=BALLOON_PATH, property="guest-stats")

    def fresh_stats(self, timeout=120):
        """Return statistics that the guest sent after this call (to the second)."""
        self.poll_stats(1)
        # a report of the next second may have been asked for already
        since = int(time.time()) + 1
        self.wait_for(lambda: self.guest_stats()["last-update"] > since, timeout,
                      "new statistics")
        return self.guest_stats()["stats"]

    # Migration

    def migrate_to(self, target, timeout=600, stopped=False, postcopy=None):
        """Move the guest to another Guest made with incoming=True.

        A stopped one stays stopped. With postcopy it runs there before its memory has come;
        postcopy() is called then.
        """
        uri = f"unix:{target._folder / 'migration'}"
        if postcopy:
            for one in (self, target):
                one.qmp("migrate-set-capabilities",
                        capabilities=[{"capability": "postcopy-ram", "state": True}])
        target.qmp("migrate-incoming", uri=uri)
        self.qmp("migrate", uri=uri)
        if postcopy:
            self.wait_for(lambda: self._migration_is("active"), timeout, "the migration to begin")
            self.qmp("migrate-start-postcopy")
            target._wait_running(timeout)
            postcopy()
        self.wait_for(lambda: self._migration_is("completed"), timeout, "the migration to end")
        if stopped:
            target.wait_for(lambda: target.qmp("query-status")["status"] == "paused", timeout,
                            "the migrated guest to stand still")
        else:
            target._wait_running(timeout)
        target._request = self._request

    def _migration_is(self, wanted):
        status = self.qmp("query-migrate")
        if status["status"] in ("failed", "cancelled"):
            raise self._failure(GuestError, f"migration {status['status']}: "
                                f"{status.get('error-desc', 'QEMU says no more')}")
        return status["status"] == wanted

    def _wait_running(self, timeout):
        self.wait_for(lambda: self.qmp("query-status")["running"], timeout,
                      "the migrated guest to run")

    def snapshot(self, verb, name="vballoon", timeout=300):
        """Save (verb "save") or load ("load") all of the machine, which is stopped for it.

        It needs a disk that can hold it.
        """
        self.qmp("stop")
        said = self.qmp("human-monitor-command", timeout, command_line=f"{verb}vm {name}")
        if said:
            raise self._failure(GuestError, f"{verb}vm: {said}")

    # The host's view

    def rss_kb(self):
        """Return the resident memory of the whole QEMU process."""
        text = Path(f"/proc/{self.qemu_pid}/status").read_text("ascii")
        return int(re.search(r"^VmRSS:\s+(\d+)", text, re.MULTILINE)[1])

    def ram_rss_kb(self):
        """Return how much of the guest's RAM is resident: QEMU's own memory left out."""
        size_kb = None
        for line in Path(f"/proc/{self.qemu_pid}/smaps").read_text("utf-8").splitlines():
            words = line.split()
            if words[0] == "Size:":
                size_kb = int(words[1])
            elif words[0] == "Rss:" and size_kb == self.mem_bytes // 1024:
                return int(words[1])
        raise GuestError("the guest's RAM is not among QEMU's mappings")

    def console(self):
        """Return what the guest's kernel printed."""
        try:
            return self.console_log.read_text("utf-8", errors="replace").replace("\r", "")
        except OSError:
            return ""

    def console_tail(self):
        """Return the console's last lines and what QEMU itself said."""
        lines = self.console().splitlines()[-CONSOLE_TAIL_LINES:]
        with contextlib.suppress(OSError):
            lines += (self._folder / "qemu.log").read_text(errors="replace").splitlines()
        return "\n".join(lines)

    def check_clean(self, allow=None):
        """Raise if the kernel complained (a crash, a warning) since the last such call.

        allow is a regular expression for lines that are expected.
        """
        text = self.console()[self._checked_to:]
        self._checked_to += len(text)
        lines = text.splitlines()
        for number, line in enumerate(lines):
            if TROUBLE.search(line) and not (allow and re.search(allow, line)):
                excerpt = "\n".join(lines[max(0, number - 5):number + CONSOLE_TAIL_LINES])
                raise GuestError(f"the guest's kernel complained:\n{excerpt}")

    # Waiting

    def wait_for(self, condition, timeout=120, what="a condition", interval=0.2):
        """Poll until the condition holds; what may be a function that words the failure."""
        limit = time.monotonic() + self._limit(timeout)
        while not condition():
            if time.monotonic() > limit:
                text = what() if callable(what) else what
                raise self._failure(GuestTimeout, f"waited too long for {text}")
            time.sleep(interval)

    def _limit(self, seconds):
        return seconds * self.patience

    def _connect(self, name):
        limit = time.monotonic() + self._limit(60)
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._folder / name))
                return connection
            except OSError as error:
                connection.close()
                if not self.alive or time.monotonic() > limit:
                    raise self._failure(GuestError, f"QEMU did not start ({error})") from error
            time.sleep(0.05)

    def _read_agent(self, enough, limit, what):
        while not enough(self._agent_buffer):
            left = limit - time.monotonic()
            if left <= 0:
                raise self._failure(GuestTimeout, f"waited too long for {what}")
            self._agent.settimeout(min(left, 5))
            try:
                data = self._agent.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError as error:
                raise self._failure(GuestError, f"lost the guest ({error}) in {what}") from error
            if not data:
                raise self._failure(GuestError, f"QEMU ended while waiting for {what}")
            self._agent_buffer += data

    def _failure(self, kind, message):
        return kind(f"{message}\n--- end of the console of {self.name} ---\n"
                    f"{self.console_tail()}\n---")
