"""One run of the benchmarks: servers are started, works are done, what happened is kept."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import machine, memory, moves, servers, tails, tiers
from benchmarks.client import BenchmarkError
from benchmarks.comparison import Row
from benchmarks.exchanges import Operation
from benchmarks.floor import floor_server, ways
from benchmarks.kept import Outcome
from benchmarks.sampling import (
    Result,
    Sample,
    Settings,
    Work,
    measure,
    measure_floor,
    missing_commands,
)
from benchmarks.servers import Endpoint
from benchmarks.works import MIB, router_works, size_name, works

_MEMORY_GROUP = "memory"
_PER_KEY = "memory-per-key"
_QUICK_TAILS = frozenset(("tails-get",))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to measure.

    Attributes:
        settings: How thoroughly.
        is_quick: Whether only the works of a quick run are done.
        only: Names of works or groups; empty: all.
        with_direct: Whether storage servers are compared with Redis.
        with_router: Whether routers are compared with storage servers.
        with_noise: Whether a second Redis stands for PocketKV: then all ratios should be 1.
        keys: How many keys are set to see what one costs.
        honest_bytes: How much is stored to see whether the account of it is true.
        time_s: After so long nothing more is begun: what is left then was not measured.
        allows_plain: Whether a hot path that is not compiled may be measured.
        tier_folder: Where file tiers keep their values.
        tier_bytes: How much is stored there for each of their works.
    """

    settings: Settings
    is_quick: bool
    only: frozenset[str]
    with_direct: bool
    with_router: bool
    with_noise: bool
    keys: int
    honest_bytes: int
    time_s: float
    allows_plain: bool = False
    tier_folder: str = "build/tiers"
    tier_bytes: int = 0

    def includes(self, name: str, group: str, *, is_quick: bool) -> bool:
        """Whether a work is to be done; one that is named is done in a quick run too."""
        if self.only:
            return name in self.only or group in self.only
        return is_quick or not self.is_quick


def memory_names() -> dict[str, int | None]:
    """Return the measurements of memory, each with the size of its values if that has to be."""
    honest = {
        f"memory-honest-{size_name(value_bytes)}": value_bytes
        for value_bytes in memory.HONESTY_VALUES_BYTES
    }
    return {_PER_KEY: None, **honest}


def known_names() -> dict[str, list[str]]:
    """Return all names that `Plan.only` may have: groups, and the works in each."""
    groups: dict[str, list[str]] = {}
    for work in [*works(), *router_works()]:
        groups.setdefault(work.group, []).append(work.name)
    groups[tails.GROUP] = list(tails.names())
    groups[_MEMORY_GROUP] = list(memory_names())
    groups[tiers.GROUP] = list(tiers.NAMES)
    groups[moves.GROUP] = [moves.NAME]
    return groups


@dataclass
class Session:
    """A run.

    Attributes:
        plan: What to measure.
        results: The works that were measured.
        rows: The lines of the table.
        others: Samples of what is no work, by group and name.
        unknown: Commands that could not be measured, since PocketKV does not know them.
        left_out: What was not measured since this machine lacks what it takes, in sentences.
        failures: What should have been measured and could not be, in sentences.
        core: Which core of PocketKV served: compiled or plain Python.
    """

    plan: Plan
    results: list[Result] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    core: str = "unknown"
    _floors: dict[tuple[object, ...], dict[str, list[Sample]]] = field(default_factory=dict)
    _began_s: float = 0.0

    def run(self) -> None:
        """Measure all that is planned. What fails is kept, and the rest is gone on with.

        Raises:
            BenchmarkError: The hot path is not compiled, and the plan does not allow that.
        """
        self._began_s = time.monotonic()
        if not (self.plan.allows_plain or self.plan.with_noise):
            machine.require_compiled()
        if self.plan.with_direct:
            self._attempt("works beside Redis", self._compare_with_redis)
            self._measure_memory()
            if not self.plan.with_noise:
                self._attempt("file tiers", self._measure_tiers)
                self._attempt("live moves", self._measure_moves)
        if self.plan.with_router:
            self._attempt("works through the router", self._compare_with_router)

    @property
    def took_s(self) -> float:
        """How long it has taken."""
        return time.monotonic() - self._began_s

    def _attempt(self, what: str, act: Callable[[], None]) -> None:
        if self.took_s > self.plan.time_s:
            self.failures.append(f"{what}: the {self.plan.time_s / 60:g} minutes were over")
            return
        try:
            act()
        except (BenchmarkError, OSError) as error:
            self.failures.append(f"{what}: {error}")
            _say(f"{what}: not measured: {error}")

    def _chosen(self, listed: Sequence[Work]) -> list[Work]:
        includes = self.plan.includes
        return [w for w in listed if includes(w.name, w.group, is_quick=w.is_quick)]

    @contextmanager
    def _start_ours(self) -> Iterator[Endpoint]:
        start = servers.redis_server if self.plan.with_noise else servers.storage_server
        with start() as endpoint:
            self.core = "another Redis" if self.plan.with_noise else self._core_of(endpoint)
            yield endpoint

    # --- works ---------------------------------------------------------------------------------

    def _compare_with_redis(self) -> None:
        chosen = self._chosen(works())
        of_tails = [
            name
            for name in tails.names()
            if self.plan.includes(name, tails.GROUP, is_quick=name in _QUICK_TAILS)
        ]
        if not chosen and not of_tails:
            return
        with self._start_ours() as ours, servers.redis_server() as theirs:
            for work in chosen:
                self._compare(work, ours, theirs)
            for name in of_tails:
                _say(f"{name} ...")
                self._attempt(name, partial(self._measure_tails, name, ours, theirs))
                _check_alive(name, ours, theirs)

    def _compare_with_router(self) -> None:
        chosen = self._chosen(router_works())
        if not chosen:
            return
        with servers.cluster() as (router, direct):
            self._core_of(router)
            self.core = self._core_of(direct)
            for work in chosen:
                self._compare(work, router, direct)

    def _core_of(self, endpoint: Endpoint) -> str:
        """Which core serves there.

        Raises:
            BenchmarkError: It is not the compiled one, and the plan does not allow that.
        """
        with endpoint.client() as client:
            core = client.info().get("pocketkv_core", "unknown")
        if core != "compiled" and not self.plan.allows_plain:
            raise BenchmarkError(f"{endpoint.name} does not run the compiled hot path, but: {core}")
        return core

    def _compare(self, work: Work, ours: Endpoint, theirs: Endpoint) -> None:
        _say(f"{work.title} ...")
        missing = missing_commands(work, ours) if work.is_optional else []
        if missing:
            self.unknown.update(missing)
            return
        label = f"{work.title} ({work.driver})"
        self._attempt(label, partial(self._measure, work, ours, theirs))
        _check_alive(label, ours, theirs)

    def _measure(self, work: Work, ours: Endpoint, theirs: Endpoint) -> None:
        settings = self.plan.settings
        result = measure(work, ours, theirs, settings)
        if work.has_floor and work.operation and settings.floor_runs:
            result = replace(result, floor=self._floor_of(work, work.operation))
        self.results.append(result)
        self.rows += result.rows()

    def _floor_of(self, work: Work, operation: Operation) -> dict[str, list[Sample]]:
        """The floor of a work; the same one where two drivers send the same work."""
        kind = (work.group, operation, work.value_bytes, work.pipeline)
        if kind not in self._floors:
            taken = {}
            for way in ways(operation, work.value_bytes):
                with floor_server(operation, work.value_bytes, work.pipeline, way) as floor:
                    taken[way] = measure_floor(work, floor, self.plan.settings)
            self._floors[kind] = taken
        return self._floors[kind]

    def _measure_tails(self, name: str, ours: Endpoint, theirs: Endpoint) -> None:
        result = tails.measure(name, ours, theirs, self.plan.settings)
        self.rows += result.rows()
        self.others.setdefault(tails.GROUP, {})[name] = {
            "ours": [asdict(sample) for sample in result.ours],
            "theirs": [asdict(sample) for sample in result.theirs],
        }

    # --- memory --------------------------------------------------------------------------------

    def _measure_memory(self) -> None:
        for name, value_bytes in memory_names().items():
            if self.plan.includes(name, _MEMORY_GROUP, is_quick=True):
                self._attempt(name, partial(self._measure_one_memory, name, value_bytes))

    def _measure_one_memory(self, name: str, value_bytes: int | None) -> None:
        plan = self.plan
        _say(f"{name} ...")
        if value_bytes is None:
            row, held = memory.bytes_per_key(self._start_ours, servers.redis_server, plan.keys)
            rows = [row]
        else:
            rows, held = memory.honesty(
                self._start_ours, servers.redis_server, value_bytes, plan.honest_bytes
            )
        self.rows += rows
        self.others.setdefault(_MEMORY_GROUP, {})[name] = [asdict(one) for one in held]

    # --- file tiers ----------------------------------------------------------------------------

    def _measure_tiers(self) -> None:
        plan = self.plan
        chosen = []
        for name in tiers.NAMES:
            if plan.includes(name, tiers.GROUP, is_quick=name in tiers.QUICK):
                if missing := tiers.missing_program(name):
                    self.left_out.append(f"{name}: {missing}")
                else:
                    chosen.append(name)
        if not chosen:
            return
        ground = tiers.Ground(
            folder=Path(plan.tier_folder), size_bytes=plan.tier_bytes, settings=plan.settings
        )
        with tiers.bench(ground) as bench:
            self.core = self._core_of(bench.ours)
            for name in chosen:
                _say(f"{name} ...")
                self._attempt(name, partial(self._measure_tier, name, bench))
                _check_alive(name, bench.ours)

    def _measure_tier(self, name: str, bench: tiers.Bench) -> None:
        taken = bench.take(name)
        self.rows += taken.rows
        self.others.setdefault(tiers.GROUP, {})[name] = taken.samples

    # --- live moves ----------------------------------------------------------------------------

    def _measure_moves(self) -> None:
        if not self.plan.includes(moves.NAME, moves.GROUP, is_quick=False):
            return
        taken = []
        for _ in range(self.plan.settings.pairs):
            _say(f"{moves.NAME} ...")
            taken.append(moves.measure(self.plan.tier_bytes // MIB))
        self.rows += moves.rows(taken)
        self.others[moves.GROUP] = {moves.NAME: [asdict(one) for one in taken]}

    # --- what came out -------------------------------------------------------------------------

    def remarks(self) -> list[str]:
        """Return what one should know of the figures, in sentences."""
        works_by_driver: dict[str, list[str]] = {}
        for result in self.results:
            if result.is_driver_bound:
                works_by_driver.setdefault(result.work.driver, []).append(result.work.title)
        said = [
            f"Here the driver ({driver}) was at its limit and a server was not, so that throughput"
            f" says little and CPU per operation says it: {'; '.join(titles)}."
            for driver, titles in works_by_driver.items()
        ]
        if self.unknown:
            names = " ".join(sorted(self.unknown))
            said.append(f"Left out, since PocketKV does not know the command yet: {names}.")
        said += [f"Left out: {sentence}." for sentence in self.left_out]
        said += [f"NOT MEASURED: {sentence}." for sentence in self.failures]
        return said

    def outcome(self, described: dict[str, Any]) -> Outcome:
        """Return what came out, with what it is from."""
        return Outcome(
            machine={**described, "pocketkv_core": self.core},
            plan={**asdict(self.plan), "only": sorted(self.plan.only)},
            results=self.results,
            rows=self.rows,
            others=self.others,
            remarks=self.remarks(),
            took_s=self.took_s,
        )


def _check_alive(what: str, *endpoints: Endpoint) -> None:
    for endpoint in endpoints:
        if not endpoint.is_alive():
            raise BenchmarkError(f"{endpoint.name} has died during {what}")


def _say(text: str) -> None:
    """Show progress, beside the table and not in it."""
    print(text, file=sys.stderr, flush=True)
