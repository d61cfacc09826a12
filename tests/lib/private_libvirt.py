# SPDX-License-Identifier: GPL-2.0-only
"""libvirt without a system around it: a libvirtd of our own that leaves nothing behind.

The daemon runs in namespaces of its own. What it would write below /etc, /run and /var goes
to memory; when its first process ends, so do the guests that it started.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from vbalguest import Guest, Missing

START_SECONDS = 180
# daemons are out of the way of people who became root by su
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"

LIBVIRTD_CONF = """\
unix_sock_dir = "{folder}"
auth_unix_ro = "none"
auth_unix_rw = "none"
log_outputs = "2:stderr"
"""

# root needs no users of libvirt's, and the machine's cgroups are not ours
QEMU_CONF = """\
user = "root"
group = "root"
security_driver = "none"
namespaces = []
cgroup_controllers = []
stdio_handler = "file"
remember_owner = 0
dynamic_ownership = 0
"""

# libvirtd is not the first process: that one has to collect QEMU's orphans. It looks the user
# up that packages compile in, even if the configuration names another.
INIT = """\
set -e
folder=$1
mount -t tmpfs private /var
mkdir /var/lib /var/cache /var/log
mount -t tmpfs private /run
ln -s /run /var/run
mount -t tmpfs private /etc/libvirt
cp "$folder/qemu.conf" /etc/libvirt
for file in passwd group; do
    cp "/etc/$file" "$folder/$file"
done
echo 'libvirt-qemu:x:64055:64055::/:/bin/false' >>"$folder/passwd"
echo 'libvirt-qemu:x:64055:' >>"$folder/group"
for file in passwd group; do
    mount --bind "$folder/$file" "/etc/$file"
done
# a file named again asks for another one; the guests do not notice
while :; do
    rm -f "$folder/again"
    libvirtd --config "$folder/libvirtd.conf" --pid-file "$folder/pid" &
    wait $! || true
    [ -e "$folder/again" ] || break
done
"""

DOMAIN = """\
<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{mem_mib}</memory>
  <vcpu>{smp}</vcpu>
  <cpu mode='custom'><model>qemu64</model></cpu>
  <os>
    <type arch='x86_64' machine='pc'>hvm</type>
    <kernel>{kernel}</kernel>
    <initrd>{image}</initrd>
    <cmdline>{cmdline}</cmdline>
  </os>
  <features><acpi/></features>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>{qemu}</emulator>
    <controller type='usb' model='none'/>
    <serial type='file'><source path='{console}'/><target port='0'/></serial>
    <serial type='unix'>
      <source mode='bind' path='{agent}'/>
      <target port='1'/>
    </serial>
    {memballoon}
  </devices>
</domain>
"""


def find(program, package):
    """Return a program's path or say which package has it."""
    path = shutil.which(program, path=PATH)
    if path is None:
        raise Missing(f"{program} (Debian package {package})", "host")
    return path


def children(pid):
    """Return the processes that a process has started."""
    return [int(word) for word in
            Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()]


def is_daemon(pid):
    """True for libvirtd itself; its guests, orphans of it, have the same parent."""
    return Path(f"/proc/{pid}/comm").read_text("ascii").strip() == "libvirtd"


class Libvirt:
    """The daemon; virsh() talks to it. A context manager."""

    def __init__(self, folder):
        self._folder = Path(folder)
        self._process = None
        self.uri = f"qemu+unix:///system?socket={self._folder}/libvirt-sock"

    def __enter__(self):
        find("libvirtd", "libvirt-daemon")
        find("virsh", "libvirt-clients")
        (self._folder / "libvirtd.conf").write_text(
            LIBVIRTD_CONF.format(folder=self._folder), "ascii")
        (self._folder / "qemu.conf").write_text(QEMU_CONF, "ascii")
        with open(self._folder / "log", "wb") as log:
            self._process = subprocess.Popen(
                [find("setpriv", "util-linux"), "--pdeathsig", "KILL",
                 "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
                 "sh", "-c", INIT, "libvirt", self._folder],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=os.environ | {"PATH": PATH})
        try:
            self._wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self._process.kill()
        self._process.wait()

    def restart(self):
        """End libvirtd and have another one started; its guests go on."""
        (self._folder / "again").touch()
        shell, = children(self._process.pid)
        daemon, = (pid for pid in children(shell) if is_daemon(pid))
        os.kill(daemon, signal.SIGTERM)
        limit = time.monotonic() + START_SECONDS
        while (self._folder / "again").exists():
            assert time.monotonic() < limit, f"libvirtd does not start again: {self._log()}"
            time.sleep(0.2)
        self._wait_ready()

    def virsh(self, *arguments):
        """Run virsh and return what it prints."""
        result = self._virsh(*arguments)
        assert result.returncode == 0, f"virsh {arguments}: {result.stderr}\n{self._log()}"
        return result.stdout

    def _virsh(self, *arguments):
        return subprocess.run(["virsh", "--connect", self.uri, *map(str, arguments)],
                              capture_output=True, text=True, check=False)

    def _wait_ready(self):
        limit = time.monotonic() + START_SECONDS
        while self._virsh("version").returncode:
            assert self._process.poll() is None, f"libvirtd ended: {self._log()}"
            assert time.monotonic() < limit, f"libvirtd does not answer: {self._log()}"
            time.sleep(0.2)

    def _log(self):
        return (self._folder / "log").read_text("utf-8", errors="replace")


class DomainGuest(Guest):
    """A guest of the guest library that libvirt starts."""

    def __init__(self, libvirt, memballoon, **options):
        super().__init__(**options)
        self._libvirt = libvirt
        self._memballoon = memballoon

    def start(self):
        """Have libvirt start the guest, and connect to its agent."""
        folder = self._folder = self._libvirt._folder / self.name
        folder.mkdir()
        # the daemon has another /var, where the library keeps its images
        image = shutil.copy(self.image(), folder)
        definition = folder / "domain.xml"
        definition.write_text(DOMAIN.format(
            name=self.name, mem_mib=self.mem_mib, smp=self.smp, kernel=self.kernel.image,
            image=image, cmdline=self._cmdline(), console=self.console_log,
            qemu=find("qemu-system-x86_64", "qemu-system-x86"), agent=folder / "agent",
            memballoon=self._memballoon), "ascii")
        self._libvirt.virsh("define", definition)
        self._libvirt.virsh("start", self.name)
        self._agent = socket.socket(socket.AF_UNIX)
        self._agent.connect(str(folder / "agent"))

    def close(self):
        """Have libvirt end the guest."""
        self._libvirt._virsh("destroy", self.name)
        self._libvirt._virsh("undefine", self.name)
        super().close()
