# SPDX-License-Identifier: GPL-2.0-only
"""Build vballoon_kunit.ko, run it in a test kernel under QEMU, judge its output."""

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from vbalguest import Guest, GuestError
from vbalguest.cache import hash_of

REPO = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ.get("VBALLOON_CACHE", "/var/cache/vballoon"))
TESTS = REPO / "tests/kunit"
LIMIT_SECONDS = 1500
# Suites with a file of their own; the others are in device_kunit.c.
FILE_SUITES = ("guard", "pages", "files", "faults", "life", "simulate",
               "property")
# Run by tests/run/simulate; here only if they are asked for.
OTHERS_SUITES = ("simulate",)
# Suites in guests of their own, with options for the kernel: hostile takes half of the time, most
# of it with hosts that are silent; poison is about freed pages that the kernel poisons.
OWN_GUEST = {"hostile": "", "life": "", "poison": "page_poison=1"}
# The test kernels (see tests/run/testkernel) that the suites can run in.
KERNELS = ("debug", "rt", "kcsan")
# What a kernel prints when something is wrong, besides a failed test.
TROUBLE = re.compile(r"WARNING: |BUG: |KASAN|UBSAN: |Oops|general protection fault|"
                     r"Kernel panic|circular locking|lock held|inconsistent lock state|"
                     r"scheduling while atomic|soft lockup|hung_task|blocked for more than|"
                     r"detected stalls|stall on CPU|page allocation failure|suspicious RCU|"
                     r"Bad page state|workqueue lockup|SLUB: Unable to allocate|"
                     r"pagealloc: |list_(add|del) corruption|refcount_t: |unreferenced object|"
                     r"Disabling lock debugging|turning off the locking correctness validator")
# A result; those of a case with parameters are indented by four more.
RESULT = re.compile(r"^(?P<indent> *)(?P<verdict>ok|not ok) \d+ -? ?(?P<name>.*)$")
SUBTEST = re.compile(r"^(?P<indent> *)# Subtest: (?P<name>.*)$")


@dataclass
class Outcome:
    """What a run showed."""

    passed: list = field(default_factory=list)
    failed: list = field(default_factory=list)
    skipped: list = field(default_factory=list)  # of (name, reason)
    trouble: list = field(default_factory=list)

    def add(self, other):
        """Add what another run showed."""
        for name in vars(self):
            getattr(self, name).extend(getattr(other, name))

    @property
    def good(self):
        return bool(self.passed) and not self.failed and not self.trouble


def add_kernel_option(parser, names):
    """Add --kernel, whose default is $KERNEL; argparse does not check defaults."""
    default = os.environ.get("KERNEL") or names[0]
    if default not in names:
        parser.error(f"KERNEL={default}: must be one of {', '.join(names)}")
    parser.add_argument("--kernel", choices=names, default=default)


def suites():
    """Return suite -> number of its cases, counted in the sources."""
    counts = {name: len(re.findall(r"\bKUNIT_CASE(?:_PARAM)?\(",
                                   (TESTS / f"{name}_kunit.c").read_text("utf-8")))
              for name in FILE_SUITES}
    text = (TESTS / "device_kunit.c").read_text("utf-8")
    for name, body in re.findall(r"kunit_case (\w+)_test_cases\[\] = \{(.*?)\n\};", text, re.S):
        counts[name] = len(re.findall(r"\bKUNIT_CASE(?:_PARAM)?\(", body))
    return counts


def select(pattern):
    """Return the suites whose name contains one of the pattern's words; all for none."""
    names = suites()
    if not pattern:
        return {name: count for name, count in names.items() if name not in OTHERS_SUITES}
    chosen = {name: count for name, count in names.items()
              if any(word in f"vballoon_{name}" for word in pattern.replace(",", " ").split())}
    if not chosen:
        raise GuestError(f"no suite matches '{pattern}'; there are: {', '.join(names)}")
    return chosen


def parts(chosen):
    """Split suites among guests that run at the same time."""
    together = {name: count for name, count in chosen.items() if name not in OWN_GUEST}
    alone = [{name: chosen[name]} for name in OWN_GUEST if name in chosen]
    return [part for part in (together, *alone) if part]


def owner(part):
    """Return the name of the suite that has this guest for itself, or nothing."""
    return next((name for name in part if name in OWN_GUEST), "")


def test_kernel(flavour):
    """Return the build folder of a test kernel, built if need be."""
    result = subprocess.run([REPO / "tests/run/testkernel", flavour], stdout=subprocess.PIPE,
                            text=True, check=False)
    if result.returncode:
        raise GuestError(f"no {flavour} kernel to test with")
    return Path(result.stdout.strip())


def build(kernel_build, part, make_options=(), room=None):
    """Build the module in a private copy of the sources; return its path.

    room names the copy, for who builds beside the suites.
    """
    # two clones may build at once, and each wants its own sources
    tree = CACHE / f"kunit-{hash_of([REPO, room or owner(part), kernel_build.name])}"
    for source in [REPO / "Kbuild", REPO / "VERSION", *REPO.glob("balloon_*.c"),
                   *REPO.glob("include/*.h"), *TESTS.glob("*.[ch]")]:
        target = tree / source.relative_to(REPO)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = source.read_bytes()
        if not target.exists() or target.read_bytes() != text:
            target.write_bytes(text)
    for gone in tree.rglob("*.[ch]"):
        if not gone.name.endswith(".mod.c") and not (REPO / gone.relative_to(tree)).exists():
            gone.unlink()
    # Another selection is another module.
    (tree / "vballoon_kunit.ko").unlink(missing_ok=True)
    environment = {name: value for name, value in os.environ.items()
                   if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "K", "FILTER", "VERSION")}
    result = subprocess.run(
        ["make", f"-j{os.cpu_count()}", "-C", kernel_build, f"M={tree}", "VBAL_KUNIT=1",
         f"VBAL_SUITES={' '.join(part)}", *make_options, "modules"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, check=False)
    if result.returncode:
        raise GuestError(f"vballoon_kunit.ko does not build:\n{result.stdout[-4000:]}")
    return tree / "vballoon_kunit.ko"


def rebuild(kernel_build, tree, changed):
    """Build the module once more with sources that are changed; all else stays as `build` left it.

    By the commands that Kbuild has noted, since Kbuild itself takes longer to find them than they
    take.
    """
    whole = tree / "vballoon_kunit.o"
    needed = _undefined(whole)
    before = {}
    try:
        for name, text in changed.items():
            source, target = tree / name, tree / Path(name).with_suffix(".o")
            if not target.exists():  # a test includes it
                target = tree / "tests/kunit/device_kunit.o"
            before |= {path: path.read_bytes() for path in (source, target)}
            source.write_text(text, "utf-8")
            _run_noted(kernel_build, target)
        _run_noted(kernel_build, whole)
    finally:
        for path, content in before.items():
            path.write_bytes(content)
    if not _undefined(whole) <= needed:
        raise GuestError("vballoon_kunit.ko does not build: it needs a symbol that is not there")
    _run_noted(kernel_build, tree / "vballoon_kunit.ko")


def _run_noted(kernel_build, target):
    note = (target.parent / f".{target.name}.cmd").read_text("utf-8").partition("\n")[0]
    result = subprocess.run(note.partition(" := ")[2], shell=True, cwd=kernel_build, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if result.returncode:
        raise GuestError(f"{target.name} does not build:\n{result.stdout[-4000:]}")


def _undefined(path):
    return set(subprocess.run(["nm", "-u", path], stdout=subprocess.PIPE, text=True,
                              check=True).stdout.split())


def results(lines):
    """Yield path, verdict and reason of each result in a console's KTAP; in order."""
    open_suites = []
    for line in lines:
        subtest = SUBTEST.match(line)
        result = RESULT.match(line)
        if subtest:
            # indented as its results are
            depth = len(subtest["indent"]) // 4 - 1
            open_suites[depth:] = [subtest["name"]]
        elif result and open_suites:
            depth = len(result["indent"]) // 4
            name, skip, reason = result["name"].partition(" # SKIP")
            verdict = "skip" if skip else result["verdict"]
            yield (*open_suites[:depth], name.strip()), verdict, reason.strip()


def add_results(outcome, lines):
    """Sort results into those of an outcome; return all paths, those of suites included."""
    # A case with parameters, or a suite, is the sum of its parts, unless it says otherwise.
    explained, parents, paths = set(), set(), set()
    for path, verdict, reason in results(lines):
        above = {path[:depth] for depth in range(1, len(path))}
        parents |= above
        paths.add(path)
        name = " / ".join(path)
        if verdict == "skip":
            if path not in parents or reason:
                outcome.skipped.append((name, reason))
        elif verdict == "not ok":
            if path not in explained:
                outcome.failed.append(name)
            explained |= above
        elif path not in parents:
            outcome.passed.append(name)
    return paths


def judge(console, chosen):
    """Read the KTAP in a console's text; compare with what the sources hold."""
    outcome = Outcome()
    lines = console.splitlines()
    paths = add_results(outcome, lines)
    for number, line in enumerate(lines):
        if TROUBLE.search(line):
            outcome.trouble.append("\n".join(lines[number:number + 25]))
    for suite, count in chosen.items():
        name = f"vballoon_{suite}"
        seen = sum(path[0] == name and len(path) == 2 for path in paths)
        if seen != count:
            outcome.failed.append(f"{name} ran {seen} of {count} cases")
        elif (name,) not in paths:
            outcome.failed.append(f"{name} did not end")
    return outcome


def run(kernel_build, part, make_options=(), after=None):
    """Run suites that share a guest; return what came of it, and the console.

    after(guest, module) is called when the tests are over and the module is still there.
    """
    module = build(kernel_build, part, make_options)
    # who loads the module waits for each case; on a busy machine one may take minutes
    append = ("kunit.enable=1 kmemleak=on init_on_alloc=0 sysctl.kernel.hung_task_timeout_secs=600 "
              f"{OWN_GUEST.get(owner(part), '')}")
    guest = Guest(mem_mib=768, kernel=kernel_build, balloon_opts=None, module=None,
                  module_path=module, append=append.strip(), patience=3, name="kunit")
    text = ""
    try:
        with guest:
            try:
                guest.check(FAULTS)
                guest.check("insmod /modules/vballoon_kunit.ko", timeout=LIMIT_SECONDS)
                if after:
                    after(guest, module)
                guest.check("rmmod vballoon_kunit", timeout=120)
                if "CONFIG_DEBUG_KMEMLEAK=y" in (kernel_build / ".config").read_text("ascii"):
                    guest.scan_for_leaks()
            finally:
                text = guest.console()
    except GuestError as error:
        text += f"\nWARNING: the run ended early: {error}\n"
    return judge(text, part), text


def run_all(chosen, make_options=(), after=None, flavour="debug"):
    """Run suites, as `run` does, in as many guests as they need at a time."""
    kernel_build = test_kernel(flavour)
    each = parts(chosen)
    with ThreadPoolExecutor(len(each)) as pool:
        return list(pool.map(lambda part: run(kernel_build, part, make_options, after), each))


# For the suite of that name: fail silently, in the tasks that ask for it only, allocations of
# every kind.
FAULTS = """
for kind in failslab fail_page_alloc; do
    cd /sys/kernel/debug/$kind 2>/dev/null || exit 0
    echo 0 >verbose; echo Y >task-filter; echo 100 >probability; echo -1 >times
    echo N >ignore-gfp-wait
done
echo N >ignore-gfp-highmem; echo 0 >min-order
"""
