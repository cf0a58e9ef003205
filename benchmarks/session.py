"""One run of the benchmarks: servers are started, works are done, what happened is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from benchmarks import memory, servers
from benchmarks.client import BenchmarkError
from benchmarks.comparison import Row
from benchmarks.exchanges import Operation
from benchmarks.floor import floor_server, ways
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
from benchmarks.works import router_works, size_name, works

_MEMORY_GROUP = "memory"
_PER_KEY = "memory-per-key"


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
    """

    settings: Settings
    is_quick: bool
    only: frozenset[str]
    with_direct: bool
    with_router: bool
    with_noise: bool
    keys: int
    honest_bytes: int

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
    groups[_MEMORY_GROUP] = list(memory_names())
    return groups


@dataclass
class Session:
    """A run.

    Attributes:
        plan: What to measure.
        results: The works that were measured.
        rows: The lines of the table.
        held: What servers held when their memory was measured, by measurement.
        unknown: Commands that could not be measured, since PocketKV does not know them.
        skipped: What was left out, and why, in sentences.
        failures: What should have been measured and could not be, in sentences.
        core: Which core of PocketKV served: compiled or plain Python.
    """

    plan: Plan
    results: list[Result] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    held: dict[str, list[memory.Held]] = field(default_factory=dict)
    unknown: set[str] = field(default_factory=set)
    skipped: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    core: str = "unknown"

    def run(self) -> None:
        """Measure all that is planned. What fails is kept, and the rest is gone on with."""
        if self.plan.with_direct:
            self._attempt("works beside Redis", self._compare_with_redis)
            self._measure_memory()
        if self.plan.with_router:
            self._attempt("works through the router", self._compare_with_router)

    def _attempt(self, what: str, act: Callable[[], None]) -> None:
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
            self._ask_core(endpoint)
            yield endpoint

    # --- works ---------------------------------------------------------------------------------

    def _compare_with_redis(self) -> None:
        chosen = self._chosen(works())
        if not chosen:
            return
        with self._start_ours() as ours, servers.redis_server() as theirs:
            for work in chosen:
                self._compare(work, ours, theirs)

    def _compare_with_router(self) -> None:
        chosen = self._chosen(router_works())
        if not chosen:
            return
        try:
            with servers.cluster() as (router, direct):
                self._ask_core(direct)
                for work in chosen:
                    self._compare(work, router, direct)
        except BenchmarkError as error:
            self.skipped.append(f"everything through the router: {error}")
            _say(self.skipped[-1])

    def _ask_core(self, endpoint: Endpoint) -> None:
        with endpoint.client() as client:
            self.core = client.info().get("pocketkv_core", "unknown")

    def _compare(self, work: Work, ours: Endpoint, theirs: Endpoint) -> None:
        _say(f"{work.title} ...")
        missing = missing_commands(work, ours)
        if missing:
            self.unknown.update(missing)
            return
        self._attempt(work.title, partial(self._measure, work, ours, theirs))
        for endpoint in (ours, theirs):
            if not endpoint.is_alive():
                raise BenchmarkError(f"{endpoint.name} has died during {work.title}")

    def _measure(self, work: Work, ours: Endpoint, theirs: Endpoint) -> None:
        settings = self.plan.settings
        result = measure(work, ours, theirs, settings)
        if work.has_floor and work.operation and settings.floor_runs:
            result = replace(result, floor=self._measure_floor(work, work.operation))
        self.results.append(result)
        self.rows += result.rows()

    def _measure_floor(self, work: Work, operation: Operation) -> dict[str, list[Sample]]:
        taken = {}
        for way in ways(operation, work.value_bytes):
            with floor_server(operation, work.value_bytes, work.pipeline, way) as floor:
                taken[way] = measure_floor(work, floor, self.plan.settings)
        return taken

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
        self.held[name] = held

    # --- what came out -------------------------------------------------------------------------

    def remarks(self) -> list[str]:
        """Return what one should know of the figures, in sentences."""
        bound = [result.work.title for result in self.results if result.is_driver_bound]
        said = []
        if bound:
            said.append(
                "Here the driver was at its limit and a server was not, so that throughput says"
                f" little and CPU per operation says it: {'; '.join(bound)}."
            )
        if self.unknown:
            names = " ".join(sorted(self.unknown))
            said.append(f"Left out, since PocketKV does not know the command yet: {names}.")
        said += [f"Left out: {sentence}." for sentence in self.skipped]
        said += [f"NOT MEASURED: {sentence}." for sentence in self.failures]
        return said

    def as_json(self, machine: dict[str, Any], losses: Sequence[str]) -> dict[str, Any]:
        """Return everything: the machine, each sample, each line, and the words."""
        return {
            "machine": {**machine, "pocketkv_core": self.core},
            "plan": {**asdict(self.plan), "only": sorted(self.plan.only)},
            "works": [
                {
                    "name": result.work.name,
                    "group": result.work.group,
                    "title": result.work.title,
                    "ours": [asdict(sample) for sample in result.ours],
                    "theirs": [asdict(sample) for sample in result.theirs],
                    "floor": {
                        way: [asdict(sample) for sample in samples]
                        for way, samples in result.floor.items()
                    },
                }
                for result in self.results
            ],
            "memory": {name: [asdict(one) for one in held] for name, held in self.held.items()},
            "rows": [
                {
                    **asdict(row),
                    "target": None if row.target is None else str(row.target),
                    "verdict": row.verdict,
                }
                for row in self.rows
            ],
            "losses": list(losses),
            "remarks": self.remarks(),
        }


def _say(text: str) -> None:
    """Show progress, beside the table and not in it."""
    print(text, file=sys.stderr, flush=True)
