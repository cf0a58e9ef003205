"""The works on lists, hashes, sets, sorted sets, streams and scripts; all by redis-benchmark."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final

from benchmarks.client import Client
from benchmarks.comparison import Target
from benchmarks.exchanges import command, value
from benchmarks.helpers import helper
from benchmarks.redis_benchmark import RedisBenchmark
from benchmarks.sampling import CPU, Work, fill_nothing
from benchmarks.servers import HOST, Endpoint

Fill = Callable[[Client, int], int]

_VALUE_BYTES: Final = 100
_VALUE: Final = value(_VALUE_BYTES)
_TEXT: Final = _VALUE.decode()
_RANGE: Final = 100
_ELEMENTS_PER_REQUEST: Final = 500
_CLIENTS: Final = 50
BLOCKED_CLIENTS: Final = 10_000
# redis-benchmark's members, of which there are so many.
_MEMBERS: Final = 100_000
_NUMBER: Final = "__rand_int__"
_MEMBER: Final = f"element:{_NUMBER}"
_SCRIPT: Final = "return redis.call('SET', KEYS[1], ARGV[1])"
_TARGETS: Final = {CPU: Target(high=1.5)}


def collection_works() -> list[Work]:
    """Return a work for each; of what is taken from a collection, there is always enough."""
    lpush = _work("lpush", "LPUSH", ("LPUSH", "mylist", _TEXT), is_consumed=True)
    return [
        lpush,
        replace(
            lpush,
            name="lpush-blocked",
            title=f"LPUSH, {_CLIENTS} connections among {BLOCKED_CLIENTS} in BLPOP",
            company=_blocked_company,
        ),
        _work("rpop", "RPOP", ("RPOP", "mylist"), _fill_list, is_consumed=True),
        _work(
            f"lrange-{_RANGE}",
            "LRANGE",
            ("LRANGE", "mylist", "0", str(_RANGE - 1)),
            _fill_range,
            title=f"LRANGE of {_RANGE}",
        ),
        _work("collection-sadd", "SADD", ("SADD", "myset", _MEMBER), title="SADD, short members"),
        _work("spop", "SPOP", ("SPOP", "myset"), _fill_set, is_consumed=True),
        _work("hset", "HSET", ("HSET", "myhash", _MEMBER, _TEXT)),
        _work("zadd", "ZADD", ("ZADD", "myzset", _NUMBER, _MEMBER)),
        _work("zpopmin", "ZPOPMIN", ("ZPOPMIN", "myzset"), _fill_sorted_set, is_consumed=True),
        _work("xadd", "XADD", ("XADD", "mystream", "*", "field", _TEXT), is_consumed=True),
        _work(
            "eval",
            "EVAL",
            ("EVAL", _SCRIPT, "1", f"key:{_NUMBER}", _TEXT),
            title="EVAL of a SET",
        ),
    ]


def _work(
    name: str,
    needed: str,
    arguments: Sequence[str],
    fill: Fill = fill_nothing,
    *,
    title: str = "",
    is_consumed: bool = False,
) -> Work:
    return Work(
        name=name,
        group="collections",
        title=f"{title or needed}, {_CLIENTS} connections",
        make_driver=partial(RedisBenchmark, tuple(arguments), _CLIENTS, 1, _MEMBERS),
        fill=fill,
        is_consumed=is_consumed,
        targets=_TARGETS,
        needs=(needed,),
        is_optional=True,
    )


@contextlib.contextmanager
def _blocked_company(endpoint: Endpoint) -> Iterator[None]:
    """Connections that wait for elements which never come, for as long as the block lasts."""
    with helper("idle", HOST, str(endpoint.port), str(BLOCKED_CLIENTS), "blocked"):
        yield


def _fill_list(client: Client, operations: int) -> int:
    """One list, with an element for each operation; all lengths come out even."""
    requests = -(-operations // _ELEMENTS_PER_REQUEST)
    request = command(b"RPUSH", b"mylist", *[_VALUE] * _ELEMENTS_PER_REQUEST)
    for number in range(1, requests + 1):
        client.send([request], b":%d\r\n" % (number * _ELEMENTS_PER_REQUEST))
    return 1


def _fill_range(client: Client, _operations: int) -> int:
    client.call("RPUSH", "mylist", *[_VALUE] * _RANGE)
    return 1


def _fill_set(client: Client, operations: int) -> int:
    """One set, with a member for each operation."""
    requests = [
        command(b"SADD", b"myset", *[b"element:%012d" % number for number in numbers])
        for numbers in _numbers(operations)
    ]
    client.send(requests, b":%d\r\n" % _ELEMENTS_PER_REQUEST)
    return 1


def _fill_sorted_set(client: Client, operations: int) -> int:
    """One sorted set, with a member for each operation."""
    requests = []
    for numbers in _numbers(operations):
        pairs = [part for n in numbers for part in (b"%d" % n, b"element:%012d" % n)]
        requests.append(command(b"ZADD", b"myzset", *pairs))
    client.send(requests, b":%d\r\n" % _ELEMENTS_PER_REQUEST)
    return 1


def _numbers(operations: int) -> list[range]:
    """Ranges of equal length that hold a number for each operation, and a few more."""
    step = _ELEMENTS_PER_REQUEST
    return [range(first, first + step) for first in range(0, operations, step)]
