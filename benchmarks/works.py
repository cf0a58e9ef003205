"""The works: what is asked of the servers, how, and what the comparison must be.

They are sent by redis-benchmark, since it is what people compare servers with. Where it takes
longer for an operation than the server does, its figures are its own: it receives large values 16
KiB at a time, and it parses what it gets. So GET and SET of every size are there a second time, by
a driver of our own that leaves the server no pause.

Keys are drawn at random from as many as a work has, the same ones at both servers, and all of
them are there before anything is measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Final

from benchmarks.client import Client
from benchmarks.collection_works import collection_works
from benchmarks.comparison import Target
from benchmarks.driver import Flood, Ping
from benchmarks.exchanges import (
    OK,
    Operation,
    batches,
    command,
    exchanges,
    key,
    short_lives,
    value,
)
from benchmarks.helpers import helper
from benchmarks.redis_benchmark import RedisBenchmark
from benchmarks.sampling import CPU, P50, P99, THROUGHPUT, Targets, Work, fill_nothing
from benchmarks.servers import HOST, Endpoint

KIB: Final = 1024
MIB: Final = 1024 * KIB
SMALL_BYTES: Final = 100
CLIENTS: Final = 50
LARGE_CLIENTS: Final = 4
BUSY_CLIENTS: Final = 200
IDLE_CLIENTS: Final = 5000
PIPELINE: Final = 16
ROUTER_PREFIX: Final = "router / direct: "
TIERS_PREFIX: Final = "nvme tier: "
MOVES_PREFIX: Final = "moves: "
KEYS: Final = 100_000
"""Keys of a work, where values are small: more than the processor's nearer caches hold."""

# All values of a work together, where they are large.
_STORED_BYTES: Final = 64 * MIB
# So many that a run meets hardly any twice.
_MEMBERS: Final = 10_000_000
_TRIAL_OPERATIONS: Final = 1000
_KEY: Final = "key:__rand_int__"
_OPERATIONS: Final[tuple[Operation, ...]] = ("GET", "SET")

_EVEN: Final = {THROUGHPUT: Target(low=1.0), CPU: Target(high=1.0)}
_PIPELINED: Final = {THROUGHPUT: Target(low=1.2), CPU: Target(high=0.8)}
_LARGE_GET: Final = {THROUGHPUT: Target(low=1.3), CPU: Target(high=0.4)}
_LATENCY: Final = {P50: Target(high=1.1), P99: Target(high=1.3)}
_HOT: Final = {THROUGHPUT: Target(low=0.9)}
_ROUTED: Final = {THROUGHPUT: Target(low=0.5)}
_ROUTED_LARGE: Final = {THROUGHPUT: Target(low=0.6)}
_ROUTED_LATENCY: Final = {P50: Target(high=100, unit=" us")}

_SIZES_BYTES: Final = (16, SMALL_BYTES, KIB, 10 * KIB, 64 * KIB, 100 * KIB, MIB, 16 * MIB)
# From 64 KiB on a value has an extent of its own, so that is where the picture may bend.
_OWN_DRIVER_ONLY_BYTES: Final = frozenset((16, 64 * KIB))

# What a quick run does of the works: the ends of each kind.
_QUICK: Final = frozenset(
    "get-100 set-100 get-100-p16-own set-100-p16-own mget-10 get-1m-own set-1m-own"
    " latency-get router-get-100 router-get-1m-own router-latency-get".split()
)


def works() -> list[Work]:
    """Return what PocketKV and Redis are compared by, in the table's order."""
    made: list[Work] = []
    for size_bytes in _SIZES_BYTES:
        for operation in _OPERATIONS:
            targets = _LARGE_GET if operation == "GET" and size_bytes >= MIB else _EVEN
            if size_bytes not in _OWN_DRIVER_ONLY_BYTES:
                made.append(_benchmarked(operation, size_bytes, targets))
            made.append(_flooded(operation, size_bytes, targets))
    made.append(_short_lived(MIB))
    for operation in _OPERATIONS:
        made.append(_benchmarked(operation, SMALL_BYTES, _PIPELINED, pipeline=PIPELINE))
        made.append(_flooded(operation, SMALL_BYTES, _PIPELINED, pipeline=PIPELINE))
    made += _command_works()
    made += [_among_idle(operation) for operation in _OPERATIONS]
    for operation in _OPERATIONS:
        made.append(_pinged(operation, _LATENCY))
        made.append(_benchmarked_alone(operation, _LATENCY))
    return [replace(work, is_quick=work.name in _QUICK) for work in made + collection_works()]


def router_works() -> list[Work]:
    """Return what a router and the storage server behind it are compared by."""
    latency = replace(
        _pinged("GET", _ROUTED_LATENCY), differences=frozenset({P50, P99}), targets=_ROUTED_LATENCY
    )
    made = [
        _benchmarked("GET", SMALL_BYTES, _ROUTED),
        _benchmarked("SET", SMALL_BYTES, _ROUTED),
        _benchmarked("GET", SMALL_BYTES, _ROUTED, pipeline=PIPELINE),
        _flooded("GET", MIB, _ROUTED_LARGE),
        _flooded("SET", MIB, {}),
        latency,
    ]
    return [
        replace(
            work,
            name=f"router-{work.name}",
            group="router",
            title=f"{ROUTER_PREFIX}{work.title}",
            is_quick=f"router-{work.name}" in _QUICK,
            has_floor=False,
        )
        for work in made
    ]


def hot_work() -> Work:
    """Return what a file tier and the dram tier are compared by: values that need no disk."""
    return replace(
        _flooded("GET", MIB, _HOT),
        name="tiers-hot-1m",
        group="tiers",
        title=f"{TIERS_PREFIX}GET {size_title(MIB)} from the page cache, beside dram",
        has_floor=False,
    )


# --- kinds of works ------------------------------------------------------------------------------


def _benchmarked(
    operation: Operation, value_bytes: int, targets: Targets, *, pipeline: int = 1
) -> Work:
    """GET or SET by redis-benchmark."""
    arguments = ("-t", operation.lower(), "-d", str(value_bytes))
    keys = keys_of(value_bytes)
    clients = _clients(value_bytes)
    many = f", pipeline {pipeline}" if pipeline > 1 else ""
    return Work(
        name=_name(operation, value_bytes, pipeline),
        group=_group(value_bytes),
        title=f"{operation} {size_title(value_bytes)}, {clients} connections{many}",
        make_driver=partial(RedisBenchmark, arguments, clients, pipeline, keys),
        fill=partial(fill_strings, value_bytes, keys),
        targets=targets,
        needs=(operation,),
        hits=int(operation == "GET"),
        trial_operations=_trial_operations(value_bytes) * pipeline,
        operation=operation,
        value_bytes=value_bytes,
        pipeline=pipeline,
        has_floor=True,
        floor_driver=partial(_flood, operation, value_bytes, clients, pipeline),
    )


def _flooded(
    operation: Operation, value_bytes: int, targets: Targets, *, pipeline: int = 1
) -> Work:
    """GET or SET by our own driver."""
    other = _benchmarked(operation, value_bytes, targets, pipeline=pipeline)
    make_driver = partial(_flood, operation, value_bytes, _clients(value_bytes), pipeline)
    return replace(
        other,
        name=f"{other.name}-own",
        make_driver=make_driver,
        floor_driver=make_driver,
        is_own_driver=True,
        # Every reply is looked at, which is a better check.
        hits=0,
    )


def _short_lived(value_bytes: int) -> Work:
    """What a shuffle does with a value: it is set, got once, and removed."""
    clients = _clients(value_bytes)
    make = partial(short_lives, value_bytes, keys_of(value_bytes))
    return Work(
        name=f"shuffle-{size_name(value_bytes)}-own",
        group=_group(value_bytes),
        title=f"SET, GET, DEL {size_title(value_bytes)}, {clients} connections",
        make_driver=partial(Flood, make, clients),
        needs=("SET", "GET", "DEL"),
        trial_operations=_trial_operations(value_bytes),
        is_own_driver=True,
    )


def _pinged(operation: Operation, targets: Targets) -> Work:
    """GET or SET over one connection, one at a time, by our own driver."""
    make = partial(exchanges, operation, SMALL_BYTES, KEYS)
    return replace(
        _flooded(operation, SMALL_BYTES, targets),
        name=f"latency-{operation.lower()}",
        group="latency",
        title=f"{operation} {size_title(SMALL_BYTES)}, one connection",
        make_driver=partial(Ping, make),
        floor_driver=partial(Ping, make),
    )


def _benchmarked_alone(operation: Operation, targets: Targets) -> Work:
    """GET or SET over one connection, one at a time, by redis-benchmark."""
    arguments = ("-t", operation.lower(), "-d", str(SMALL_BYTES))
    return replace(
        _pinged(operation, targets),
        name=f"latency-{operation.lower()}-benchmark",
        make_driver=partial(RedisBenchmark, arguments, 1, 1, KEYS),
        hits=int(operation == "GET"),
        is_own_driver=False,
    )


def _among_idle(operation: Operation) -> Work:
    """GET or SET by some connections while many others are open."""
    busy = _benchmarked(operation, SMALL_BYTES, _EVEN)
    arguments = ("-t", operation.lower(), "-d", str(SMALL_BYTES))
    return replace(
        busy,
        name=f"idle-{operation.lower()}",
        group="idle",
        title=f"{operation} {size_title(SMALL_BYTES)},"
        f" {BUSY_CLIENTS} connections among {IDLE_CLIENTS} idle",
        make_driver=partial(RedisBenchmark, arguments, BUSY_CLIENTS, 1, KEYS),
        company=_idle_company,
        has_floor=False,
    )


def _command_works() -> list[Work]:
    """Other commands, by redis-benchmark."""
    sized = ("-d", str(SMALL_BYTES))
    # The number that redis-benchmark writes into a member has 12 digits.
    member = value(SMALL_BYTES - 12).decode() + "__rand_int__"
    keys = partial(fill_strings, SMALL_BYTES, KEYS)
    return [
        _command_work("mset-10", "MSET of 10 x 100 B", ("-t", "mset", *sized), keys),
        replace(
            _command_work("mget-10", "MGET of 10 x 100 B", ("MGET", *[_KEY] * 10), keys), hits=10
        ),
        _command_work("incr", "INCR", ("-t", "incr"), fill_counters),
        # Each adds a member, so a run begins with an empty set.
        replace(
            _command_work("sadd", "SADD 100 B", ("SADD", "myset", member), fill_nothing),
            make_driver=partial(RedisBenchmark, ("SADD", "myset", member), CLIENTS, 1, _MEMBERS),
            is_consumed=True,
        ),
        _command_work("exists", "EXISTS", ("EXISTS", _KEY), keys),
        _command_work("expire", "EXPIRE", ("EXPIRE", _KEY, "3600"), keys),
    ]


def _command_work(
    name: str, title: str, arguments: Sequence[str], fill: Callable[[Client, int], int]
) -> Work:
    return Work(
        name=name,
        group="commands",
        title=f"{title}, {CLIENTS} connections",
        make_driver=partial(RedisBenchmark, arguments, CLIENTS, 1, KEYS),
        fill=fill,
        targets=_EVEN,
        needs=(title.partition(" ")[0],),
    )


# --- parts of works ------------------------------------------------------------------------------


def fill_strings(value_bytes: int, keys: int, client: Client, _operations: int) -> int:
    """Set all keys of a work; as `Work.fill`, once the first two arguments are given."""
    for batch, count in _filling(value_bytes, keys):
        client.exchange(batch, OK, count)
    return keys


# Two servers are filled in turn, and the next work often uses the same keys.
@lru_cache(maxsize=1)
def _filling(value_bytes: int, keys: int) -> list[tuple[bytes, int]]:
    stored = value(value_bytes)
    return list(batches(command(b"SET", key(number), stored) for number in range(keys)))


def fill_counters(client: Client, _operations: int) -> int:
    """Set all counters of redis-benchmark's INCR to 0; as `Work.fill`."""
    client.send((command(b"SET", b"counter:%012d" % n, b"0") for n in range(KEYS)), OK)
    return KEYS


def keys_of(value_bytes: int) -> int:
    """Return how many keys of a size a work uses."""
    return max(2 * LARGE_CLIENTS, min(KEYS, _STORED_BYTES // value_bytes))


def size_title(size_bytes: int) -> str:
    """Return a size for people: ``100 B``, ``4 KiB``, ``1 MiB``."""
    for unit_bytes, unit in ((MIB, "MiB"), (KIB, "KiB")):
        if size_bytes >= unit_bytes:
            return f"{size_bytes // unit_bytes} {unit}"
    return f"{size_bytes} B"


def size_name(size_bytes: int) -> str:
    """Return a size as names have it: ``100``, ``4k``, ``1m``."""
    return size_title(size_bytes).lower().replace(" ", "").rstrip("ib")


def _name(operation: Operation, value_bytes: int, pipeline: int) -> str:
    """A name such as ``get-100``, ``set-16k``, ``get-100-p16``."""
    return f"{operation.lower()}-{size_name(value_bytes)}" + (
        f"-p{pipeline}" if pipeline > 1 else ""
    )


def _group(value_bytes: int) -> str:
    if value_bytes <= SMALL_BYTES:
        return "small"
    return "large" if value_bytes >= MIB else "sizes"


def _clients(value_bytes: int) -> int:
    return LARGE_CLIENTS if value_bytes >= MIB else CLIENTS


def _trial_operations(value_bytes: int) -> int:
    """Enough that every connection has its turn."""
    trials = min(_TRIAL_OPERATIONS, 100 * MIB // value_bytes)
    return max(2 * _clients(value_bytes), trials)


def _flood(operation: Operation, value_bytes: int, clients: int, pipeline: int) -> Flood:
    keys = keys_of(value_bytes)
    return Flood(partial(exchanges, operation, value_bytes, keys, pipeline), clients)


@contextlib.contextmanager
def _idle_company(endpoint: Endpoint) -> Iterator[None]:
    """Connections that do nothing, for as long as the block lasts."""
    with helper("idle", HOST, str(endpoint.port), str(IDLE_CLIENTS)):
        yield
