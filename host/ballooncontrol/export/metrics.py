# SPDX-License-Identifier: GPL-2.0-only
"""The metrics: their names, what they mean, and where in a Sample they come from.

Names that others made known stay theirs: libvirt_ those of libvirt's exporters, kubevirt_ those
of KubeVirt for what libvirt's exporters do not have.
"""

from dataclasses import dataclass
from typing import Callable

from ..errors import BalloonError
from .sample import PROPERTIES, REASONS, Sample

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
except ImportError as missing:
    raise BalloonError("export needs python3-prometheus-client "
                       "(apt-get install python3-prometheus-client)") from missing

LABELS = ("domain", "guest")


@dataclass(frozen=True)
class Metric:
    """One value of each guest."""

    name: str
    help: str
    value: Callable
    family: type = GaugeMetricFamily


def counter(name, help_text, value):
    """Return a Metric that only grows."""
    return Metric(name, help_text, value, CounterMetricFamily)


METRICS = (
    Metric("libvirt_domain_info_maximum_memory_bytes",
           "RAM of the guest with an empty balloon.", lambda s: s.ram_bytes),
    Metric("libvirt_domain_memory_stats_actual_balloon_bytes",
           "RAM of the guest less its balloon.", lambda s: s.actual_bytes),
    Metric("libvirt_domain_memory_stats_rss_bytes",
           "Memory of the host that the QEMU process has.", lambda s: s.resident_bytes),
    Metric("libvirt_domain_memory_stats_available_bytes",
           "Reported by the guest: its total memory (MemTotal).",
           lambda s: s.statistics.total_bytes),
    Metric("libvirt_domain_memory_stats_unused_bytes",
           "Reported by the guest: free memory (MemFree).", lambda s: s.statistics.free_bytes),
    Metric("libvirt_domain_memory_stats_usable_bytes",
           "Reported by the guest: what it could use without swapping (MemAvailable).",
           lambda s: s.statistics.available_bytes),
    Metric("libvirt_domain_memory_stats_disk_cache_bytes",
           "Reported by the guest: page cache.", lambda s: s.statistics.disk_caches_bytes),
    counter("libvirt_domain_memory_stats_major_fault_total",
            "Reported by the guest: page faults that had to wait for a disk.",
            lambda s: s.statistics.major_faults),
    counter("libvirt_domain_memory_stats_minor_fault_total",
            "Reported by the guest: other page faults.", lambda s: s.statistics.minor_faults),
    Metric("kubevirt_vmi_memory_swap_in_traffic_bytes",
           "Reported by the guest: read from its swap space since it booted.",
           lambda s: s.statistics.swap_in_bytes),
    Metric("kubevirt_vmi_memory_swap_out_traffic_bytes",
           "Reported by the guest: written to its swap space since it booted.",
           lambda s: s.statistics.swap_out_bytes),
    counter("balloonctl_guest_hugetlb_allocations_total",
            "Reported by the guest: huge pages taken from its pool.",
            lambda s: s.statistics.hugetlb_allocations),
    counter("balloonctl_guest_hugetlb_failures_total",
            "Reported by the guest: huge pages that its pool did not have.",
            lambda s: s.statistics.hugetlb_failures),
    counter("balloonctl_guest_oom_kills_total",
            "Reported by the guest: processes killed for lack of memory.",
            lambda s: s.statistics.oom_kills),
    counter("balloonctl_guest_allocation_stalls_total",
            "Reported by the guest: allocations that had to reclaim memory themselves.",
            lambda s: s.statistics.allocation_stalls),
    counter("balloonctl_guest_async_scans_total",
            "Reported by the guest: pages that its kswapd looked at.",
            lambda s: s.statistics.async_scans),
    counter("balloonctl_guest_direct_scans_total",
            "Reported by the guest: pages that waiting tasks looked at.",
            lambda s: s.statistics.direct_scans),
    counter("balloonctl_guest_async_reclaims_total",
            "Reported by the guest: pages that its kswapd reclaimed.",
            lambda s: s.statistics.async_reclaims),
    counter("balloonctl_guest_direct_reclaims_total",
            "Reported by the guest: pages that waiting tasks reclaimed.",
            lambda s: s.statistics.direct_reclaims),
    Metric("balloonctl_guest_balloon_bytes",
           "What the balloon holds.", lambda s: s.balloon_bytes),
    Metric("balloonctl_guest_balloon_present",
           "1 if the guest has a balloon device, 0 if it has none.", lambda s: s.has_balloon),
    Metric("balloonctl_guest_running",
           "1 if the guest runs, 0 if it is paused, suspended or has crashed.",
           lambda s: s.running),
    Metric("balloonctl_guest_statistics_interval_seconds",
           "How often QEMU asks the guest for statistics; 0 is never.", lambda s: s.polling_s),
    Metric("balloonctl_guest_statistics_timestamp_seconds",
           "Unix time at which the guest reported last; 0 if it never did.",
           lambda s: s.statistics.last_update_unix_s if s.has_balloon else None),
)

# what the balance tells of the host
BALANCE_METRICS = (
    Metric("balloonctl_balance_host_total_bytes",
           "What guests and margin may have of the host.", lambda b: b["host"]["total_bytes"]),
    Metric("balloonctl_balance_host_available_bytes",
           "What the host has available of it.", lambda b: b["host"]["available_bytes"]),
    Metric("balloonctl_balance_host_margin_bytes",
           "What shall stay available.", lambda b: b["host"]["margin_bytes"]),
    Metric("balloonctl_balance_room_bytes",
           "What is left of it beside all claims; below 0 if it lacks.",
           lambda b: b["room_bytes"]),
    Metric("balloonctl_balance_demand_bytes",
           "What the guests are short of.", lambda b: b["demand_bytes"]),
)
# and of each guest
BALANCE_GUEST_METRICS = (
    Metric("balloonctl_balance_guest_target_bytes",
           "The size that the balance asked for last.", lambda g: g["target_bytes"]),
    Metric("balloonctl_balance_guest_need_bytes",
           "The size that the guest needs.", lambda g: g["need_bytes"]),
    Metric("balloonctl_balance_guest_minimum_bytes",
           "The least that it is asked to have.", lambda g: g["minimum_bytes"]),
    Metric("balloonctl_balance_guest_maximum_bytes",
           "The most that it gets.", lambda g: g["maximum_bytes"]),
    Metric("balloonctl_balance_guest_balanced",
           "0 if it keeps its size because it cannot be asked or does not follow.",
           lambda g: not g["trouble"]),
)
BALANCE_UP = ("balloonctl_balance_up", "1 if the balance answered this time, 0 if not.")
HOST_STATE = ("balloonctl_balance_host_state", "1 for the state of the host, 0 for the others.")
HOST_STATES = ("well", "short", "critical")
MOVES = ("balloonctl_balance_moves_total", "Moves of memory since the balance began.")
MOVED = ("balloonctl_balance_moved_bytes_total", "What they moved.")

PROPERTY = ("balloonctl_guest_device_property",
            "1 if this property of the balloon device is on, 0 if it is off.")
INHIBITED = ("balloonctl_guest_discards_inhibited",
             "1 if what the balloon gives does not come free on the host for this reason: vfio, "
             "hugetlb (huge pages from the host's pool) or pinned (locked or pinned memory).")
UP = ("balloonctl_guest_up", "1 if the guest's QEMU answered this time, 0 if not.")
LIBVIRT_UP = ("balloonctl_libvirt_up", "1 if libvirt answered this time, 0 if not.")
DURATION = ("balloonctl_export_duration_seconds", "How long this look at all guests took.")


def families(look):
    """Yield the metrics of a Look as prometheus_client's families."""
    samples = [found for found in look.found if isinstance(found, Sample)]
    up = GaugeMetricFamily(*UP, labels=["guest"])
    for found in look.found:
        up.add_metric([found.guest], isinstance(found, Sample))
    yield up
    for metric in METRICS:
        family = metric.family(metric.name, metric.help, labels=LABELS)
        for sample in samples:
            value = metric.value(sample)
            if value is not None:
                family.add_metric(sample.labels, value)
        yield family
    yield from device_families(samples)
    if look.libvirt_up is not None:
        yield GaugeMetricFamily(*LIBVIRT_UP, value=look.libvirt_up)
    if look.balance or look.balance_trouble:
        yield GaugeMetricFamily(*BALANCE_UP, value=look.balance is not None)
    if look.balance:
        yield from balance_families(look.balance)
    yield GaugeMetricFamily(*DURATION, value=look.seconds)


def device_families(samples):
    """Yield what is known of the devices."""
    properties = GaugeMetricFamily(*PROPERTY, labels=[*LABELS, "property"])
    inhibited = GaugeMetricFamily(*INHIBITED, labels=[*LABELS, "reason"])
    for sample in samples:
        for name in PROPERTIES:
            if name in sample.properties:
                properties.add_metric([*sample.labels, name], sample.properties[name])
        for reason in REASONS:
            inhibited.add_metric([*sample.labels, reason], reason in sample.inhibited)
    yield properties
    yield inhibited


def balance_families(status):
    """Yield what the balance tells."""
    for metric in BALANCE_METRICS:
        yield GaugeMetricFamily(metric.name, metric.help, value=metric.value(status))
    state = GaugeMetricFamily(*HOST_STATE, labels=["state"])
    for word in dict.fromkeys((*HOST_STATES, status["host"]["state"])):
        state.add_metric([word], word == status["host"]["state"])
    yield state
    moves = CounterMetricFamily(*MOVES, labels=["kind"])
    moved = CounterMetricFamily(*MOVED, labels=["kind"])
    for kind, nr, nr_bytes in (("give", "gives", "given_bytes"), ("take", "takes", "taken_bytes")):
        moves.add_metric([kind], status["counts"][nr])
        moved.add_metric([kind], status["counts"][nr_bytes])
    yield moves
    yield moved
    for metric in BALANCE_GUEST_METRICS:
        family = GaugeMetricFamily(metric.name, metric.help, labels=LABELS)
        for guest in status["guests"]:
            if metric.value(guest) is not None:
                family.add_metric([guest["name"], guest["guest"]], metric.value(guest))
        yield family
