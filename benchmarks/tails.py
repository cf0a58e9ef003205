"""Light clients beside a heavy one: what 50 polite connections feel when another one pumps.

Each run measures the light clients alone, and then again while one connection keeps a pipeline of
1 MiB values under way. A server that serves the heavy one as long as it has something to send
shows in their p99; one that neglects it shows in its MiB per second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from benchmarks import heavy
from benchmarks.client import BenchmarkError, Client
from benchmarks.comparison import Row, ratios, spread
from benchmarks.exchanges import Operation, exchanges
from benchmarks.helpers import helper
from benchmarks.paced import Paced
from benchmarks.sampling import OWN_DRIVER, Settings, check_counts, turns
from benchmarks.servers import HOST, Endpoint
from benchmarks.works import CLIENTS, KEYS, SMALL_BYTES, fill_strings, size_title

GROUP: Final = "tails"
RATE: Final = 2000
"""Requests per second of all light clients together: a small part of what a server can do."""

_OPERATIONS: Final[tuple[Operation, ...]] = ("GET", "SET")
# For a p99 that does not hang on a handful of requests.
_RUN_MIN_S: Final = 0.5
_ALONE_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class TailSample:
    """One run by one server.

    Attributes:
        alone_p50_us, alone_p99_us: Latency of the light clients with nobody beside.
        beside_p50_us, beside_p99_us: The same beside the heavy client.
        heavy_mib_per_s: What the heavy client moved.
    """

    alone_p50_us: float
    alone_p99_us: float
    beside_p50_us: float
    beside_p99_us: float
    heavy_mib_per_s: float


@dataclass(frozen=True, slots=True)
class TailResult:
    """All runs of one work; `ours[i]` and `theirs[i]` are a pair."""

    name: str
    title: str
    ours: Sequence[TailSample]
    theirs: Sequence[TailSample]

    def rows(self) -> list[Row]:
        """Return the lines of the table."""
        return [
            self._row("p50 alone", "us", lambda sample: sample.alone_p50_us),
            self._row("p99 alone", "us", lambda sample: sample.alone_p99_us),
            self._row("p50 beside", "us", lambda sample: sample.beside_p50_us),
            self._row("p99 beside", "us", lambda sample: sample.beside_p99_us),
            self._row("heavy client", "MiB/s", lambda sample: sample.heavy_mib_per_s),
        ]

    def _row(self, measure: str, unit: str, figure: Callable[[TailSample], float]) -> Row:
        ours, theirs = list(map(figure, self.ours)), list(map(figure, self.theirs))
        return Row(
            work=self.title,
            driver=OWN_DRIVER,
            measure=measure,
            unit=unit,
            ours=spread(ours).median,
            theirs=spread(theirs).median,
            compared=ratios(ours, theirs),
            is_less_better=unit == "us",
        )


def names() -> dict[str, Operation]:
    """Return the works, each with what the heavy client does."""
    return {f"{GROUP}-{operation.lower()}": operation for operation in _OPERATIONS}


def title(operation: Operation) -> str:
    """Return what the table calls a work."""
    return f"{CLIENTS} light clients beside {size_title(heavy.VALUE_BYTES)} {operation}s"


def measure(name: str, ours: Endpoint, theirs: Endpoint, settings: Settings) -> TailResult:
    """Have a work done by both servers, in turns.

    Raises:
        BenchmarkError: A reply was an error or not the one that is due.
        OSError: A server went away.
    """
    operation = names()[name]
    light = Paced(partial(exchanges, "GET", SMALL_BYTES, KEYS), CLIENTS, RATE)
    endpoints = (ours, theirs)
    for endpoint in endpoints:
        with endpoint.client() as client:
            _fill(client)
        # A warm-up.
        _take(light, endpoint, operation, _RUN_MIN_S)
    taken: tuple[list[TailSample], list[TailSample]] = ([], [])
    for order in turns(settings.pairs):
        for index in order:
            run_s = max(settings.run_s, _RUN_MIN_S)
            taken[index].append(_take(light, endpoints[index], operation, run_s))
    for endpoint in endpoints:
        with endpoint.client() as client:
            client.call("FLUSHALL")
    return TailResult(name, title(operation), *taken)


def _fill(client: Client) -> None:
    client.call("FLUSHALL")
    due = fill_strings(SMALL_BYTES, KEYS, client, 0) + heavy.fill(client)
    held = client.call("DBSIZE")
    if held != due:
        raise BenchmarkError(f"a server holds {held} keys instead of {due}")


def _take(light: Paced, endpoint: Endpoint, operation: Operation, run_s: float) -> TailSample:
    count = int(RATE * run_s)
    with endpoint.client() as client:
        before = client.counts()
        alone = light.run(HOST, endpoint.port, int(count * _ALONE_SHARE))
        with helper("heavy", HOST, str(endpoint.port), operation) as pump:
            beside = light.run(HOST, endpoint.port, count)
        check_counts(endpoint.name, client.counts().since(before), hits=0)
    if not pump.result:
        raise BenchmarkError(f"the heavy client of {endpoint.name} has failed")
    return TailSample(
        alone_p50_us=alone.p50_us,
        alone_p99_us=alone.p99_us,
        beside_p50_us=beside.p50_us,
        beside_p99_us=beside.p99_us,
        heavy_mib_per_s=float(pump.result),
    )
