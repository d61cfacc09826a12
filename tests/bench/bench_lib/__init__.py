# SPDX-License-Identifier: GPL-2.0-only
"""The parts of tests/bench/bench: what is measured, how, and how it is shown."""
