"""Commands on hashes, bitmaps and HyperLogLogs, and on any value: SORT, DUMP, RESTORE, MIGRATE."""

from __future__ import annotations

from collections.abc import Iterator

from pocketkv.limits import KIB
from tests.engine.harness import Engine
from tests.tiers.files.servers import Request, pattern


def words(line: str) -> Request:
    return [word.encode() for word in line.split()]


def hashes() -> Iterator[Request]:
    """Small ones, and one of many fields, in segments."""
    yield words("HSET small a 1 b 2 c 3")
    for line in (
        *("HSETNX small a 9", "HSETNX small d 4", "HMSET small e 5 f 6", "HGET small a"),
        *("HMGET small a x f", "HGETALL small", "HDEL small b x", "HLEN small", "HEXISTS small b"),
        *("HKEYS small", "HVALS small", "HINCRBY small a 41", "HINCRBYFLOAT small a 0.5"),
        *("HSTRLEN small a", "HRANDFIELD small 0", "OBJECT ENCODING small", "HGET missing a"),
    ):
        yield words(line)
    pairs = [part for n in range(3000) for part in (b"field:%d" % n, pattern(n, n % 97))]
    yield [b"HSET", b"large", *pairs]
    for n in range(0, 3000, 7):
        yield [b"HDEL", b"large", b"field:%d" % n]
        yield [b"HINCRBY", b"large", b"count:%d" % (n % 50), b"3"]
    yield [b"HMGET", b"large", *[b"field:%d" % n for n in range(0, 3000, 11)]]
    yield words("HLEN large")
    yield [b"HSET", b"large", b"big", pattern(1, 100 * KIB)]
    yield words("HSTRLEN large big")
    yield words("COPY large twin")
    yield words("HDEL twin big field:1")
    yield words("HLEN twin")
    yield words("RENAME twin small")
    yield words("HGET small field:2")


def bitmaps() -> Iterator[Request]:
    """On strings of all sizes, and such as grow by it."""
    for size in (0, 100, 70 * KIB):
        name = b"bits:%d" % size
        yield [b"SET", name, pattern(size, size)]
        for line in (
            *("SETBIT {} 7 1", "SETBIT {} 5000 1", "GETBIT {} 7", "BITCOUNT {}"),
            *("BITCOUNT {} 1 -2", "BITCOUNT {} 5 60 BIT", "BITPOS {} 1", "BITPOS {} 0 2"),
            *("BITFIELD {} SET u8 #3 255 INCRBY i5 100 1 OVERFLOW FAIL INCRBY u2 102 3",),
            *("BITFIELD_RO {} GET u16 #9", "BITOP NOT inverted {}", "STRLEN inverted"),
        ):
            yield words(line.replace("{}", name.decode()))
    yield words("BITOP XOR mixed bits:100 bits:71680 missing")
    yield words("GET mixed")


def estimates() -> Iterator[Request]:
    """Sparse ones, and one that became dense."""
    yield words("PFADD few a b c a")
    yield words("PFCOUNT few")
    for first in range(0, 4000, 500):
        yield [b"PFADD", b"many", *[b"element:%d" % n for n in range(first, first + 500)]]
    yield words("PFCOUNT few many missing")
    yield words("PFMERGE all few many")
    yield words("GET all")
    yield words("PFDEBUG ENCODING all")
    yield words("PFSELFTEST")


def dumps() -> Iterator[Request]:
    """Values of every type go out and come in again; SORT of those that can be."""
    client = Engine().connect()
    for request in (
        *("SET string text", "SADD set 1 2 3", "SADD words a b", "RPUSH list 3 1 2"),
        *("ZADD sorted 1 a 2 b", "HSET hash f v", "XADD stream 1-1 f v"),
    ):
        client(*request.split())
    for name in ("string", "set", "list", "sorted", "hash", "stream"):
        payload = client("DUMP", name)
        yield [b"RESTORE", name.encode(), b"0", payload]
        yield [b"RESTORE", name.encode(), b"0", payload]
        yield [b"RESTORE-ASKING", b"copy:" + name.encode(), b"0", payload, b"REPLACE"]
        yield [b"DUMP", b"copy:" + name.encode()]
    yield [b"RESTORE", b"wrong", b"0", b"not a payload"]
    for line in (
        *("SORT list", "SORT list DESC LIMIT 0 2", "SORT set STORE sorted:set", "SORT_RO set"),
        *("SORT sorted ALPHA DESC", "LRANGE sorted:set 0 -1", "MIGRATE 127.0.0.1 1 string 0 100"),
        *("MOVE set 3", "MOVE list 3"),
    ):
        yield words(line)
