"""The works: what is asked of the servers, how, and what the comparison must be.

They are sent by redis-benchmark where that can, since it is what people compare servers with. It
cannot where it takes longer for an operation than the server does; so the smallest works are
there a second time ("flooded"), by a driver of our own that leaves the server no pause, and values
from 16 KiB on are sent by that alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Final

from benchmarks.client import Client
from benchmarks.collection_works import collection_works
from benchmarks.comparison import Target
from benchmarks.driver import Flood, Ping
from benchmarks.exchanges import Operation, exchanges, value
from benchmarks.helpers import helper
from benchmarks.redis_benchmark import KEYS, RedisBenchmark
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

# All values of a work together: more than the processor's nearer caches hold.
_STORED_BYTES: Final = 64 * MIB
_TRIAL_OPERATIONS: Final = 1000
_KEY: Final = "key:__rand_int__"
_OPERATIONS: Final[tuple[Operation, ...]] = ("GET", "SET")

_EVEN: Final = {THROUGHPUT: Target(low=1.0), CPU: Target(high=1.0)}
_PIPELINED: Final = {THROUGHPUT: Target(low=1.2), CPU: Target(high=0.8)}
_LARGE_GET: Final = {THROUGHPUT: Target(low=1.3), CPU: Target(high=0.4)}
_LATENCY: Final = {P50: Target(high=1.1), P99: Target(high=1.3)}
_ROUTED: Final = {THROUGHPUT: Target(low=0.5)}
_ROUTED_LARGE: Final = {THROUGHPUT: Target(low=0.6)}
_ROUTED_LATENCY: Final = {P50: Target(high=100, unit=" us")}

# What a quick run does of the works: the ends of each kind.
_QUICK: Final = frozenset(
    "get-100 set-100 get-100-p16 set-100-p16 mget-10 get-100k get-1m set-1m latency-get"
    " router-get-100 router-get-1m router-latency-get".split()
)


def works() -> list[Work]:
    """Return what PocketKV and Redis are compared by, in the table's order."""
    made: list[Work] = []
    for pipeline, targets in ((1, _EVEN), (PIPELINE, _PIPELINED)):
        for operation in _OPERATIONS:
            made.append(_benchmarked(operation, SMALL_BYTES, targets, pipeline=pipeline))
            made.append(_flooded(operation, SMALL_BYTES, targets, pipeline=pipeline))
    made += _command_works()
    for size_bytes in (KIB, 4 * KIB):
        made += [_benchmarked(operation, size_bytes, _EVEN) for operation in _OPERATIONS]
    for size_bytes in (16 * KIB, 64 * KIB, 100 * KIB):
        made += [_flooded(operation, size_bytes, _EVEN) for operation in _OPERATIONS]
    for size_bytes in (MIB, 16 * MIB):
        made.append(_flooded("GET", size_bytes, _LARGE_GET))
        made.append(_flooded("SET", size_bytes, _EVEN))
    made += [_among_idle(operation) for operation in _OPERATIONS]
    made += [_pinged(operation, _LATENCY) for operation in _OPERATIONS]
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
            title=f"router / direct: {work.title}",
            is_quick=f"router-{work.name}" in _QUICK,
            has_floor=False,
        )
        for work in made
    ]


# --- kinds of works ------------------------------------------------------------------------------


def _benchmarked(
    operation: Operation, value_bytes: int, targets: Targets, *, pipeline: int = 1
) -> Work:
    """GET or SET by redis-benchmark."""
    arguments = ("-t", operation.lower(), "-d", str(value_bytes))
    keys = keys_of(value_bytes)
    many = f", pipeline {pipeline}" if pipeline > 1 else ""
    return Work(
        name=_name(operation, value_bytes, pipeline),
        group="small" if value_bytes <= SMALL_BYTES else "sizes",
        title=f"{operation} {size_title(value_bytes)}, {CLIENTS} connections{many}",
        make_driver=partial(RedisBenchmark, arguments, CLIENTS, pipeline, keys),
        fill=partial(fill_strings, value_bytes, keys),
        targets=targets,
        needs=(operation,),
        trial_operations=_TRIAL_OPERATIONS * pipeline,
        operation=operation,
        value_bytes=value_bytes,
        pipeline=pipeline,
        has_floor=True,
        floor_driver=partial(_flood, operation, value_bytes, CLIENTS, pipeline),
    )


def _flooded(
    operation: Operation, value_bytes: int, targets: Targets, *, pipeline: int = 1
) -> Work:
    """GET or SET by our own driver."""
    clients = LARGE_CLIENTS if value_bytes >= MIB else CLIENTS
    many = f", pipeline {pipeline}" if pipeline > 1 else ""
    is_second = value_bytes <= SMALL_BYTES
    make_driver = partial(_flood, operation, value_bytes, clients, pipeline)
    trials = min(_TRIAL_OPERATIONS, 100 * MIB // value_bytes)
    return Work(
        name=_name(operation, value_bytes, pipeline) + ("-flooded" if is_second else ""),
        group="small" if is_second else "large" if value_bytes >= MIB else "sizes",
        title=f"{operation} {size_title(value_bytes)}, {clients} connections{many}"
        + (", flooded" if is_second else ""),
        make_driver=make_driver,
        fill=partial(fill_strings, value_bytes, keys_of(value_bytes)),
        targets=targets,
        needs=(operation,),
        # Enough that every connection has its turn.
        trial_operations=max(2 * clients, trials) * pipeline,
        operation=operation,
        value_bytes=value_bytes,
        pipeline=pipeline,
        has_floor=True,
        floor_driver=make_driver,
        is_own_driver=True,
    )


def _pinged(operation: Operation, targets: Targets) -> Work:
    """GET or SET over one connection, one at a time."""
    make = partial(exchanges, operation, SMALL_BYTES, keys_of(SMALL_BYTES))
    return Work(
        name=f"latency-{operation.lower()}",
        group="latency",
        title=f"{operation} {size_title(SMALL_BYTES)}, one connection",
        make_driver=partial(Ping, make),
        fill=partial(fill_strings, SMALL_BYTES, keys_of(SMALL_BYTES)),
        targets=targets,
        needs=(operation,),
        operation=operation,
        value_bytes=SMALL_BYTES,
        has_floor=True,
        floor_driver=partial(Ping, make),
        is_own_driver=True,
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
        make_driver=partial(RedisBenchmark, arguments, BUSY_CLIENTS),
        company=_idle_company,
        has_floor=False,
    )


def _command_works() -> list[Work]:
    """Other commands, by redis-benchmark."""
    sized = ("-d", str(SMALL_BYTES))
    # The number that redis-benchmark writes into a member has 12 digits.
    member = value(SMALL_BYTES - 12).decode() + "__rand_int__"
    made = [
        ("mset-10", "MSET of 10 x 100 B", "MSET", ("-t", "mset", *sized), False),
        ("mget-10", "MGET of 10 x 100 B", "MGET", ("MGET", *[_KEY] * 10), True),
        ("incr", "INCR", "INCR", ("-t", "incr"), False),
        ("sadd", "SADD 100 B", "SADD", ("SADD", "myset", member), False),
        ("exists", "EXISTS", "EXISTS", ("EXISTS", _KEY), True),
        ("expire", "EXPIRE", "EXPIRE", ("EXPIRE", _KEY, "3600"), True),
    ]
    fill = partial(fill_strings, SMALL_BYTES, KEYS)
    return [
        Work(
            name=name,
            group="commands",
            title=f"{title}, {CLIENTS} connections",
            make_driver=partial(RedisBenchmark, arguments, CLIENTS),
            fill=fill if is_filled else fill_nothing,
            targets=_EVEN,
            needs=(needed,),
        )
        for name, title, needed, arguments, is_filled in made
    ]


# --- parts of works ------------------------------------------------------------------------------


def fill_strings(value_bytes: int, keys: int, client: Client, _operations: int) -> int:
    """Set all keys of a work; as `Work.fill`, once the first two arguments are given."""
    client.set_strings(0, keys, value(value_bytes))
    return keys


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


def _flood(operation: Operation, value_bytes: int, clients: int, pipeline: int) -> Flood:
    keys = keys_of(value_bytes)
    return Flood(partial(exchanges, operation, value_bytes, keys, pipeline), clients)


@contextlib.contextmanager
def _idle_company(endpoint: Endpoint) -> Iterator[None]:
    """Connections that do nothing, for as long as the block lasts."""
    with helper("idle", HOST, str(endpoint.port), str(IDLE_CLIENTS)):
        yield
