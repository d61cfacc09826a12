# SPDX-License-Identifier: GPL-2.0-only
"""Memory that the guest needs more than the host does."""

import pytest
from conftest import MIB

pytestmark = pytest.mark.core
INFLATE = 600 * MIB
# One process that wants more than is left, and touches all of it. The kernel's own guess
# at what it can grant is switched off: it does not know of a balloon that gives way.
NEED_MIB = 500
NEEDY = ("echo 1 >/proc/sys/vm/overcommit_memory; "
         f"dd if=/dev/zero of=/dev/null bs={NEED_MIB}M count=1")


@pytest.mark.parametrize("guard", ("protect", "squeeze"))
def test_a_process_that_needs_memory_gets_it(lab, guest, guard):
    with lab.loaded(guest, f"guard={guard}") as balloon:
        guest.check("dmesg -c >/dev/null")
        balloon.resize(INFLATE)
        guest.check(NEEDY, 180)
        assert "Out of memory" not in guest.dmesg()
        gave_back = int(balloon.attr("oom_give_back_bytes")) + \
            int(balloon.attr("pressure_give_back_bytes"))
        assert gave_back > 100 * MIB
        # the process is gone: the host's wish comes true again
        guest.wait_inflated(INFLATE, 300)


def test_declined_the_balloon_stays(lab, guest):
    """Without DEFLATE_ON_OOM the specification forbids giving back unasked."""
    with lab.loaded(guest, "deflate_on_oom=0", allow="Call Trace") as balloon:
        balloon.resize(INFLATE)
        returncode, _ = guest.run(NEEDY, 180)
        assert returncode
        assert "Out of memory: Killed process" in guest.dmesg()
        assert guest.inflated_bytes() == INFLATE
        balloon.check_counts(INFLATE)
