"""Prometheus metrics of one process, read from what it counts anyway when a scrape asks.

Nothing is added to the path of a request: engine and reactor keep plain integers, and `NodeMetrics`
turns them into samples. A plane adds figures of its own as `sources`, in the small records of this
module, so that this stays the only door of prometheus_client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, Literal, TypeAlias

import trio
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from pocketkv import __version__
from pocketkv.engine.extents import NO_EXTENTS
from pocketkv.engine.info import running_core
from pocketkv.engine.keyspace import JobSpace
from pocketkv.engine.node import Node
from pocketkv.engine.stats import LATENCY_BUCKETS
from pocketkv.observability.process import ProcessSampler
from pocketkv.resp.reactor import Reactor

PREFIX: Final = "pocketkv_"
Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

# Buckets of powers of two nanoseconds that are shown: 1.024 us to 8.6 s. What is faster is in the
# first of them, what is slower in +Inf only.
_FIRST_BUCKET: Final = 10
_LAST_BUCKET: Final = 33
_BUCKET_BOUNDS: Final = tuple(
    f"{2**power / 1e9:.9f}".rstrip("0") for power in range(_FIRST_BUCKET, _LAST_BUCKET + 1)
)
# A whole scrape of many jobs takes tens of milliseconds: clients are served in between.
_SERIES_PER_SLICE: Final = 100


@dataclass(frozen=True, slots=True)
class Name:
    """What a metric means.

    Attributes:
        name: Without ``pocketkv_``, with its unit last; a counter's ends in ``_total``.
        kind: ``counter``, ``gauge`` or ``histogram``.
        help: One sentence, for people.
        labels: Names of its labels.
    """

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()

    @property
    def full_name(self) -> str:
        """As it stands in a scrape and in queries."""
        return PREFIX + self.name


@dataclass(frozen=True, slots=True)
class Histogram:
    """Durations counted in buckets of powers of two nanoseconds, as `CommandStats` counts them."""

    buckets: Sequence[int]
    total_ns: int


@dataclass(slots=True)
class Figures:
    """The present values of one metric; `labels` of each are in the order of `Name.labels`."""

    name: Name
    values: list[tuple[tuple[str, ...], float | Histogram]] = field(default_factory=list)

    def add(self, value: float | Histogram, *labels: str) -> Figures:
        """Add one series.

        Raises:
            ValueError: The number of labels is not that of the metric.
        """
        if len(labels) != len(self.name.labels):
            raise ValueError(f"{self.name.name} has the labels {self.name.labels}, not {labels}")
        self.values.append((labels, value))
        return self


Source: TypeAlias = Callable[[], Iterable[Figures]]

BUILD = Name("build_info", "gauge", "Always 1.", ("version", "core", "role", "tier"))
COMMANDS = Name("commands_total", "counter", "Calls of a command.", ("command",))
DURATION = Name(
    "command_duration_seconds", "histogram", "Time that a command took here.", ("command",)
)
FAILED = Name("commands_failed_total", "counter", "Calls that gave an error.", ("command",))
ERRORS = Name("errors_total", "counter", "Error replies by their first word.", ("code",))
CONNECTIONS = Name("connections", "gauge", "Open connections.", ("side",))
CONNECTIONS_MAX = Name("connections_max", "gauge", "Connections that may be open at a time.")
ACCEPTED = Name("connections_received_total", "counter", "Connections that clients opened.")
DROPPED = Name(
    "connections_dropped_total",
    "counter",
    "Connections refused, or closed because they broke a limit.",
    ("reason",),
)
RECEIVED = Name("received_bytes_total", "counter", "Bytes received over connections.", ("side",))
SENT = Name("sent_bytes_total", "counter", "Bytes sent over connections.", ("side",))
UNSENT = Name("unsent_bytes", "gauge", "Replies and requests that wait to be sent.", ("side",))

JOB_USED = Name("job_used_bytes", "gauge", "Bytes that a job uses here.", ("job",))
JOB_QUOTA = Name(
    "job_quota_bytes", "gauge", "Bytes that a job may use here; absent without quota.", ("job",)
)
JOB_KEYS = Name("job_keys", "gauge", "Keys of a job here.", ("job",))
JOB_HITS = Name("job_hits_total", "counter", "Look-ups that found their key.", ("job",))
JOB_MISSES = Name("job_misses_total", "counter", "Look-ups that found no key.", ("job",))
JOB_EXPIRED = Name("job_expired_total", "counter", "Keys whose time to live ended.", ("job",))
JOB_REFUSED = Name(
    "job_refused_oom_total", "counter", "Writes refused for want of memory or quota.", ("job",)
)
JOB_COMMANDS = Name("job_commands_total", "counter", "Commands of a job.", ("job",))
JOB_SPILLED_KEYS = Name(
    "job_spilled_keys", "gauge", "Keys of a job whose values were moved out of memory.", ("job",)
)
JOB_SPILLED = Name(
    "job_spilled_bytes", "gauge", "What those values take on the spill medium.", ("job",)
)
JOB_SPILL_HITS = Name(
    "job_spill_hits_total", "counter", "Look-ups that were answered from there.", ("job",)
)
JOB_SPILLED_OUT = Name(
    "job_spilled_out_total", "counter", "Values of a job that were moved out of memory.", ("job",)
)
JOB_SPILLED_BACK = Name(
    "job_spilled_back_total", "counter", "Values of a job that came back into memory.", ("job",)
)

MEMORY = Name("storage_memory_bytes", "gauge", "Bytes that all jobs may use here.", ("tier",))
USED = Name("storage_used_bytes", "gauge", "Bytes that all jobs use here.", ("tier",))
INCOMING = Name(
    "storage_incoming_bytes", "gauge", "Bytes of large values that are being received.", ("tier",)
)
EXTENTS = Name(
    "storage_extent_bytes",
    "gauge",
    "Where large values are kept: what they use, and what is free and not given back yet.",
    ("tier", "state"),
)
PUNCHED = Name(
    "storage_extent_punched_bytes_total", "counter", "Bytes of it given back so far.", ("tier",)
)
DEFRAGMENT_PASSES = Name(
    "defragment_passes_total", "counter", "Passes of defragmentation that were begun."
)
DEFRAGMENT_SECONDS = Name(
    "defragment_seconds_total", "counter", "Time that defragmentation had the thread."
)
DEFRAGMENT_MOVED = Name(
    "defragment_moved_bytes_total", "counter", "Bytes that defragmentation moved in memory."
)

CPU = Name("process_cpu_seconds_total", "counter", "CPU time of the process.", ("mode",))
CPU_FRACTION = Name(
    "process_cpu_fraction", "gauge", "CPU time per time of late; 1 is one core in full use."
)
RSS = Name("process_resident_memory_bytes", "gauge", "Memory of the process that is resident.")
ANONYMOUS = Name(
    "process_anonymous_memory_bytes", "gauge", "Of it, what is no file's, nor large values'."
)
DESCRIPTORS = Name("process_open_descriptors", "gauge", "File descriptors that are open.")
THREADS = Name("process_threads", "gauge", "Threads of the process.")
UPTIME = Name("process_uptime_seconds", "gauge", "Time since the process began to serve.")
MACHINE_MEMORY = Name(
    "machine_memory_bytes", "gauge", "Memory of the machine, or of its container if less."
)
NETWORK_RECEIVED = Name(
    "machine_network_received_bytes_total", "counter", "Bytes received by the machine's interfaces."
)
NETWORK_SENT = Name(
    "machine_network_sent_bytes_total", "counter", "Bytes sent by the machine's interfaces."
)

# What every process has, and what only storage servers have beside it.
EVERYWHERE: Final = (
    BUILD, COMMANDS, FAILED, DURATION, ERRORS, CONNECTIONS, CONNECTIONS_MAX, ACCEPTED, DROPPED,
    RECEIVED, SENT, UNSENT, CPU, CPU_FRACTION, RSS, ANONYMOUS, DESCRIPTORS, THREADS, UPTIME,
    MACHINE_MEMORY, NETWORK_RECEIVED, NETWORK_SENT,
)  # fmt: skip
ON_STORAGE: Final = (
    JOB_USED, JOB_QUOTA, JOB_KEYS, JOB_HITS, JOB_MISSES, JOB_EXPIRED, JOB_REFUSED, JOB_COMMANDS,
    JOB_SPILLED_KEYS, JOB_SPILLED, JOB_SPILL_HITS, JOB_SPILLED_OUT, JOB_SPILLED_BACK,
    MEMORY, USED, INCOMING, EXTENTS, PUNCHED, DEFRAGMENT_PASSES, DEFRAGMENT_SECONDS,
    DEFRAGMENT_MOVED,
)  # fmt: skip


class NodeMetrics:
    """The metrics of one process.

    Args:
        node: Its commands, jobs and memory.
        reactor: Its connections.
        sampler: Its use of the machine, as last sampled.

    Attributes:
        sources: Asked for further figures at each scrape; a plane appends its own.
    """

    def __init__(self, node: Node, reactor: Reactor, sampler: ProcessSampler) -> None:
        self._node = node
        self._reactor = reactor
        self._sampler = sampler
        self.sources: list[Source] = []
        self.registry = CollectorRegistry()
        self.registry.register(self)

    @property
    def names(self) -> tuple[Name, ...]:
        """The metrics that this process has by itself."""
        return EVERYWHERE + ON_STORAGE if self._node.role == "storage" else EVERYWHERE

    # --- what prometheus_client calls ----------------------------------------------------------

    def collect(self) -> Iterator[Metric]:
        """All metrics, with their present values."""
        for figures in self.figures():
            yield _family(figures.name, figures.values)

    def describe(self) -> Iterator[Metric]:
        """All metrics, without values: registering must not cost a scrape."""
        for name in self.names:
            yield _family(name, [])

    # --- rendering -----------------------------------------------------------------------------

    def render(self) -> tuple[bytes, str]:
        """A whole scrape and its content type."""
        return render(self.registry)

    async def scrape(self) -> tuple[int, str, bytes]:
        """The same as a route of `pocketkv.observability.http`, letting others run in between."""
        parts = []
        for figures in self.figures():
            for start in range(0, max(len(figures.values), 1), _SERIES_PER_SLICE):
                values = figures.values[start : start + _SERIES_PER_SLICE]
                text = generate_latest(_One(_family(figures.name, values)))
                parts.append(text if start == 0 else _without_comments(text))
                await trio.lowlevel.checkpoint()
        return 200, CONTENT_TYPE_PLAIN_0_0_4, b"".join(parts)

    # --- figures -------------------------------------------------------------------------------

    def figures(self) -> Iterator[Figures]:
        """Everything that there is to tell, in plain records."""
        node = self._node
        yield Figures(BUILD).add(1, __version__, running_core(), node.role, node.tier)
        yield from self._command_figures()
        yield from self._connection_figures()
        if node.role == "storage":
            yield from self._job_figures()
            yield from self._storage_figures()
        yield from self._process_figures()
        for source in self.sources:
            yield from source()

    def _command_figures(self) -> Iterator[Figures]:
        stats = sorted(self._node.command_stats.items())
        calls, failed, durations = Figures(COMMANDS), Figures(FAILED), Figures(DURATION)
        for command, counted in stats:
            calls.add(counted.calls, command)
            failed.add(counted.failed, command)
            durations.add(Histogram(tuple(counted.buckets), counted.total_ns), command)
        errors = Figures(ERRORS)
        for code, count in sorted(self._node.error_stats.items()):
            errors.add(count, code)
        yield from (calls, failed, durations, errors)

    def _connection_figures(self) -> Iterator[Figures]:
        reactor = self._reactor
        open_, received, sent = Figures(CONNECTIONS), Figures(RECEIVED), Figures(SENT)
        unsent = Figures(UNSENT)
        for side, traffic in sorted(reactor.traffic().items()):
            open_.add(traffic.connections, side)
            received.add(traffic.received_bytes, side)
            sent.add(traffic.sent_bytes, side)
            unsent.add(traffic.unsent_bytes, side)
        dropped = Figures(DROPPED)
        for reason, count in sorted(reactor.dropped.items()):
            dropped.add(count, reason)
        yield from (open_, received, sent, unsent, dropped)
        yield Figures(CONNECTIONS_MAX).add(reactor.connections_max)
        yield Figures(ACCEPTED).add(reactor.accepted)

    def _job_figures(self) -> Iterator[Figures]:
        spaces = sorted(self._node.keyspace.spaces.items())
        quotas = Figures(JOB_QUOTA)
        for job, space in spaces:
            if space.quota_bytes is not None:
                quotas.add(space.quota_bytes, job)
        yield quotas
        for name, read in _JOB_READERS:
            figures = Figures(name)
            for job, space in spaces:
                figures.add(read(space), job)
            yield figures

    def _storage_figures(self) -> Iterator[Figures]:
        tier, keyspace = self._node.tier, self._node.keyspace
        yield Figures(MEMORY).add(keyspace.memory_bytes, tier)
        yield Figures(USED).add(keyspace.used_bytes, tier)
        yield Figures(INCOMING).add(keyspace.incoming_bytes, tier)
        extents = keyspace.extents
        figures = NO_EXTENTS if extents is None else extents.figures()
        states = Figures(EXTENTS)
        states.add(figures.used_bytes, tier, "used")
        states.add(figures.reserved_bytes, tier, "reserved")
        states.add(figures.warm_bytes, tier, "warm")
        states.add(figures.spent_bytes, tier, "spent")
        yield states
        yield Figures(PUNCHED).add(figures.punched_bytes, tier)
        yield from self._defragment_figures()

    def _defragment_figures(self) -> Iterator[Figures]:
        defragmenter = self._node.defragmenter
        passes, spent_ns, moved_bytes = 0, 0, 0
        if defragmenter is not None:
            passes, spent_ns = defragmenter.passes, defragmenter.spent_ns
            moved_bytes = defragmenter.moved_bytes
        yield Figures(DEFRAGMENT_PASSES).add(passes)
        yield Figures(DEFRAGMENT_SECONDS).add(spent_ns / 1e9)
        yield Figures(DEFRAGMENT_MOVED).add(moved_bytes)

    def _process_figures(self) -> Iterator[Figures]:
        sampler, process = self._sampler, self._sampler.figures
        cpu = Figures(CPU).add(process.cpu_user_s, "user").add(process.cpu_system_s, "system")
        yield cpu
        for name, value in (
            (CPU_FRACTION, sampler.cpu_fraction),
            (RSS, process.rss_bytes),
            (ANONYMOUS, process.anonymous_bytes),
            (DESCRIPTORS, sampler.descriptors),
            (THREADS, sampler.threads),
            (UPTIME, (self._node.clock.now_ms - self._node.started_ms) / 1000),
            (MACHINE_MEMORY, process.machine_memory_bytes),
            (NETWORK_RECEIVED, sampler.network_received_bytes),
            (NETWORK_SENT, sampler.network_sent_bytes),
        ):
            yield Figures(name).add(value)


def _keys(space: JobSpace) -> int:
    return sum(database.size for database in space.databases.values())


_JOB_READERS: Final[tuple[tuple[Name, Callable[[JobSpace], int]], ...]] = (
    (JOB_USED, lambda space: space.used_bytes),
    (JOB_KEYS, _keys),
    (JOB_HITS, lambda space: space.stats.hits),
    (JOB_MISSES, lambda space: space.stats.misses),
    (JOB_EXPIRED, lambda space: space.stats.expired),
    (JOB_REFUSED, lambda space: space.stats.refused_oom),
    (JOB_COMMANDS, lambda space: space.stats.commands),
    (JOB_SPILLED_KEYS, lambda space: space.spilled_keys),
    (JOB_SPILLED, lambda space: space.spilled_bytes),
    (JOB_SPILL_HITS, lambda space: space.stats.spill_hits),
    (JOB_SPILLED_OUT, lambda space: space.stats.spilled_out),
    (JOB_SPILLED_BACK, lambda space: space.stats.spilled_back),
)


class _One:
    """A registry of one metric, for `generate_latest`."""

    def __init__(self, family: Metric) -> None:
        self._family = family

    def collect(self) -> Iterable[Metric]:
        return (self._family,)


def render(registry: CollectorRegistry) -> tuple[bytes, str]:
    """All metrics of a registry as text, and the text's content type."""
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4


def reference_table(names: Iterable[Name]) -> str:
    """The metrics as a Markdown table, for the documentation."""
    lines = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for name in sorted(names, key=lambda n: n.name):
        labels = ", ".join(f"`{label}`" for label in name.labels)
        lines.append(f"| `{name.full_name}` | {name.kind} | {labels} | {name.help} |")
    return "\n".join(lines) + "\n"


def _family(name: Name, values: list[tuple[tuple[str, ...], float | Histogram]]) -> Metric:
    labels = list(name.labels)
    if name.kind == "histogram":
        histogram = HistogramMetricFamily(name.full_name, name.help, labels=labels)
        for series, value in values:
            if not isinstance(value, Histogram):
                raise TypeError(f"{name.name} needs a histogram, not {value!r}")
            histogram.add_metric(_safe(series), _cumulative(value), value.total_ns / 1e9)
        return histogram
    plain: CounterMetricFamily | GaugeMetricFamily
    if name.kind == "counter":
        plain = CounterMetricFamily(name.full_name, name.help, labels=labels)
    else:
        plain = GaugeMetricFamily(name.full_name, name.help, labels=labels)
    for series, value in values:
        if isinstance(value, Histogram):
            raise TypeError(f"{name.name} is no histogram")
        plain.add_metric(_safe(series), value)
    return plain


def _cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    """Prometheus's buckets: for each bound how many were not above it, then how many in all."""
    sums = list(accumulate(histogram.buckets))
    if len(sums) != LATENCY_BUCKETS:
        raise ValueError(f"a histogram has {LATENCY_BUCKETS} buckets, not {len(sums)}")
    shown = sums[_FIRST_BUCKET : _LAST_BUCKET + 1]
    return [*zip(_BUCKET_BOUNDS, map(float, shown), strict=True), ("+Inf", float(sums[-1]))]


def _safe(labels: tuple[str, ...]) -> list[str]:
    """Label values that can be written as UTF-8; prometheus_client escapes the rest."""
    return [label.encode("utf-8", "backslashreplace").decode() for label in labels]


def _without_comments(text: bytes) -> bytes:
    """The samples without the comments before them: a metric is described once."""
    return b"\n".join(line for line in text.split(b"\n") if not line.startswith(b"# "))
