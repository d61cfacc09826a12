# SPDX-License-Identifier: GPL-2.0-only
"""`balloonctl balance` and libvirt, without a daemon; real domains: test_balance_guests.py."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
from ballooncontrol.balance import config
from ballooncontrol.balance.model import MIB, Limits

libvirt = pytest.importorskip("libvirt")
from ballooncontrol.balance import domains  # noqa: E402
from ballooncontrol.balance.domains import Description, DomainGuest, Domains  # noqa: E402


def describe(devices="<memballoon model='virtio'><stats period='7'/></memballoon>", rest=""):
    """Return the description of a domain."""
    return Description(f"<domain>{rest}<devices>{devices}</devices></domain>")


def test_balloon_and_its_period():
    plain = describe()
    assert (plain.has_balloon, plain.period_s, plain.obstacle) == (True, 7, None)
    assert describe("<memballoon model='virtio'/>").period_s == 0
    assert not describe("<memballoon model='none'/>").has_balloon
    assert not describe("").has_balloon


@pytest.mark.parametrize("devices, rest, word", [
    ("<hostdev mode='subsystem' type='pci'/>", "", "VFIO"),
    ("<hostdev mode='subsystem' type='mdev'/>", "", "VFIO"),
    ("<interface type='vdpa'/>", "", "VFIO"),
    ("<interface type='hostdev'/>", "", "VFIO"),
    ("<disk type='nvme'/>", "", "VFIO"),
    ("", "<memoryBacking><hugepages/></memoryBacking>", "huge pages"),
    ("", "<memoryBacking><locked/></memoryBacking>", "locked"),
])
def test_what_keeps_memory_from_the_host(devices, rest, word):
    assert word in describe(devices, rest).obstacle


@pytest.mark.parametrize("device", [
    "<hostdev mode='subsystem' type='usb'/>", "<interface type='network'/>",
    "<hostdev mode='subsystem' type='mdev' model='vfio-ap'/>"])
def test_other_devices_are_no_obstacle(device):
    assert describe(device).obstacle is None


def test_metadata_and_hard_limit():
    found = describe(rest="<metadata><b:guest xmlns:b='urn:vballoon:balance:1' minimum='1G' "
                     "weight='200'/></metadata><memtune><hard_limit unit='KiB'>4096</hard_limit>"
                     "</memtune>")
    assert found.overrides == {"minimum": "1G", "weight": "200"}
    assert found.hard_limit_bytes == 4 * MIB
    limits = Limits(8 * MIB, 16 * MIB).at_most(found.hard_limit_bytes)
    assert (limits.minimum_bytes, limits.maximum_bytes) == (4 * MIB, 4 * MIB)


# Domains that keep libvirt waiting

class FakeDomain:
    """A running domain of 1 GiB."""

    def __init__(self):
        self.job = libvirt.VIR_DOMAIN_JOB_NONE
        self.asked_kib = []

    def name(self):
        return "web"

    def UUIDString(self):
        return "0"

    def ID(self):
        return 1

    def XMLDesc(self):
        return ("<domain><devices><memballoon model='virtio'><stats period='1'/></memballoon>"
                "</devices></domain>")

    def jobInfo(self):
        return [self.job]

    def setMemoryFlags(self, size_kib, _flags):
        self.asked_kib.append(size_kib)


STATS = {"balloon.current": 1 << 20, "balloon.maximum": 1 << 20, "balloon.rss": 1 << 20,
         "state.state": libvirt.VIR_DOMAIN_RUNNING}


def fake_service():
    """As much of the service as its domains use."""
    settings = config.Settings()
    return SimpleNamespace(interval_s=1, settings=settings, limits=settings.limits, lines=[],
                           clock=time.monotonic, changed=lambda client: None,
                           add=lambda client: None, complain=lambda text: None)


async def settle(client):
    """Let its tasks end."""
    for task in (client._describing, client._task):
        if task:
            await task


def test_domain_with_a_job_is_left_alone_until_it_ends():
    async def live():
        domain = FakeDomain()
        client = DomainGuest(Domains(fake_service(), "test:///default"), domain)

        async def look():
            for _ in range(2):
                client.look(STATS)
                await settle(client)
        await look()
        assert client.guest.trouble is None
        domain.job = libvirt.VIR_DOMAIN_JOB_UNBOUNDED
        client.ask(512 * MIB)
        await settle(client)
        assert domain.asked_kib == []
        await look()
        # another look does not make it well: it would be asked in vain each time
        assert client.guest.trouble == domains.JOB
        domain.job = libvirt.VIR_DOMAIN_JOB_NONE
        await look()
        client.look(STATS)
        assert client.guest.trouble is None
        client.ask(512 * MIB)
        await settle(client)
        assert domain.asked_kib == [512 << 10]
    asyncio.run(live())


def test_common_call_that_meets_a_hung_domain_is_made_again(monkeypatch):
    monkeypatch.setattr(domains, "LOOK_S", 0.1)
    released = threading.Event()

    class Connection:
        """The first call waits for QEMU; the next ones leave it out, as NOWAIT has it."""

        calls = 0

        def getAllDomainStats(self, _wanted, flags):
            assert flags & libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
            self.calls += 1
            if self.calls == 1:
                released.wait()
            return [(FakeDomain(), STATS)]

    async def live():
        source = Domains(fake_service(), "test:///default")
        source._connection = Connection()
        assert len(await source._stats()) == 1
        released.set()
    asyncio.run(live())
