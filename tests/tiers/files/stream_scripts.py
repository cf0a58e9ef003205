"""Commands on streams that every medium has to answer alike; nothing that tells a time."""

from __future__ import annotations

from collections.abc import Iterator

from pocketkv.limits import KIB
from tests.tiers.files.servers import Request, pattern


def words(line: str) -> Request:
    return [word.encode() for word in line.split()]


def streams() -> Iterator[Request]:
    """Short streams and long ones, with groups, from which much is taken."""
    for number in range(1, 1500):
        yield [b"XADD", b"long", b"%d-0" % number, b"field", b"value %d" % number]
    for number in range(1, 40):
        size = (10, 300, 5 * KIB, 70 * KIB)[number % 4]
        yield [b"XADD", b"sizes", b"%d-1" % number, b"f%d" % number, pattern(number, size)]
    for name in (b"long", b"sizes"):
        yield [b"XGROUP", b"CREATE", name, b"group", b"5"]
        for consumer in (b"alice", b"bob"):
            yield [
                *(b"XREADGROUP", b"GROUP", b"group", consumer, b"COUNT", b"12", b"STREAMS"),
                *(name, b">"),
            ]
        yield [b"XACK", name, b"group", *[b"%d-%d" % (n, n % 2) for n in range(12)]]
        yield [b"XPENDING", name, b"group"]
        yield [b"XCLAIM", name, b"group", b"bob", b"0", b"14-0", b"15-1", b"FORCE", b"JUSTID"]
        yield [b"XDEL", name, b"9-0", b"9-1", b"17-0", b"18-1"]
        yield [b"XAUTOCLAIM", name, b"group", b"eve", b"0", b"-", b"COUNT", b"7"]
        yield [b"XREADGROUP", b"GROUP", b"group", b"eve", b"STREAMS", name, b"0"]
        yield [b"XINFO", b"GROUPS", name]
        yield [b"XGROUP", b"DELCONSUMER", name, b"group", b"alice"]
        yield [b"XGROUP", b"CREATECONSUMER", name, b"group", b"new"]
        yield [b"XGROUP", b"SETID", name, b"group", b"20"]
        yield [b"XINFO", b"STREAM", name]
        yield [b"XREAD", b"COUNT", b"3", b"STREAMS", name, b"30"]
        yield [b"XRANGE", name, b"-", b"+", b"COUNT", b"50"]
        yield [b"XREVRANGE", name, b"+", b"-", b"COUNT", b"50"]
        yield [b"COPY", name, name + b"'"]
        yield [b"XSETID", name, b"9999-0", b"ENTRIESADDED", b"2000", b"MAXDELETEDID", b"18-5"]
        yield [b"XADD", name, b"MAXLEN", b"~", b"100", b"10000-*", b"field", b"value"]
        yield [b"XTRIM", name, b"MINID", b"25"]
        yield [b"XLEN", name]
        yield [b"XTRIM", name, b"MAXLEN", b"10"]
        yield [b"XINFO", b"GROUPS", name + b"'"]
        yield [b"OBJECT", b"ENCODING", name]
        yield [b"XGROUP", b"DESTROY", name, b"group"]
    yield words("XRANGE sizes' - +")
    yield words("GET long")
    yield words("XADD words x 1 2")
    yield words("XGROUP CREATE other g $ MKSTREAM")
    yield words("RENAME long other")
    yield words("XINFO GROUPS other")
