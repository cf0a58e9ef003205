from __future__ import annotations

import logging
import random
import socket
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import trio
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from pocketkv import __version__
from pocketkv.engine import gate, handlers
from pocketkv.engine.keyspace import Clock, Keyspace
from pocketkv.engine.node import Node
from pocketkv.engine.stats import CommandStats
from pocketkv.engine.topology import Topology
from pocketkv.observability import metrics
from pocketkv.observability.metrics import Figures, Histogram, Name, NodeMetrics
from pocketkv.observability.process import ProcessSampler
from pocketkv.resp.client_connection import ClientConnection
from pocketkv.resp.reactor import Reactor
from pocketkv.resp.replies import ErrorReply
from pocketkv.stopwatch import Stopwatch

# Importing them is what makes the commands known.
__all__ = ["handlers"]

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Process:
    """What a server process has, without anything running."""

    def __init__(self, role: str) -> None:
        keyspace = Keyspace(1_000_000, Clock(50_000), random.Random(1))
        self.node = Node(
            node_id="a" * 40,
            role=role,
            tier="dram" if role == "storage" else "",
            keyspace=keyspace,
            topology=Topology(),
            timer_ns=lambda: 0,
        )
        self.reactor = Reactor(logging.getLogger("pocketkv.test"))
        self.sampler = ProcessSampler()
        self.metrics = NodeMetrics(self.node, self.reactor, self.sampler)

    def scrape(self) -> Samples:
        body, _ = self.metrics.render()
        return samples(body)

    def value(self, name: str, **labels: str) -> float:
        return self.scrape()[name, frozenset(labels.items())]


@pytest.fixture(params=["storage", "router", "controller"])
def process(request: pytest.FixtureRequest) -> Iterator[Process]:
    made = Process(request.param)
    yield made
    made.reactor.close()


@pytest.fixture
def storage() -> Iterator[Process]:
    made = Process("storage")
    yield made
    made.reactor.close()


def samples(body: bytes) -> Samples:
    found: Samples = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in found
            found[key] = sample.value
    return found


def described(body: bytes) -> dict[str, str]:
    """The kinds of the metrics in a scrape."""
    lines = [line.split() for line in body.decode().splitlines() if line.startswith("# TYPE ")]
    assert len({line[2] for line in lines}) == len(lines)
    return {line[2]: line[3] for line in lines}


def stats(*durations_ns: int, failed: int = 0) -> CommandStats:
    counted = CommandStats()
    for duration_ns in durations_ns:
        counted.calls += 1
        counted.total_ns += duration_ns
        counted.buckets[duration_ns.bit_length()] += 1
    counted.failed = failed
    return counted


# --- what is shown -----------------------------------------------------------------------------


def test_a_scrape_has_what_the_names_promise(process: Process) -> None:
    body, content_type = process.metrics.render()
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    names = process.metrics.names
    assert described(body) == {name.full_name: name.kind for name in names}
    for name in names:
        assert f"# HELP {name.full_name} {name.help}\n" in body.decode()


def test_the_labels_are_what_the_names_promise(storage: Process) -> None:
    fill(storage)
    labels = {name.full_name: set(name.labels) for name in storage.metrics.names}
    for family in text_string_to_metric_families(storage.metrics.render()[0].decode()):
        assert family.samples, family.name
        for sample in family.samples:
            whole = sample.name if sample.name in labels else family.name
            assert set(sample.labels) - {"le"} == labels[whole]


def fill(process: Process) -> None:
    """Something of everything."""
    node = process.node
    node.command_stats["get"] = stats(500, 2_000_000, failed=1)
    node.error_stats["ERR"] = 1
    process.reactor.dropped["maxclients"] = 3
    space = node.keyspace.open("job-1")
    space.quota_bytes = 5000
    space.used_bytes = 1200


def test_a_job_is_shown(storage: Process) -> None:
    fill(storage)
    space = storage.node.keyspace.open("job-1")
    counted = space.stats
    counted.hits, counted.misses, counted.expired = 1, 2, 3
    counted.commands, counted.refused_oom = 4, 5
    expected = {
        "pocketkv_job_used_bytes": 1200,
        "pocketkv_job_quota_bytes": 5000,
        "pocketkv_job_keys": 0,
        "pocketkv_job_hits_total": 1,
        "pocketkv_job_misses_total": 2,
        "pocketkv_job_expired_total": 3,
        "pocketkv_job_commands_total": 4,
        "pocketkv_job_refused_oom_total": 5,
    }
    assert {name: storage.value(name, job="job-1") for name in expected} == expected


def test_a_job_without_quota_has_none_and_one_that_ended_is_gone(storage: Process) -> None:
    keyspace = storage.node.keyspace
    keyspace.open("job-1")
    found = {name for name, labels in storage.scrape() if ("job", "job-1") in labels}
    assert "pocketkv_job_used_bytes" in found
    assert "pocketkv_job_quota_bytes" not in found
    keyspace.drop("job-1")
    assert not [name for name, labels in storage.scrape() if ("job", "job-1") in labels]


def test_keys_of_all_databases_are_counted(storage: Process) -> None:
    space = storage.node.keyspace.open("job-1")
    space.database(0).put(b"a", b"1")
    space.database(0).put(b"b", b"1")
    space.database(3).put(b"a", b"1")
    assert storage.value("pocketkv_job_keys", job="job-1") == 3
    assert storage.value("pocketkv_job_used_bytes", job="job-1") == space.used_bytes > 0


def test_memory_is_told_by_tier(storage: Process) -> None:
    storage.node.keyspace.used_bytes = 77
    assert storage.value("pocketkv_storage_memory_bytes", tier="dram") == 1_000_000
    assert storage.value("pocketkv_storage_used_bytes", tier="dram") == 77


def test_commands_and_errors_are_counted(process: Process) -> None:
    process.node.command_stats["client|list"] = stats(10, 20, 30, failed=2)
    process.node.error_stats["WRONGTYPE"] = 9
    assert process.value("pocketkv_commands_total", command="client|list") == 3
    assert process.value("pocketkv_commands_failed_total", command="client|list") == 2
    assert process.value("pocketkv_errors_total", code="WRONGTYPE") == 9


def test_what_a_node_records_is_what_is_shown(storage: Process) -> None:
    # The engine's own path, not numbers of this test's making.
    node = storage.node
    node.keyspace.open("default").own_everything()
    times_ns = iter([0, 100, 0, 1_000_000, 0, 1_000_000_000, 0, 0])
    node.stopwatch = Stopwatch(times_ns.__next__)
    near, far = socket.socketpair()
    with far:
        connection = ClientConnection(storage.reactor, near)
        session = node.open_session(connection, "a:1", "b:2")
        for request in ([b"SET", b"k", b"v"], [b"GET", b"k"], [b"GET", b"absent"]):
            assert not isinstance(gate.run(session, request), ErrorReply)
        assert isinstance(gate.run(session, [b"NOSUCH"]), ErrorReply)
        connection.close()
    assert storage.value("pocketkv_command_duration_seconds_count", command="get") == 2
    assert storage.value("pocketkv_command_duration_seconds_sum", command="get") == 1.001
    assert storage.value("pocketkv_commands_total", command="set") == 1
    assert storage.value("pocketkv_job_commands_total", job="default") == 3
    assert storage.value("pocketkv_job_hits_total", job="default") == 1
    assert storage.value("pocketkv_job_misses_total", job="default") == 1
    assert storage.value("pocketkv_errors_total", code="ERR") == 1


def test_connections_and_traffic_are_shown(process: Process) -> None:
    near, far = socket.socketpair()
    with far:
        connection = ClientConnection(process.reactor, near)
        process.reactor.add(connection)
        connection.received_bytes, connection.sent_bytes = 10, 20
        connection.outbox.write(b"xyz")
        process.reactor.accepted = 4
        process.reactor.dropped["it does not read its replies"] = 2
        shown = {
            "pocketkv_connections": 1.0,
            "pocketkv_received_bytes_total": 10.0,
            "pocketkv_sent_bytes_total": 20.0,
            "pocketkv_unsent_bytes": 3.0,
        }
        assert {name: process.value(name, side="client") for name in shown} == shown
        connection.close()
    assert process.value("pocketkv_connections", side="client") == 0
    assert process.value("pocketkv_received_bytes_total", side="client") == 10
    assert process.value("pocketkv_connections_received_total") == 4
    reason = "it does not read its replies"
    assert process.value("pocketkv_connections_dropped_total", reason=reason) == 2
    assert process.value("pocketkv_connections_max") == process.reactor.connections_max


def test_the_process_is_shown(process: Process) -> None:
    sampler = process.sampler
    sampler.cpu_fraction, sampler.descriptors, sampler.threads = 0.25, 17, 2
    sampler.network_received_bytes, sampler.network_sent_bytes = 1000, 2000
    process.node.clock.set(53_500)
    figures = sampler.figures
    expected = {
        "pocketkv_process_cpu_fraction": 0.25,
        "pocketkv_process_resident_memory_bytes": figures.rss_bytes,
        "pocketkv_process_open_descriptors": 17,
        "pocketkv_process_threads": 2,
        "pocketkv_process_uptime_seconds": 3.5,
        "pocketkv_machine_memory_bytes": figures.machine_memory_bytes,
        "pocketkv_machine_network_received_bytes_total": 1000,
        "pocketkv_machine_network_sent_bytes_total": 2000,
    }
    assert {name: process.value(name) for name in expected} == expected
    assert process.value("pocketkv_process_cpu_seconds_total", mode="user") == figures.cpu_user_s


def test_a_scrape_takes_no_sample(process: Process) -> None:
    before = process.sampler.figures
    process.scrape()
    assert process.sampler.figures is before


def test_the_build_is_shown(storage: Process) -> None:
    labels = {"version": __version__, "role": "storage", "tier": "dram"}
    cores = [dict(key[1])["core"] for key in storage.scrape() if key[0] == "pocketkv_build_info"]
    assert len(cores) == 1
    assert cores[0] in ("python", "compiled")
    assert storage.value("pocketkv_build_info", core=cores[0], **labels) == 1


# --- histograms --------------------------------------------------------------------------------


def buckets(process: Process, command: str) -> dict[float, float]:
    return {
        float(dict(labels)["le"]): value
        for (name, labels), value in process.scrape().items()
        if name == "pocketkv_command_duration_seconds_bucket" and ("command", command) in labels
    }


def test_durations_are_cumulative() -> None:
    process = Process("storage")
    process.node.command_stats["get"] = stats(1, 1000, 1024, 5000, 10**9, 10**12)
    found = buckets(process, "get")
    process.reactor.close()
    assert list(found.values()) == sorted(found.values())
    assert found[1.024e-6] == 2
    assert found[2.048e-6] == 3
    assert found[8.192e-6] == 4
    assert found[1.073741824] == 5
    assert found[8.589934592] == 5
    assert found[float("inf")] == 6


def test_every_duration_is_in_the_right_buckets() -> None:
    process = Process("storage")
    for power in range(41):
        for duration_ns in (2**power - 1, 2**power):
            if duration_ns.bit_length() > 40:
                continue
            process.node.command_stats["get"] = stats(duration_ns)
            for bound, count in buckets(process, "get").items():
                # A bound is exclusive here, which only a duration of just that length shows.
                assert count == (duration_ns < bound * 1e9)
    process.reactor.close()


def test_buckets_are_few_and_cover_what_matters(storage: Process) -> None:
    storage.node.command_stats["get"] = stats(1)
    found = list(buckets(storage, "get"))
    assert len(found) == 25
    assert (found[0], found[-2]) == (1.024e-6, 8.589934592)


def test_a_histogram_must_have_the_engine_s_buckets() -> None:
    with pytest.raises(ValueError, match="41 buckets"):
        metrics._cumulative(Histogram([1, 2], 3))


# --- hostile labels, other sources -------------------------------------------------------------

HOSTILE = ['a"b', "a\\b", "a\nb", "a\rb", "}\n# HELP x", "", "caf\xe9", "\udcff", "a" * 1000]


@pytest.mark.parametrize("label", HOSTILE)
def test_a_label_cannot_break_a_scrape(storage: Process, label: str) -> None:
    storage.node.error_stats = {label: 3, "ERR": 4}
    found = {
        dict(labels)["code"]: value
        for (name, labels), value in storage.scrape().items()
        if name == "pocketkv_errors_total"
    }
    shown = label.encode("utf-8", "backslashreplace").decode()
    assert found == {shown: 3, "ERR": 4}
    assert scraped(storage) == storage.metrics.render()[0]


MOVES = Name("moves_total", "counter", "Slots moved.", ("from", "to"))
MOVE_DURATION = Name("move_duration_seconds", "histogram", "Time that a move took.")


def test_a_plane_adds_figures_of_its_own(process: Process) -> None:
    counted = stats(2_000_000)

    def moves() -> Iterable[Figures]:
        yield Figures(MOVES).add(2, "a", "b").add(1, "b", "a")
        yield Figures(MOVE_DURATION).add(Histogram(counted.buckets, counted.total_ns))

    process.metrics.sources.append(moves)
    assert process.scrape()["pocketkv_moves_total", frozenset({("from", "a"), ("to", "b")})] == 2
    assert process.value("pocketkv_move_duration_seconds_sum") == 0.002
    assert process.value("pocketkv_move_duration_seconds_bucket", le="0.002097152") == 1


def test_figures_must_fit_their_name() -> None:
    with pytest.raises(ValueError, match="has the labels"):
        Figures(MOVES).add(1, "a")
    wrong: list[tuple[Name, Any]] = [(MOVE_DURATION, 1), (MOVES, Histogram([0] * 41, 0))]
    for name, value in wrong:
        figures = Figures(name).add(value, *name.labels)
        with pytest.raises(TypeError):
            metrics._family(name, figures.values)


def test_registries_are_apart() -> None:
    one, two = Process("storage"), Process("router")
    assert isinstance(one.metrics.registry, CollectorRegistry)
    assert one.metrics.registry is not two.metrics.registry
    assert metrics.render(one.metrics.registry) == one.metrics.render()
    one.reactor.close()
    two.reactor.close()


# --- scraping in slices ------------------------------------------------------------------------


def scraped(process: Process) -> bytes:
    answers: list[tuple[int, str, bytes]] = []

    async def main() -> None:
        answers.append(await process.metrics.scrape())

    trio.run(main)
    (answer,) = answers
    assert answer[:2] == (200, "text/plain; version=0.0.4; charset=utf-8")
    return answer[2]


def test_slices_make_the_same_scrape(process: Process) -> None:
    assert scraped(process) == process.metrics.render()[0]
    for number in range(250):
        process.node.command_stats[f"c{number}"] = stats(number)
        process.node.keyspace.open(f"job-{number}").quota_bytes = number
    assert scraped(process) == process.metrics.render()[0]


def test_others_run_while_a_large_scrape_is_made(storage: Process) -> None:
    for number in range(1000):
        storage.node.keyspace.open(f"job-{number}")
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await storage.metrics.scrape()
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert turns >= 1000 * len(metrics.ON_STORAGE) // 2 // 100


def test_a_job_may_end_while_a_scrape_is_made(storage: Process) -> None:
    for number in range(500):
        storage.node.keyspace.open(f"job-{number}")

    async def end_jobs() -> None:
        for number in range(500):
            storage.node.keyspace.drop(f"job-{number}")
            storage.node.keyspace.open(f"new-{number}")
            storage.node.command_stats[f"c{number}"] = stats(1)
            await trio.lowlevel.checkpoint()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end_jobs)
            _, _, body = await storage.metrics.scrape()
            assert samples(body)

    trio.run(main)
