# SPDX-License-Identifier: GPL-2.0-only
"""The parts of scripts/bench: what is measured, how, and how it is shown."""
