"""Commands that every medium has to answer alike, by topic: all data commands, all sizes of values.

A script is a function, since its values together would be large to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pocketkv.limits import EXTENT_BYTES_MIN, KIB, MIB
from tests.tiers.files.hash_scripts import bitmaps, dumps, estimates, hashes
from tests.tiers.files.servers import Request, pattern
from tests.tiers.files.sorted_set_scripts import places, sorted_sets
from tests.tiers.files.stream_scripts import streams

Script = Callable[[], Iterator[Request]]

# Around the sizes from which values are kept in another way.
SIZES = [0, 10, KIB, 60 * KIB, EXTENT_BYTES_MIN - 1, EXTENT_BYTES_MIN, 70 * KIB, MIB + 12345]
FAR_MS = 4_000_000_000_123


def words(line: str) -> Request:
    return [word.encode() for word in line.split()]


def key(size: int) -> bytes:
    return b"size:%d" % size


def _set_all() -> Iterator[Request]:
    for size in SIZES:
        yield [b"SET", key(size), pattern(size, size)]


def strings() -> Iterator[Request]:
    """Whole values."""
    for _ in range(2):
        yield from _set_all()
        for size in SIZES:
            yield [b"GET", key(size)]
            yield [b"STRLEN", key(size)]
            yield [b"TYPE", key(size)]
            yield [b"OBJECT", b"ENCODING", key(size)]
    for size in SIZES:
        yield [b"SET", key(size), b"other", b"XX", b"GET"]
        yield [b"GETSET", key(size), pattern(1, size)]
        yield [b"SETNX", key(size), b"never"]
        yield [b"SET", key(size), b"never", b"NX", b"GET"]
    yield [b"MGET", *[key(size) for size in SIZES], b"missing"]
    pairs = [part for size in SIZES for part in (key(size), pattern(2, size))]
    yield [b"MSET", *pairs]
    yield [b"MSETNX", *pairs, b"new", b"value"]
    yield [b"MSETNX", b"new1", pattern(3, 70 * KIB), b"new2", b"value"]
    yield [b"MGET", *[key(size) for size in SIZES], b"new1", b"new2"]
    for size in SIZES:
        yield [b"GETDEL", key(size)]
        yield [b"EXISTS", key(size)]


def ranges() -> Iterator[Request]:
    """Parts of values."""
    yield from _set_all()
    spans = [(0, -1), (0, 0), (-10, -1), (5, 25_000), (65_530, 65_545), (-300_000, -1), (9, 3)]
    for size in SIZES:
        for start, stop in spans:
            yield [b"GETRANGE", key(size), b"%d" % start, b"%d" % stop]
        yield [b"SUBSTR", key(size), b"100", b"200"]
    for size in SIZES:
        yield [b"APPEND", key(size), b"tail"]
        yield [b"APPEND", key(size), pattern(4, 70 * KIB)]
        yield [b"SETRANGE", key(size), b"3", b"<here>"]
        yield [b"SETRANGE", key(size), b"%d" % (size // 2), pattern(5, 66_000)]
        yield [b"SETRANGE", key(size), b"%d" % (size + 300_000), b"beyond a gap"]
        yield [b"STRLEN", key(size)]
        yield [b"GET", key(size)]
    yield [b"SETRANGE", b"hole", b"3000000", b"!"]
    yield [b"GETRANGE", b"hole", b"2999990", b"-1"]
    for number in range(40):
        yield [b"APPEND", b"grown", pattern(number, 5_000)]
    yield [b"GET", b"grown"]
    yield [b"LCS", key(10), key(0), b"LEN"]
    yield [b"SET", b"text1", b"ohmytext"]
    yield [b"SET", b"text2", b"mynewtext"]
    yield [b"LCS", b"text1", b"text2"]
    yield [b"LCS", b"text1", b"text2", b"IDX", b"MINMATCHLEN", b"4"]


def numbers() -> Iterator[Request]:
    """Strings that are numbers."""
    for command in (
        "INCR n|INCRBY n 41|DECR n|DECRBY n 5|INCRBYFLOAT n 2.5|GET n|INCR n|SET n 10|INCR n"
        "|OBJECT ENCODING n|APPEND n 7|INCR n|GET n|SET big 9223372036854775807|INCR big|GET big"
    ).split("|"):
        yield words(command)
    yield from _set_all()
    for size in SIZES:
        yield [b"INCR", key(size)]
        yield [b"INCRBYFLOAT", key(size), b"1"]


def names() -> Iterator[Request]:
    """Values that get other names, and go."""
    yield from _set_all()
    yield words("SADD set a b c")
    for size in SIZES:
        old, new = key(size), key(size) + b"'"
        yield [b"RENAME", old, new]
        yield [b"RENAMENX", new, b"set"]
        yield [b"COPY", new, old]
        yield [b"COPY", new, old]
        yield [b"APPEND", old, b"+"]
        yield [b"COPY", new, b"set2", b"REPLACE"]
        yield [b"COPY", new, new, b"DB", b"3"]
        yield [b"GET", old]
        yield [b"GET", new]
        yield [b"RENAME", new, old]
        yield [b"TOUCH", old, new]
        yield [b"UNLINK" if size % 2 else b"DEL", old, b"set2"]
    yield words("SELECT 3")
    yield words("DBSIZE")
    for size in SIZES:
        yield [b"GET", key(size) + b"'"]
    yield words("FLUSHDB")
    yield words("SELECT 0")
    yield words("RENAME missing other")
    yield words("RENAME set set3")
    yield words("COPY set3 set4")
    yield words("SADD set4 d")
    yield words("SCARD set3")
    yield words("KEYS set*")


def due_times() -> Iterator[Request]:
    """Keys that expire, in the far future or the past."""
    yield from _set_all()
    yield words("SADD set a b c")
    for number, name in enumerate([*map(key, SIZES), b"set"]):
        due_ms = FAR_MS + 1000 * number
        yield [b"PEXPIREAT", name, b"%d" % due_ms]
        yield [b"PEXPIRETIME", name]
        yield [b"EXPIREAT", name, b"%d" % (due_ms // 1000 + 5), b"GT"]
        yield [b"EXPIRETIME", name]
        yield [b"EXPIRE", name, b"100", b"NX"]
        yield [b"PEXPIRE", name, b"100", b"GT"]
    for size in SIZES:
        yield [b"GETEX", key(size), b"PXAT", b"%d" % FAR_MS]
        yield [b"APPEND", key(size), b"."]
        yield [b"PEXPIRETIME", key(size)]
        yield [b"SET", key(size), pattern(6, size), b"KEEPTTL"]
        yield [b"PEXPIRETIME", key(size)]
        yield [b"COPY", key(size), b"copy", b"REPLACE"]
        yield [b"PEXPIRETIME", b"copy"]
        yield [b"RENAME", b"copy", b"copy2"]
        yield [b"PEXPIRETIME", b"copy2"]
        yield [b"PERSIST", key(size)]
        yield [b"TTL", key(size)]
        yield [b"PTTL", key(size)]
        yield [b"SETEX", key(size), b"1000000", pattern(7, size)]
        yield [b"PSETEX", b"other", b"100000000", pattern(8, size)]
        yield [b"GETEX", b"other", b"PERSIST"]
        yield [b"PEXPIREAT", key(size), b"1"]
        yield [b"GET", key(size)]
    yield words("SREM set a b c")
    yield words("EXPIRETIME set")


def sets() -> Iterator[Request]:
    """Small sets and large ones, of numbers and of words."""
    yield [b"SADD", b"ints", *[b"%d" % number for number in range(300)]]
    yield [b"SADD", b"many ints", *[b"%d" % number for number in range(0, 6000, 3)]]
    yield [b"SADD", b"words", *[b"member %d" % number for number in range(4000)]]
    yield [b"SADD", b"long", *[pattern(number, 20_000) for number in range(10)]]
    for name in (b"ints", b"many ints", b"words", b"long"):
        yield [b"OBJECT", b"ENCODING", name]
        yield [b"SCARD", name]
        yield [b"SISMEMBER", name, b"33"]
        yield [b"SMISMEMBER", name, b"33", b"member 7", b"x"]
        yield [b"SADD", name, b"one more", b"33"]
        yield [b"SREM", name, b"12", b"member 8", b"y"]
        yield [b"SMOVE", name, b"moved", b"one more"]
        yield [b"COPY", name, name + b"'"]
        yield [b"SREM", name + b"'", b"33"]
    yield words("SINTERCARD 2 ints words")
    yield words("SINTERSTORE inter ints moved")
    yield [b"SUNIONSTORE", b"union", b"ints", b"many ints", b"long"]
    yield [b"SDIFFSTORE", b"diff", b"many ints", b"ints"]
    yield words("SCARD inter")
    yield words("SCARD union")
    yield words("SCARD diff")
    yield words("SDIFFSTORE ints missing ints")
    yield words("SISMEMBER ints 3")
    yield words("GET words")
    yield words("APPEND words x")
    yield words("SET words text")
    yield words("SADD words x")
    yield words("EXISTS words ints union moved")


def lists() -> Iterator[Request]:
    """Small lists and large ones, which change at their ends and in the middle."""
    yield [b"RPUSH", b"few", *[b"%d" % number for number in range(20)]]
    yield [b"RPUSH", b"many", *[b"item %d" % (number % 700) for number in range(5000)]]
    yield [b"LPUSH", b"long", *[pattern(number, 20_000) for number in range(40)]]
    yield [b"RPUSHX", b"missing", b"x"]
    yield [b"LPUSHX", b"missing", b"x"]
    for name in (b"few", b"many", b"long"):
        yield [b"OBJECT", b"ENCODING", name]
        for _ in range(2):
            yield [b"LPUSH", name, b"first", b"7"]
            yield [b"RPUSHX", name, b"last", b"7"]
            yield [b"LPUSHX", name, b"x"]
            yield [b"LPOP", name]
            yield [b"RPOP", name, b"2"]
            yield [b"LSET", name, b"5", b"in place"]
            yield [b"LINSERT", name, b"AFTER", b"in place", b"behind"]
            yield [b"LREM", name, b"2", b"item 3"]
            yield [b"LMOVE", name, name, b"LEFT", b"RIGHT"]
            yield [b"LMOVE", name, b"moved", b"RIGHT", b"LEFT"]
            yield [b"RPOPLPUSH", name, b"few"]
            yield [b"BLMOVE", name, b"moved", b"LEFT", b"LEFT", b"0"]
            yield [b"BRPOPLPUSH", name, b"moved", b"0"]
            yield [b"BLPOP", b"missing", name, b"0"]
            yield [b"BRPOP", name, b"few", b"0"]
            yield [b"LMPOP", b"2", b"missing", name, b"RIGHT", b"COUNT", b"2"]
            yield [b"BLMPOP", b"0", b"1", name, b"LEFT"]
        yield [b"LLEN", name]
        yield [b"LPOS", name, b"7", b"COUNT", b"0"]
        yield [b"LINDEX", name, b"-3"]
        yield [b"LRANGE", name, b"2", b"8"]
        yield [b"COPY", name, name + b"'"]
        yield [b"LTRIM", name, b"1", b"-2"]
    for number in range(70):
        # More changes than are kept of a list before it is written anew.
        yield [b"RPUSH", b"many", b"%d" % number]
        yield [b"LPOP", b"many"]
    yield words("LTRIM many 1000 1100")
    yield words("LTRIM long 1 0")
    yield words("LRANGE many 0 -1")
    yield words("GET many")
    yield words("SADD many x")
    yield words("LPUSH ints x")
    yield words("EXISTS few many long moved many'")


# Replies to these come in no order, so they are compared apart.
UNORDERED: list[Request] = [
    *map(words, ["SMEMBERS union", "SMEMBERS words2", "SUNION union diff", "SDIFF union diff"]),
    *map(words, ["SINTER union diff", "KEYS *", "SMEMBERS long"]),
]


def databases() -> Iterator[Request]:
    """Databases that are emptied."""
    for index in range(4):
        yield [b"SELECT", b"%d" % index]
        yield from _set_all()
        yield words("SADD set a b c")
    yield words("FLUSHDB")
    yield words("DBSIZE")
    yield [b"SET", b"after", pattern(9, 70 * KIB)]
    yield words("SELECT 2")
    yield words("DBSIZE")
    yield words("MGET size:10 size:71680")
    yield words("FLUSHDB ASYNC")
    yield words("SELECT 0")
    yield [b"WAIT", b"0", b"0"]
    yield [b"WAITAOF", b"0", b"0", b"0"]
    yield words("FLUSHALL")
    yield words("DBSIZE")
    yield from _set_all()
    yield words("SELECT 3")
    yield words("GET after")
    yield words("SADD here x")


def huge() -> Iterator[Request]:
    """Values of many parts."""
    value = pattern(1, 20 * MIB)
    for command in (b"SET", b"APPEND", b"GETSET"):
        yield [command, b"huge", value]
    yield words("COPY huge twin")
    yield [b"SETRANGE", b"huge", b"1000000", pattern(2, 9_000_000)]
    yield words("GETRANGE huge 500000 12000000")
    yield words("RENAME twin huge2")
    yield words("MGET huge huge2")
    yield words("APPEND huge2 !")
    yield words("GETDEL huge2")


SCRIPTS: list[Script] = [
    *(huge, strings, ranges, numbers, names, due_times, sets, lists, databases),
    *(sorted_sets, places, streams, hashes, bitmaps, estimates, dumps),
]
