# SPDX-License-Identifier: GPL-2.0-only
"""Live migration from one QEMU to another, with a round of free page hints."""

from conftest import ALL_FEATURES, FRAME, MIB, check_unloaded, memory

SIZE = 200 * MIB + 7 * FRAME
FREED_MIB = 400


def test_migration_with_free_page_hints(lab):
    options = {"mem_mib": 1024, "odd_ram": True, "balloon_opts": ALL_FEATURES}
    with lab.fresh(**options, name="source", load=False) as source, \
            lab.fresh(**options, name="target", incoming=True) as target:
        migrate(source, target)


def migrate(source, target):
    """Move a guest that has free memory full of random bytes, data, and a balloon."""
    before_kb = memory(source)
    source.insmod("deflate_on_oom=0")
    attr = "cat /sys/bus/virtio/drivers/vballoon/virtio*/balloon/"
    source.inflate(SIZE)
    source.wait_inflated(SIZE)
    source.check("mount -t tmpfs -o size=500M data /mnt && "
                 "dd if=/dev/urandom of=/mnt/data bs=1M count=50 2>/dev/null", 300)
    # reports would empty free memory before the migration can hint it
    source.hold_reports()
    source.check(f"dd if=/dev/urandom of=/mnt/fill bs=1M count={FREED_MIB} 2>/dev/null; "
                 "rm /mnt/fill", 300)
    summed = source.check("md5sum /mnt/data", 120)

    source.migrate_to(target)
    sent_bytes = source.qmp("query-migrate")["ram"]["normal-bytes"]
    source.close()

    assert target.check("md5sum /mnt/data", 120) == summed
    assert int(target.check(f"{attr}hint_rounds")) >= 1
    hinted_bytes = int(target.check(f"{attr}hinted_bytes"))
    assert hinted_bytes > FREED_MIB * MIB // 2
    # what was hinted in time was not sent
    assert sent_bytes < FREED_MIB * MIB
    target.wait_for(lambda: target.check(f"{attr}hint_held_bytes").strip() == "0", 120,
                    "the hinted pages to be free again")
    assert target.inflated_bytes() == SIZE
    assert before_kb["total"] - target.meminfo()["MemTotal"] == SIZE // 1024
    target.inflate(FRAME)
    target.wait_inflated(FRAME)
    assert before_kb["total"] - target.meminfo()["MemTotal"] == FRAME // 1024
    target.check("umount /mnt")
    target.rmmod("vballoon")
    check_unloaded(target, before_kb)
    target.check_clean()
