"""Values written as DUMP gives them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import Final

from pocketkv.engine.rdb import kinds
from pocketkv.engine.rdb.content import StreamContent
from pocketkv.engine.rdb.crc64 import crc64
from pocketkv.engine.rdb.listpack import element_bytes, listpack, packed
from pocketkv.engine.rdb.streams import write_stream
from pocketkv.engine.rdb.writer import Writer

# Of the files of Redis 7.0.
VERSION: Final = 10
# From this number on an integer as a double may be another one, and is written as text.
_EXACT: Final = 2**62
# What Redis takes an element to need beside its bytes.
_ELEMENT_ESTIMATE_BYTES: Final = 8
_LISTPACK_BYTES: Final = 7
# The most that a node has when the number of its elements is limited.
_NODE_BYTES_MAX: Final = 8192
# What list-max-listpack-size -1 to -5 stand for.
_NODE_BYTES: Final = (4096, 8192, 16384, 32768, 65536)


def sealed(writer: Writer) -> bytes:
    """A dump: what was written, the version and the checksum."""
    body = b"".join((*writer.parts, VERSION.to_bytes(2, "little")))
    return body + crc64(body).to_bytes(8, "little")


def dump_string(text: bytes) -> bytes:
    """A string."""
    writer = Writer()
    writer.byte(kinds.STRING)
    writer.string(text)
    return sealed(writer)


def dump_integers(numbers: array[int]) -> bytes:
    """A set of integers, in ascending order."""
    writer = Writer()
    writer.byte(kinds.SET_INTEGERS)
    lowest, highest = numbers[0], numbers[-1]
    for width, code in kinds.INTSET_WIDTHS.items():
        half = 1 << 8 * width - 1
        if -half <= lowest and highest < half:
            header = width.to_bytes(4, "little") + len(numbers).to_bytes(4, "little")
            writer.string(header + array(code, numbers).tobytes())
            break
    return sealed(writer)


def dump_set(members: Sequence[bytes]) -> bytes:
    """A set of any members."""
    writer = Writer()
    writer.byte(kinds.SET)
    writer.length(len(members))
    for member in members:
        writer.string(member)
    return sealed(writer)


def dump_list(elements: Iterable[bytes], fill: int) -> bytes:
    """A list.

    Args:
        elements: Its elements.
        fill: Redis's list-max-listpack-size: how many elements a node has; if negative, how many
            bytes.
    """
    nodes: list[bytes] = []
    node: list[bytes] = []
    size = _LISTPACK_BYTES
    for element in elements:
        if node and not _fits(size + len(element) + _ELEMENT_ESTIMATE_BYTES, len(node), fill):
            nodes.append(packed(node, len(node)))
            node = []
            size = _LISTPACK_BYTES
        encoded = element_bytes(element)
        node.append(encoded)
        size += len(encoded)
    nodes.append(packed(node, len(node)))
    writer = Writer()
    writer.byte(kinds.QUICKLIST)
    writer.length(len(nodes))
    for blob in nodes:
        writer.length(kinds.PACKED_NODE)
        writer.string(blob)
    return sealed(writer)


def _fits(size: int, count: int, fill: int) -> bool:
    """Whether a node may have so many bytes, and one element more than `count`."""
    if fill < 0:
        return size <= _NODE_BYTES[min(-fill, len(_NODE_BYTES)) - 1]
    return size <= _NODE_BYTES_MAX and count < fill


def dump_hash(pairs: Iterable[tuple[bytes, bytes]], count: int, *, compact: bool) -> bytes:
    """A hash.

    Args:
        pairs: Fields and values.
        count: How many pairs there are.
        compact: Whether Redis keeps it in a listpack.
    """
    writer = Writer()
    if compact:
        writer.byte(kinds.HASH_LISTPACK)
        writer.string(listpack(part for pair in pairs for part in pair))
    else:
        writer.byte(kinds.HASH)
        writer.length(count)
        for name, value in pairs:
            writer.string(name)
            writer.string(value)
    return sealed(writer)


def dump_sorted_set(scores: Sequence[tuple[bytes, float]], *, compact: bool) -> bytes:
    """A sorted set.

    Args:
        scores: Members and scores, in ascending order.
        compact: Whether Redis keeps it in a listpack.
    """
    writer = Writer()
    if compact:
        writer.byte(kinds.SORTED_SET_LISTPACK)
        parts: list[bytes | int] = []
        for member, score in scores:
            parts += (member, _packed_score(score))
        writer.string(listpack(parts))
    else:
        writer.byte(kinds.SORTED_SET)
        writer.length(len(scores))
        for member, score in reversed(scores):
            writer.string(member)
            writer.double(score)
    return sealed(writer)


def _packed_score(score: float) -> bytes | int:
    """A score as it stands in a listpack."""
    if -_EXACT <= score <= _EXACT and score == int(score):
        return int(score)
    return b"%.17g" % score


def dump_stream(stream: StreamContent, *, node_bytes_max: int, node_entries_max: int) -> bytes:
    """A stream; the arguments as of `write_stream`."""
    writer = Writer()
    write_stream(writer, stream, node_bytes_max=node_bytes_max, node_entries_max=node_entries_max)
    return sealed(writer)
