# SPDX-License-Identifier: GPL-2.0-only
"""The checks of who may use whom find what is planted, in Python and in C."""

import subprocess

import pytest
from conftest import ROOT, run_program

PYTHON_ROOMS = ROOT / "tests/run/python-rooms"
FLOORS = """
    compat
    pages
    guard debug
    virtio
    device
    main
"""
ROOMS = {
    "include/balloon_compat.h": "#define VBAL_COMPAT 1\n",
    "include/balloon_pages.h": '#include "balloon_compat.h"\nstruct vbal_pages {\n\tint n;\n};\n',
    "include/balloon_guard.h": "enum vbal_state {\n\tVBAL_STATE_REST,\n};\n"
                               "int vbal_guard(int n);\n",
    "include/balloon_debug.h": "extern int vbal_debug_nr[2];\n",
    "include/balloon_virtio.h": '#include "balloon_pages.h"\nvoid vbal_wire(struct vbal_pages *p,\n'
                                "\t       int n);\n",
    "include/balloon.h": '#include "balloon_virtio.h"\nstruct vbal_dev {\n\tint n;\n};\n'
                         "static inline int vbal_has(struct vbal_dev *vb)\n{\n\treturn 0;\n}\n",
    "include/balloon_trace.h": "struct vbal_dev;\n",
    "balloon_pages.c": '#include "balloon_pages.h"\n#include "balloon_trace.h"\n'
                       '/* vbal_wire() is above */\nconst char *s = "vbal_wire";\n',
    "balloon_virtio.c": '#include "balloon_virtio.h"\n#include "balloon_guard.h"\n'
                        "int x = VBAL_STATE_REST;\n",
    "balloon_main.c": '#include "balloon.h"\nint y = vbal_has(0) + vbal_guard(VBAL_COMPAT);\n',
}


def plant(top, files):
    """Write files, given as a dictionary from path to text."""
    for name, text in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "ascii")


def circles(top):
    """Return the status of the check and its lines."""
    result = subprocess.run([PYTHON_ROOMS, top], capture_output=True, text=True, check=False)
    assert result.stderr == ""
    return result.returncode, result.stdout.splitlines()


def test_no_circle_in_our_own_tree():
    assert circles(ROOT) == (0, [])


@pytest.mark.parametrize("files, circle", [
    ({"p/__init__.py": "", "p/a.py": "from .b import x\n",
      "p/b.py": "def f():\n    from . import a\n"},
     "p/a.py -> p/b.py -> p/a.py"),
    ({"p/__init__.py": "from .a import x\n", "p/a.py": "from . import x\n"},
     "p/__init__.py -> p/a.py -> p/__init__.py"),
    ({"lib/a.py": "import b\n", "lib/b.py": "import c\n", "lib/c.py": "import a\n"},
     "lib/a.py -> lib/b.py -> lib/c.py -> lib/a.py"),
    ({"p/__init__.py": "", "p/a.py": "import q.a\n", "p/b.py": "",
      "q/__init__.py": "", "q/a.py": "", "q/b.py": "import p.b\n"}, "p -> q -> p"),
    ({"host/a.py": "import c\n", "host/b.py": "", "lib/c.py": "", "lib/d.py": "import b\n"},
     "host -> lib -> host"),
], ids=["modules", "package", "three", "packages", "folders"])
def test_planted_circle_is_named(tmp_path, files, circle):
    plant(tmp_path, files)
    status, (line,) = circles(tmp_path)
    assert status == 1
    way = line.split(": imports in a circle: ")[1].split(" -> ")
    wanted = circle.split(" -> ")
    # it may begin anywhere
    assert way[0] == way[-1] and way[:-1] in [
        wanted[n:-1] + wanted[:n] for n in range(len(wanted) - 1)]


def test_planted_tree_without_circle(tmp_path):
    plant(tmp_path, {"p/__init__.py": "from .a import x\n", "p/a.py": "from . import b\n",
                     "p/b.py": "import os\n", "run/tool": "#!/usr/bin/python3\nimport p.b\n"})
    assert circles(tmp_path) == (0, [])


def test_two_circles_are_two_lines(tmp_path):
    plant(tmp_path, {"a.py": "import b\n", "b.py": "import a\n", "c.py": "import d\n",
                     "d.py": "import c\n"})
    status, lines = circles(tmp_path)
    assert (status, len(lines)) == (1, 2)


@pytest.fixture(scope="module")
def looks_up():
    """Return a function that gives the findings in a tree of C files."""
    module = run_program("rooms")
    return lambda top: module.House(top, FLOORS).findings()


def test_house_without_arrow_up(tmp_path, looks_up):
    plant(tmp_path, ROOMS)
    assert looks_up(tmp_path) == []


@pytest.mark.parametrize("name, text, finding", [
    ("balloon_virtio.c", '\n#include "balloon.h"\n',
     'balloon_virtio.c:2: includes "balloon.h" of include/balloon.h: virtio -> device runs up'),
    ("balloon_pages.c", "\n\nint x = vbal_wire(0);\n",
     "balloon_pages.c:3: uses vbal_wire of include/balloon_virtio.h: pages -> virtio runs up"),
    ("balloon_virtio.c", "int x = vbal_has(0);\n",
     "balloon_virtio.c:1: uses vbal_has of include/balloon.h: virtio -> device runs up"),
    ("balloon_pages.c", "int x = VBAL_STATE_REST;\n",
     "balloon_pages.c:1: uses VBAL_STATE_REST of include/balloon_guard.h: pages -> guard runs up"),
    ("balloon_guard.c", "int x = vbal_debug_nr[0];\n",
     "balloon_guard.c:1: uses vbal_debug_nr of include/balloon_debug.h: guard -> debug runs up"),
    ("include/balloon_virtio.h", "void vbal_wire(struct vbal_dev *vb);\n",
     "include/balloon_virtio.h:1: uses vbal_dev of include/balloon.h: virtio -> device runs up"),
    ("balloon_new.c", "", "balloon_new.c:1: room new is on no floor of tests/run/rooms"),
], ids=["include", "function", "inline", "enumerator", "neighbour", "header", "no room"])
def test_arrow_up_is_named(tmp_path, looks_up, name, text, finding):
    plant(tmp_path, ROOMS | {name: text})
    assert looks_up(tmp_path) == [finding]


def test_room_without_file_is_named(tmp_path, looks_up):
    plant(tmp_path, ROOMS)
    (tmp_path / "include/balloon_debug.h").unlink()
    assert looks_up(tmp_path) == ["tests/run/rooms:1: room debug has no file"]
