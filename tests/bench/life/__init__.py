# SPDX-License-Identifier: GPL-2.0-only
"""The parts of bench-life: guests in use, what is read of them, and how it is judged."""

import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[3]
# the only place that knows where our libraries are
sys.path.insert(0, str(REPO / "tests/lib"))
