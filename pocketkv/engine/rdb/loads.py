"""Values read from what DUMP gave, by this version of Redis, an older one, or 7.2."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable
from typing import Final

from pocketkv.engine.rdb import kinds
from pocketkv.engine.rdb.content import (
    Content,
    HashContent,
    ListContent,
    SetContent,
    SortedSetContent,
)
from pocketkv.engine.rdb.crc64 import crc64
from pocketkv.engine.rdb.errors import RdbError
from pocketkv.engine.rdb.listpack import elements
from pocketkv.engine.rdb.reader import Reader, parse_double
from pocketkv.engine.rdb.streams import stream_reader
from pocketkv.engine.rdb.ziplist import ziplist, zipmap

# Of Redis 7.2, whose files have two forms that 7.0 does not know.
VERSION_MAX: Final = 11
FOOTER_BYTES: Final = 10
_INTSET_HEADER_BYTES: Final = 8
# What an item takes in memory beside its bytes.
_ITEM_BYTES: Final = 48


def is_intact(payload: bytes) -> bool:
    """Whether this is a dump that may be read: of a known version, with the right checksum."""
    if len(payload) < FOOTER_BYTES:
        return False
    footer = payload[-FOOTER_BYTES:]
    if int.from_bytes(footer[:2], "little") > VERSION_MAX:
        return False
    return int.from_bytes(footer[2:], "little") == crc64(payload[:-8])


def load(payload: bytes, charge: Callable[[int], None]) -> Content:
    """The value of an intact dump.

    Args:
        payload: The dump.
        charge: Is told now and then how many bytes of memory what was read takes so far; raises if
            that is too much.

    Raises:
        RdbError: It is none, or of a type that is not known.
    """
    reader = Reader(payload[:-FOOTER_BYTES], charge)
    kind = reader.byte()
    read = _READERS.get(kind)
    if read is None:
        raise RdbError(f"no type {kind}")
    content = read(reader)
    if reader.left:
        raise RdbError("more than a value")
    return content


# --- strings and lists -------------------------------------------------------------------------


def _read_string(reader: Reader) -> bytes:
    return reader.string()


def _strings(reader: Reader, count: int) -> list[bytes]:
    found = []
    for _ in range(count):
        text = reader.string()
        reader.count(_ITEM_BYTES + len(text))
        found.append(text)
    return found


def _read_list(reader: Reader) -> ListContent:
    return ListContent(_strings(reader, reader.items()))


def _read_ziplist(reader: Reader) -> ListContent:
    return _some_elements(ziplist(reader.string(), reader))


def _read_old_quicklist(reader: Reader) -> ListContent:
    found: list[bytes] = []
    for _ in range(reader.items()):
        found += ziplist(reader.string(), reader)
    return _some_elements(found)


def _read_quicklist(reader: Reader) -> ListContent:
    found: list[bytes] = []
    for _ in range(reader.items()):
        container = reader.length()
        text = reader.string()
        if container == kinds.PLAIN_NODE:
            found.append(text)
        elif container == kinds.PACKED_NODE:
            found += elements(text, reader)
        else:
            raise RdbError("a node of no kind")
    return _some_elements(found)


def _some_elements(found: list[bytes]) -> ListContent:
    if not found:
        raise RdbError("an empty collection")
    return ListContent(found)


# --- sets --------------------------------------------------------------------------------------


def _read_set(reader: Reader) -> SetContent:
    return _different(_strings(reader, reader.items()))


def _read_set_listpack(reader: Reader) -> SetContent:
    return _different(elements(reader.string(), reader))


def _different(members: list[bytes]) -> SetContent:
    if not members:
        raise RdbError("an empty collection")
    if len(set(members)) != len(members):
        raise RdbError("a member twice")
    return SetContent(members)


def _read_integers(reader: Reader) -> SetContent:
    blob = reader.string()
    width = int.from_bytes(blob[:4], "little")
    count = int.from_bytes(blob[4:_INTSET_HEADER_BYTES], "little")
    code = kinds.INTSET_WIDTHS.get(width)
    if code is None or count == 0 or len(blob) != _INTSET_HEADER_BYTES + width * count:
        raise RdbError("no set of integers")
    reader.count(_ITEM_BYTES * count)
    numbers = array(code, blob[_INTSET_HEADER_BYTES:]).tolist()
    if any(numbers[i] >= numbers[i + 1] for i in range(count - 1)):
        raise RdbError("integers in no order")
    return SetContent([b"%d" % number for number in numbers])


# --- hashes ------------------------------------------------------------------------------------


def _read_hash(reader: Reader) -> HashContent:
    return _pairs(_strings(reader, 2 * reader.items()))


def _read_hash_listpack(reader: Reader) -> HashContent:
    return _pairs(elements(reader.string(), reader))


def _read_hash_ziplist(reader: Reader) -> HashContent:
    return _pairs(ziplist(reader.string(), reader))


def _read_hash_zipmap(reader: Reader) -> HashContent:
    return _pairs(zipmap(reader.string(), reader))


def _pairs(parts: list[bytes]) -> HashContent:
    """Fields and values, which stand in turn."""
    if not parts or len(parts) % 2:
        raise RdbError("no pairs")
    pairs = dict(zip(parts[::2], parts[1::2], strict=True))
    if 2 * len(pairs) != len(parts):
        raise RdbError("a field twice")
    return HashContent(pairs)


# --- sorted sets -------------------------------------------------------------------------------


def _read_sorted_set(reader: Reader) -> SortedSetContent:
    return _scored(reader, Reader.double)


def _read_old_sorted_set(reader: Reader) -> SortedSetContent:
    return _scored(reader, Reader.old_double)


def _scored(reader: Reader, score_of: Callable[[Reader], float]) -> SortedSetContent:
    scores: dict[bytes, float] = {}
    count = reader.items()
    for _ in range(count):
        member = reader.string()
        reader.count(2 * _ITEM_BYTES + len(member))
        scores[member] = score_of(reader)
    return _checked_scores(scores, count)


def _read_sorted_set_listpack(reader: Reader) -> SortedSetContent:
    return _alternating(elements(reader.string(), reader))


def _read_sorted_set_ziplist(reader: Reader) -> SortedSetContent:
    return _alternating(ziplist(reader.string(), reader))


def _alternating(parts: list[bytes]) -> SortedSetContent:
    """Members and scores, which stand in turn."""
    if not parts or len(parts) % 2:
        raise RdbError("no pairs")
    scores = dict(zip(parts[::2], map(parse_double, parts[1::2]), strict=True))
    return _checked_scores(scores, len(parts) // 2)


def _checked_scores(scores: dict[bytes, float], count: int) -> SortedSetContent:
    if len(scores) != count:
        raise RdbError("a member twice")
    if any(map(math.isnan, scores.values())):
        raise RdbError("a score that is no number")
    return SortedSetContent(scores)


_READERS: Final[dict[int, Callable[[Reader], Content]]] = {
    kinds.STRING: _read_string,
    kinds.LIST: _read_list,
    kinds.SET: _read_set,
    kinds.OLD_SORTED_SET: _read_old_sorted_set,
    kinds.HASH: _read_hash,
    kinds.SORTED_SET: _read_sorted_set,
    kinds.HASH_ZIPMAP: _read_hash_zipmap,
    kinds.LIST_ZIPLIST: _read_ziplist,
    kinds.SET_INTEGERS: _read_integers,
    kinds.SORTED_SET_ZIPLIST: _read_sorted_set_ziplist,
    kinds.HASH_ZIPLIST: _read_hash_ziplist,
    kinds.OLD_QUICKLIST: _read_old_quicklist,
    kinds.OLD_STREAM: stream_reader(kinds.OLD_STREAM),
    kinds.HASH_LISTPACK: _read_hash_listpack,
    kinds.SORTED_SET_LISTPACK: _read_sorted_set_listpack,
    kinds.QUICKLIST: _read_quicklist,
    kinds.STREAM: stream_reader(kinds.STREAM),
    kinds.SET_LISTPACK: _read_set_listpack,
    kinds.NEWER_STREAM: stream_reader(kinds.NEWER_STREAM),
}
