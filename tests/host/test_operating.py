# SPDX-License-Identifier: GPL-2.0-only
"""docs/operating.md: its blocks for the host, on a real QEMU and libvirt.

Those for the guest are run by tests/guest/test_operating.py.
"""

import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import guide
import pytest
import yaml
from bare_qemu import BareQemu
from conftest import BALLOONCTL, ROOT
from private_libvirt import DomainGuest, Libvirt
from test_libvirt_still import GOOD, domain
from vbalguest.cache import cache_dir, locked

pytestmark = pytest.mark.slow
PLAIN = "<memballoon model='virtio'/>"
RUN_S = 300
# as KubeVirt writes it
KUBEVIRT_XML = ('<domain><devices><memballoon model="virtio-non-transitional" '
                'freePageReporting="on"><stats period="10"></stats></memballoon></devices>'
                '</domain>')
HOOKING = '''"""A stand-in for vdsm's module."""
import sys
from xml.dom import minidom


def read_domxml():
    return minidom.parse(sys.stdin)


def write_domxml(domain):
    sys.stdout.write(domain.documentElement.toxml())
'''
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def tried(*kinds):
    """Run a test for each block of these kinds; that there is none is a failure."""
    found = guide.blocks(*kinds)
    assert {block.kind for block in found} == set(kinds)
    return pytest.mark.parametrize("block", found, ids=str)


# Nothing in the guide goes untried unsaid

def test_each_block_has_a_kind_that_is_tried():
    kinds = {block.kind for block in guide.blocks()}
    assert kinds == {*guide.HOST_KINDS, *guide.GUEST_KINDS, guide.UNTRIED}


def test_what_is_not_tried_says_so():
    for block in guide.blocks():
        assert ("*Not tried here*" in block.before) == (block.kind == guide.UNTRIED), block
    untried = guide.blocks(guide.UNTRIED)
    # once more where the guide explains the mark
    assert guide.TEXT.count("*Not tried here*") == len(untried) + 1
    for block in untried:
        section = guide.TEXT[:guide.TEXT.index(block.text)].rpartition("\n### ")[2].split("\n")[0]
        assert section in guide.TEXT.partition("\n## ")[0], section


def test_commands_between_the_lines_stand_in_a_block_that_is_tried():
    lines = {line for block in guide.blocks() if block.kind != guide.UNTRIED
             for line in block.text.splitlines()}
    assert set(guide.inline_commands()) - lines == {"virsh edit web"}


def test_references_lead_somewhere():
    for text, target in re.findall(r"\[([^]]+)\]\(([^)]+)\)", guide.TEXT):
        file, _, anchor = target.partition("#")
        page = (guide.PATH.parent / file).read_text("utf-8") if file else guide.TEXT
        headings = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
                    for heading in re.findall(r"^#+ (.*)$", page, re.MULTILINE)}
        assert not anchor or anchor in headings, f"{text}: {target}"


def test_states_are_those_of_the_driver():
    table = guide.TEXT[guide.TEXT.index("\n## States"):guide.TEXT.index("\n## The device")]
    cells = re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE)
    named = set(re.findall(r"`([\w-]+)`", " ".join(cells)))
    documented = (ROOT / "docs/guard.md").read_text("utf-8").partition("## States")[2]
    assert named == set(re.findall(r"^\| `([\w-]+)` \|", documented, re.MULTILINE))


# QEMU

@tried("qemu")
def test_qemu_takes_the_line(block, balloonctl, tmp_path):
    text = block.text.replace("/run/qemu/", f"{tmp_path}/")
    path = tmp_path / "qmp"
    with BareQemu(path, *shlex.split(text), machine=("-machine", "pc", "-accel", "tcg",
                                                     "-m", "128")):
        result = balloonctl("doctor", "--json", path)
        also = [balloonctl("status", socket).status for socket in tmp_path.glob("web.qmp*")]
    codes = [finding["code"] for finding in result.json[0]["findings"]]
    usual = [] if "polling" in text else ["no-statistics"]
    assert (result.status, codes) == (0, ["paused", *usual])
    assert also == [0] * text.count("-qmp ")


# libvirt

@pytest.fixture(scope="module")
def libvirt(tmp_path_factory):
    """A libvirtd of this file's own."""
    with Libvirt(tmp_path_factory.mktemp("lv")) as daemon:
        yield daemon


def codes_of(libvirt, balloonctl):
    """Return the status and the codes of what the doctor finds in the domain web."""
    result = balloonctl("doctor", "--json", "--connect", libvirt.uri, "libvirt:web")
    guest, = result.json
    return result.status, [finding["code"] for finding in guest.get("findings", ())]


def start_again(libvirt):
    """Shut the domain down and start it, as the guide has it."""
    libvirt.virsh("destroy", "web")
    libvirt.virsh("start", "--paused", "web")


def run_block(block, folder, libvirt):
    """Run a block as it stands, but for where QEMU's sockets are; every line must succeed."""
    binaries = folder / "bin"
    binaries.mkdir()
    (binaries / "balloonctl").symlink_to(BALLOONCTL)
    result = subprocess.run(
        ["sh", "-e", "-x", "-c", block.text.replace("/run/qemu/", f"{folder}/")], cwd=folder,
        env=os.environ | {"PATH": f"{binaries}:{os.environ['PATH']}",
                          "LIBVIRT_DEFAULT_URI": libvirt.uri},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=RUN_S, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@root_only
@tried("xml libvirt")
def test_libvirt_takes_the_element(block, libvirt, balloonctl, tmp_path):
    with domain(libvirt, tmp_path, block.text, name="web"):
        assert codes_of(libvirt, balloonctl) == (0, ["paused"])


@root_only
@tried("xml libvirt no-balloon")
def test_libvirt_takes_the_element_of_a_fixed_size(block, libvirt, balloonctl, tmp_path):
    with domain(libvirt, tmp_path, block.text, name="web"):
        assert codes_of(libvirt, balloonctl) == (4, [])


@root_only
@tried("sh host")
def test_host_commands(block, libvirt, balloonctl, tmp_path):
    """On a domain and a QEMU that stand still; one that is to be changed needs the change."""
    changes = "autodeflate" in block.text
    qemu, = (shlex.split(found.text.splitlines()[0]) for found in guide.blocks("qemu")
             if "/run/qemu/web.qmp" in found.text)
    with domain(libvirt, tmp_path, PLAIN if changes else GOOD, name="web"), \
            BareQemu(tmp_path / "web.qmp", *qemu):
        run_block(block, tmp_path, libvirt)
        if changes:
            assert codes_of(libvirt, balloonctl)[1] == ["no-reporting", "no-deflate-on-oom",
                                                        "paused"]
            start_again(libvirt)
        # nobody lives in it: once it runs it says nothing
        runs = "virsh resume" in block.text
        assert codes_of(libvirt, balloonctl) == ((7, ["silent"]) if runs else (0, ["paused"]))


@root_only
def test_host_commands_that_need_a_driver(libvirt, tmp_path):
    with DomainGuest(libvirt, GOOD, mem_mib=512, smp=1, name="web"):
        for number, block in enumerate(guide.blocks("sh host driver")):
            folder = tmp_path / str(number)
            folder.mkdir()
            run_block(block, folder, libvirt)
            # whatever it asked for, it ends with an empty balloon
            assert "actual 524288\n" in libvirt.virsh("dommemstat", "web")


@root_only
@tried("python vdsm-hook")
def test_vdsm_hook(block, libvirt, balloonctl, tmp_path):
    (tmp_path / "hooking.py").write_text(HOOKING, "ascii")
    hook = tmp_path / "hook.py"
    hook.write_text(block.text, "ascii")
    with domain(libvirt, tmp_path, PLAIN, name="web"):
        changed = subprocess.run([sys.executable, hook], text=True, capture_output=True, check=True,
                                 input=libvirt.virsh("dumpxml", "--inactive", "web")).stdout
        (tmp_path / "changed.xml").write_text(changed, "utf-8")
        libvirt.virsh("define", tmp_path / "changed.xml")
        start_again(libvirt)
        assert codes_of(libvirt, balloonctl) == (0, ["paused", "no-statistics"])


@root_only
def test_kubevirt_sidecar(libvirt, balloonctl, tmp_path):
    configuration, template = (yaml.safe_load(block.text)
                               for block in guide.blocks("yaml kubevirt"))
    sidecar, = yaml.safe_load(template["metadata"]["annotations"]["hooks.kubevirt.io/hookSidecars"])
    assert sidecar["configMap"]["name"] == configuration["metadata"]["name"]
    script = tmp_path / "onDefineDomain"
    script.write_text(configuration["data"][sidecar["configMap"]["key"]], "ascii")
    script.chmod(0o755)
    changed = subprocess.run([script, "--vmi", "{}", "--domain", KUBEVIRT_XML], text=True,
                             capture_output=True, check=True).stdout
    memballoon = re.search(r"<memballoon.*</memballoon>", changed)[0]
    with domain(libvirt, tmp_path, memballoon, name="web"):
        assert codes_of(libvirt, balloonctl) == (0, ["paused"])


# Fleets

def cloud_init():
    """Return the folder with cloud-init's modules: installed it would run at the next boot."""
    folder = cache_dir("cloud-init")
    tree = folder / f"tree-{platform.freedesktop_os_release()['VERSION_CODENAME']}"
    with locked(folder / "lock"):
        if not tree.exists():
            with tempfile.TemporaryDirectory(dir=folder) as new:
                subprocess.run(["sh", "-c", "apt-get -q download cloud-init || "
                                "{ apt-get -q update && apt-get -q download cloud-init; }"],
                               cwd=new, check=True, capture_output=True)
                package, = Path(new).glob("*.deb")
                subprocess.run(["dpkg-deb", "-x", package, Path(new) / "tree"], check=True)
                (Path(new) / "tree").rename(tree)
    return tree / "usr/lib/python3/dist-packages"


def check_cloud_config(text, folder):
    """Return whether cloud-init finds it valid, and what it says."""
    (folder / "user-data").write_text(text, "ascii")
    result = subprocess.run(
        [sys.executable, "-m", "cloudinit.cmd.main", "schema", "--config-file",
         folder / "user-data"], env=os.environ | {"PYTHONPATH": str(cloud_init())},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return result.returncode == 0, result.stdout


@tried("yaml cloud-init")
def test_cloud_config(block, tmp_path):
    valid, said = check_cloud_config(block.text, tmp_path)
    assert valid, said
    valid, said = check_cloud_config(block.text.replace("runcmd:\n", "runcmd: 1\nx:\n"), tmp_path)
    assert not valid, said


def check_playbook(text, folder):
    """Return whether Ansible finds it valid, and what it says."""
    (folder / "playbook.yml").write_text(text, "ascii")
    (folder / "ansible.cfg").touch()
    result = subprocess.run(["ansible-playbook", "-i", "web,", "--syntax-check",
                             folder / "playbook.yml"], stdout=subprocess.PIPE, text=True,
                            stderr=subprocess.STDOUT, check=False,
                            env=os.environ | {"LC_ALL": "C.UTF-8",
                                              "ANSIBLE_CONFIG": str(folder / "ansible.cfg"),
                                              "ANSIBLE_LOCAL_TEMP": str(folder / "ansible"),
                                              "ANSIBLE_HOME": str(folder / "ansible")})
    return result.returncode == 0, result.stdout


@tried("yaml ansible")
def test_playbook(block, tmp_path):
    valid, said = check_playbook(block.text, tmp_path)
    assert valid, said
    valid, said = check_playbook(block.text.replace("ansible.builtin.apt:",
                                                    "ansible.builtin.aptitude:"), tmp_path)
    assert not valid, said


def test_fleets_run_what_is_tried_in_a_guest():
    tried_lines = {line for block in guide.blocks("sh guest") for line in block.text.splitlines()}
    play, = yaml.safe_load(guide.blocks("yaml ansible")[0].text)
    user_data = yaml.safe_load(guide.blocks("yaml cloud-init")[0].text)
    # what is a line for a shell installs the package
    commands = [" ".join(words) for words in user_data["runcmd"] if isinstance(words, list)]
    commands += [task["ansible.builtin.command"] for task in play["tasks"]
                 if "ansible.builtin.command" in task]
    assert len(commands) == 2
    assert set(commands) <= tried_lines


@tried("promql")
def test_queries(block, tmp_path):
    queries = block.text.splitlines()
    rules = tmp_path / "rules.yml"
    alerts = [{"alert": f"A{number}", "expr": query} for number, query in enumerate(queries)]
    rules.write_text(yaml.safe_dump({"groups": [{"name": "guide", "rules": alerts}]}), "ascii")
    said = subprocess.run(["promtool", "check", "rules", rules], stdout=subprocess.PIPE, text=True,
                          stderr=subprocess.STDOUT, check=False).stdout
    assert f"{len(queries)} rules found" in said, said
    documented = (ROOT / "docs/metrics.md").read_text("utf-8")
    for name in re.findall(r"vballoon_\w+", block.text):
        assert f"| `{name}` |" in documented
