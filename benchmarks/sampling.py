"""How one work is measured: filled, tried, then run by both servers in turns."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final

from benchmarks.client import BenchmarkError, Client, Counts
from benchmarks.comparison import Row, Target, differences, ratios, spread
from benchmarks.driver import Driver
from benchmarks.exchanges import Operation
from benchmarks.redis_benchmark import PROGRAM
from benchmarks.servers import HOST, Endpoint

MEASURES: Final = ("throughput", "CPU per operation", "p50", "p99")
"""What every work is measured by; all but the first are in microseconds."""

THROUGHPUT, CPU, P50, P99 = MEASURES

OWN_DRIVER: Final = "own"
DRIVER_BOUND: Final = "driver at its limit"
FIRST_BYTES: Final = "to the first bytes"
# redis-benchmark stops its watch when a reply begins to arrive; it receives so much at a time.
_LONG_REPLY_BYTES: Final = 16 * 1024

_OPERATIONS_MAX: Final = 5_000_000
# How much of a run's time servers and drivers are warmed up, after the trial.
_WARM_UP_SHARE: Final = 0.25
# The floor is steady, so its runs can be short.
_FLOOR_SHARE: Final = 0.5
# Look-ups that the server may count beside or short of those of the work.
_HITS_TOLERANCE: Final = 0.001
# A driver took all of its time while the server had some left: then the figure is the driver's.
_BUSY_DRIVER: Final = 0.85
_IDLE_SERVER: Final = 0.8


Targets = Mapping[str, Target]
"""What comparisons must be, by measure."""


def fill_nothing(_client: Client, _operations: int) -> int:
    """Leave the server empty; as `Work.fill`."""
    return 0


@contextlib.contextmanager
def no_company(_endpoint: Endpoint) -> Iterator[None]:
    """A work that runs alone."""
    yield


@dataclass(frozen=True, kw_only=True)
class Work:
    """One line of the list of works.

    Attributes:
        name: Its name on the command line.
        group: The name that it shares with works of its kind.
        title: What the table calls it.
        make_driver: Makes what sends it.
        fill: Puts into an empty server what the work finds there, given how many operations
            will follow; returns how many keys that is.
        is_consumed: Whether the work uses up, or adds to, what is there: then each run begins
            with an empty server that is filled anew.
        company: What else goes on at a server meanwhile.
        targets: What the comparison must be, by measure.
        differences: Measures whose difference is compared instead of their ratio.
        needs: Commands without which it cannot be run.
        is_optional: Whether it is left out where PocketKV does not know such a command yet; any
            other work that cannot be run fails the whole run.
        hits: Look-ups of each operation that must find their key, as the server counts them; 0
            where it counts none, or where the driver sees by the replies.
        trial_operations: How many are tried, to see how many make a run.
        operation, value_bytes, pipeline: What it sends, for works that the floor can do too.
        has_floor: Whether the floor is measured beside.
        floor_driver: Makes what the floor is driven by.
        is_own_driver: Whether a driver of ours sends it, and not redis-benchmark; only then all
            of the floor's figures compare, otherwise only its CPU time does.
        is_quick: Whether it is part of a quick run.
    """

    name: str
    group: str
    title: str
    make_driver: Callable[[], Driver]
    fill: Callable[[Client, int], int] = fill_nothing
    is_consumed: bool = False
    company: Callable[[Endpoint], AbstractContextManager[None]] = no_company
    targets: Targets = field(default_factory=dict)
    differences: frozenset[str] = frozenset()
    needs: Sequence[str] = ()
    is_optional: bool = False
    hits: int = 0
    trial_operations: int = 1000
    operation: Operation | None = None
    value_bytes: int = 0
    pipeline: int = 1
    has_floor: bool = False
    floor_driver: Callable[[], Driver] | None = None
    is_own_driver: bool = False
    is_quick: bool = False

    @property
    def driver(self) -> str:
        """What the table calls its driver."""
        return OWN_DRIVER if self.is_own_driver else PROGRAM


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one work by one server."""

    operations: int
    duration_s: float
    server_cpu_s: float
    driver_cpu_s: float
    p50_us: float
    p99_us: float

    def figure(self, measure: str) -> float:
        """Return a measure, in operations per second or in microseconds."""
        figures = {
            THROUGHPUT: self.operations / self.duration_s,
            CPU: self.server_cpu_s / self.operations * 1e6,
            P50: self.p50_us,
            P99: self.p99_us,
        }
        return figures[measure]

    @property
    def is_driver_bound(self) -> bool:
        """Whether the driver was at its limit and the server was not."""
        driver, server = self.driver_cpu_s / self.duration_s, self.server_cpu_s / self.duration_s
        return driver > _BUSY_DRIVER and server < _IDLE_SERVER


@dataclass(frozen=True, slots=True)
class Settings:
    """How thoroughly to measure.

    Attributes:
        pairs: Runs by each server.
        run_s: How long a run takes, about.
        floor_runs: Runs by the floor.
    """

    pairs: int
    run_s: float
    floor_runs: int


@dataclass(frozen=True, slots=True)
class Result:
    """All runs of a work; `ours[i]` and `theirs[i]` are a pair; the floor's by way of sending."""

    work: Work
    ours: list[Sample]
    theirs: list[Sample]
    floor: Mapping[str, Sequence[Sample]]

    @property
    def is_driver_bound(self) -> bool:
        """Whether most runs of one of the servers were limited by the driver."""
        return any(
            sum(sample.is_driver_bound for sample in side) * 2 > len(side)
            for side in (self.ours, self.theirs)
        )

    def rows(self) -> list[Row]:
        """Return the lines of the table, one for each measure."""
        return [self._row(measure) for measure in MEASURES]

    def _row(self, measure: str) -> Row:
        work = self.work
        ours = [sample.figure(measure) for sample in self.ours]
        theirs = [sample.figure(measure) for sample in self.theirs]
        is_difference = measure in work.differences
        return Row(
            work=work.title,
            driver=work.driver,
            measure=measure,
            unit="/s" if measure == THROUGHPUT else "us",
            ours=spread(ours).median,
            theirs=spread(theirs).median,
            compared=differences(ours, theirs) if is_difference else ratios(ours, theirs),
            target=work.targets.get(measure),
            floor=self._floor_figure(measure),
            is_less_better=measure != THROUGHPUT,
            is_difference=is_difference,
            note=self._note(measure),
        )

    def _note(self, measure: str) -> str:
        work = self.work
        if measure == THROUGHPUT and self.is_driver_bound:
            return DRIVER_BOUND
        is_long_reply = work.operation == "GET" and work.value_bytes >= _LONG_REPLY_BYTES
        if measure in (P50, P99) and is_long_reply and not work.is_own_driver:
            return FIRST_BYTES
        return ""

    def _floor_figure(self, measure: str) -> float | None:
        """The best of the ways of sending."""
        if not self.floor or not (self.work.is_own_driver or measure == CPU):
            return None
        medians = [
            spread([sample.figure(measure) for sample in samples]).median
            for samples in self.floor.values()
        ]
        return max(medians) if measure == THROUGHPUT else min(medians)


def turns(pairs: int) -> Iterator[tuple[int, int]]:
    """Yield who runs first and who second in each pair: each is first as often as the other."""
    for number in range(pairs):
        yield (0, 1) if number % 2 == 0 else (1, 0)


def operations_of_a_run(rates: Sequence[float], run_s: float, trial_operations: int) -> int:
    """Return how many operations the slowest server does in the time of a run.

    The same for all, and not less than the trial's.
    """
    wanted = int(min(rates) * run_s)
    return max(trial_operations, min(wanted, _OPERATIONS_MAX))


def measure(work: Work, ours: Endpoint, theirs: Endpoint, settings: Settings) -> Result:
    """Have a work done by both servers, in turns.

    Raises:
        BenchmarkError: A reply was an error or not the one that is due.
        OSError: A server went away.
    """
    driver = work.make_driver()
    endpoints = (ours, theirs)
    taken: tuple[list[Sample], list[Sample]] = ([], [])
    with contextlib.ExitStack() as company:
        for endpoint in endpoints:
            company.enter_context(work.company(endpoint))
        rates = [_warmed_up(work, driver, endpoint, settings) for endpoint in endpoints]
        operations = operations_of_a_run(rates, settings.run_s, work.trial_operations)
        for order in turns(settings.pairs):
            for index in order:
                if work.is_consumed:
                    prepare(work, endpoints[index], operations)
                sample = take(driver, endpoints[index], operations, hits=work.hits)
                taken[index].append(sample)
    for endpoint in endpoints:
        with endpoint.client() as client:
            client.call("FLUSHALL")
    return Result(work, *taken, floor={})


def _warmed_up(work: Work, driver: Driver, endpoint: Endpoint, settings: Settings) -> float:
    """Fill a server and let it do a part of the work; how many operations it does per second."""
    operations = work.trial_operations
    rate = 0.0
    # The first few are slower than all others: connections are new, memory is touched first.
    for _ in range(2):
        if not rate or work.is_consumed:
            prepare(work, endpoint, operations)
        rate = take(driver, endpoint, operations, hits=work.hits).figure(THROUGHPUT)
        warm_up_s = settings.run_s * _WARM_UP_SHARE
        operations = operations_of_a_run([rate], warm_up_s, work.trial_operations)
    return rate


def measure_floor(work: Work, endpoint: Endpoint, settings: Settings) -> list[Sample]:
    """Have the floor do a work; otherwise as `measure`."""
    assert work.floor_driver is not None
    driver = work.floor_driver()
    trial = take(driver, endpoint, work.trial_operations, asks_for_counts=False)
    rates = [trial.figure(THROUGHPUT)]
    run_s = settings.run_s * _FLOOR_SHARE
    operations = operations_of_a_run(rates, run_s, work.trial_operations)
    return [
        take(driver, endpoint, operations, asks_for_counts=False)
        for _ in range(settings.floor_runs)
    ]


def prepare(work: Work, endpoint: Endpoint, operations: int) -> None:
    """Empty a server, and put into it what the work needs.

    Raises:
        BenchmarkError: It does not hold as many keys afterwards as it should.
    """
    with endpoint.client() as client:
        client.call("FLUSHALL")
        expected = work.fill(client, operations)
        held = client.call("DBSIZE")
    if held != expected:
        raise BenchmarkError(f"{endpoint.name} holds {held} keys instead of {expected}")


def take(
    driver: Driver,
    endpoint: Endpoint,
    operations: int,
    *,
    hits: int = 0,
    asks_for_counts: bool = True,
) -> Sample:
    """Return one run, with the CPU time that the server's processes took for it.

    Args:
        driver: What sends the work.
        endpoint: The server.
        operations: About how many.
        hits: Look-ups of each that must find their key.
        asks_for_counts: Whether the server can tell what it did.

    Raises:
        BenchmarkError: By the server's own counts, it sent error replies or looked up keys that
            are not there: both are fast, and no work.
    """
    with contextlib.ExitStack() as stack:
        control = stack.enter_context(endpoint.client()) if asks_for_counts else None
        before = control.counts() if control else None
        cpu_before = endpoint.cpu()
        driven = driver.run(HOST, endpoint.port, operations)
        server_cpu_s = endpoint.cpu().since(cpu_before)
        if control and before:
            counts = control.counts().since(before)
            check_counts(endpoint.name, counts, hits * driven.operations)
    return Sample(
        operations=driven.operations,
        duration_s=driven.duration_s,
        server_cpu_s=server_cpu_s,
        driver_cpu_s=driven.driver_cpu_s,
        p50_us=driven.p50_us,
        p99_us=driven.p99_us,
    )


def check_counts(name: str, counts: Counts, hits: int) -> None:
    """Make sure that a server has done what was asked of it, by its own counts of one run.

    Args:
        name: The server's.
        counts: What it counted.
        hits: Look-ups that must have found their key; 0 if that is not known.

    Raises:
        BenchmarkError: It has not.
    """
    if counts.errors:
        raise BenchmarkError(f"{name} has sent {counts.errors} error replies")
    if hits and counts.misses:
        raise BenchmarkError(
            f"{name} looked up {counts.misses} keys that are not there, and {counts.hits} that are"
        )
    if counts.hits < hits * (1 - _HITS_TOLERANCE):
        raise BenchmarkError(f"{name} found {counts.hits} keys in {hits} look-ups")


def missing_commands(work: Work, endpoint: Endpoint) -> list[str]:
    """Return which of the commands that a work needs a server does not know."""
    with endpoint.client() as client:
        return [name for name in work.needs if not client.knows(name)]
