# SPDX-License-Identifier: GPL-2.0-only
"""The same driver behind every kind of virtio transport and ring."""

import pytest
from conftest import ALL_FEATURES, FRAME

VERSION_1 = 32
RING_PACKED = 34
# A microvm knows no iothread for hinting's sake; it is left out there.
MICROVM_FEATURES = "deflate-on-oom=on,free-page-reporting=on"
TRANSPORTS = {
    "pci-modern": {"transport": "modern"},
    "pci-legacy": {"transport": "legacy"},
    "pci-packed": {"transport": "modern", "balloon_opts": f"{ALL_FEATURES},packed=on"},
    "mmio": {"machine": "microvm", "balloon_opts": MICROVM_FEATURES},
    "mmio-legacy": {"machine": "microvm", "transport": "legacy",
                    "balloon_opts": MICROVM_FEATURES},
}


@pytest.mark.parametrize("name", TRANSPORTS)
def test_transport(lab, name):
    guest = lab.guest(**TRANSPORTS[name])
    for transfer in ("pfn", "range"):
        with lab.loaded(guest, f"transfer={transfer} deflate_on_oom=0") as balloon:
            assert (VERSION_1 in balloon.features()) == ("legacy" not in name)
            assert (RING_PACKED in balloon.features()) == ("packed" in name)
            for nr_frames in (1, 40961, 77777, 512, 100001):
                balloon.resize(nr_frames * FRAME)
            stats = guest.fresh_stats()
            assert stats["stat-total-memory"] == guest.meminfo()["MemTotal"] * 1024
            guest.poll_stats(0)
