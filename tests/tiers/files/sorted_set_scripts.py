"""Commands on sorted sets and places that every medium has to answer alike."""

from __future__ import annotations

from collections.abc import Iterator

from pocketkv.limits import KIB
from tests.tiers.files.servers import Request, pattern

NAMES = (b"few", b"many", b"long")


def words(line: str) -> Request:
    return [word.encode() for word in line.split()]


def _add_all() -> Iterator[Request]:
    for name, count in ((b"few", 20), (b"many", 4000)):
        pairs = [part for n in range(count) for part in (b"%d" % (n * 7 % 50), b"m%d" % n)]
        yield [b"ZADD", name, *pairs]
    pairs = [part for n in range(30) for part in (b"%d.5" % n, pattern(n, 20 * KIB))]
    yield [b"ZADD", b"long", *pairs]


def sorted_sets() -> Iterator[Request]:
    """Small ones and large ones, which are changed, read by ranges, and joined."""
    yield from _add_all()
    for name in NAMES:
        yield [b"OBJECT", b"ENCODING", name]
        for number in range(70):
            # More changes than are kept of one before it is written anew.
            yield [b"ZINCRBY", name, b"0.5", b"m%d" % (number % 9)]
            yield [b"ZREM", name, b"m%d" % (number * 5)]
        yield [b"ZADD", name, b"GT", b"CH", b"-3", b"m1", b"1e30", b"m2", b"-inf", b"new"]
        yield [b"ZSCORE", name, b"m2"]
        yield [b"ZMSCORE", name, b"m1", b"new", b"nobody"]
        yield [b"ZRANK", name, b"m6"]
        yield [b"ZREVRANK", name, b"m6"]
        yield [b"ZCARD", name]
        yield [b"ZCOUNT", name, b"(3", b"20"]
        yield [b"ZRANGE", name, b"3", b"-3", b"WITHSCORES"]
        yield [b"ZRANGE", name, b"+inf", b"5", b"BYSCORE", b"REV", b"LIMIT", b"2", b"9"]
        yield [b"ZREVRANGE", name, b"0", b"5"]
        yield [b"ZRANGEBYSCORE", name, b"2", b"4", b"WITHSCORES"]
        yield [b"ZREVRANGEBYSCORE", name, b"40", b"30", b"LIMIT", b"1", b"20"]
        yield [b"ZPOPMIN", name]
        yield [b"ZPOPMAX", name, b"2"]
        yield [b"ZMPOP", b"2", b"missing", name, b"MIN", b"COUNT", b"2"]
        yield [b"BZPOPMIN", b"missing", name, b"0"]
        yield [b"BZPOPMAX", name, b"0"]
        yield [b"BZMPOP", b"0", b"1", name, b"MAX"]
        yield [b"ZRANGESTORE", name + b"'", name, b"1", b"-2"]
        yield [b"ZREMRANGEBYRANK", name, b"5", b"6"]
        yield [b"ZREMRANGEBYSCORE", name, b"10", b"(11"]
        yield [b"COPY", name, name + b'"']
    for command in (b"ZUNION", b"ZINTER", b"ZDIFF"):
        yield [command, b"2", b"many", b"few", b"WITHSCORES"]
        yield [command + b"STORE", command, b"3", b"many", b"few", b"many'"]
    yield words("ZINTERCARD 2 many few LIMIT 5")
    yield words("ZUNIONSTORE weighed 2 few many WEIGHTS 2 0.5 AGGREGATE MAX")
    yield [b"ZADD", b"names", *[part for n in range(300) for part in (b"0", b"n%03d" % n)]]
    yield words("ZLEXCOUNT names [n010 (n100")
    yield words("ZRANGEBYLEX names [n010 + LIMIT 3 5")
    yield words("ZREVRANGEBYLEX names (n100 [n090")
    yield words("ZREMRANGEBYLEX names - [n150")
    yield words("GET many")
    yield words("ZADD ZDIFF 1 m1")
    yield words("EXISTS few many long names weighed")


def places() -> Iterator[Request]:
    """Places in a small area and all over the world."""
    for number in range(300):
        place = [b"%d.%03d" % (number % 30, number), b"%d.%03d" % (number % 7 * 9, number)]
        yield [b"GEOADD", b"places", *place, b"p%d" % number]
    yield words("GEODIST places p1 p200 km")
    yield words("GEOPOS places p3 nowhere p4")
    yield words("GEOHASH places p3 nowhere p4")
    yield words("GEOSEARCH places FROMMEMBER p9 BYRADIUS 900 km ASC COUNT 9 WITHDIST WITHCOORD")
    yield words("GEOSEARCH places FROMLONLAT 12 9 BYBOX 800 400 mi WITHHASH")
    yield words("GEOSEARCHSTORE near places FROMMEMBER p9 BYRADIUS 900 km STOREDIST")
    yield words("GEORADIUS places 12 9 500 km STORE near2")
    yield words("GEORADIUS_RO places 12 9 500 km DESC")
    yield words("GEORADIUSBYMEMBER places p9 500 km STOREDIST near3")
    yield words("GEORADIUSBYMEMBER_RO places p9 500 km COUNT 3 ANY")
    yield words("ZRANGE near 0 -1 WITHSCORES")
