"""Decodes RESP replies for tests, apart from the codec that is tested.

=================  ===================================
RESP               Python
=================  ===================================
simple string      ``str``
bulk               ``bytes``
error              `Error`, as a value
integer            ``int``
null, null array   ``None``
array              ``list``
map                ``dict``
set                `Members` (a list, as it was sent)
double             ``float``
boolean            ``bool``
verbatim string    `Text`
push               `Pushed`
big number         ``int``
attribute          left out
=================  ===================================
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Error:
    """An error reply."""

    text: str


@dataclass(frozen=True)
class Text:
    """A verbatim string with its form (``txt``)."""

    form: str
    text: bytes


class Members(list[Any]):
    """The elements of a RESP3 set."""


class Pushed(list[Any]):
    """The elements of a push message."""


def reply_end(data: bytes | bytearray, start: int = 0) -> int:
    """Where the reply that begins at `start` ends; -1 if it is not whole."""
    line_end = data.find(b"\r\n", start)
    if line_end < 0:
        return -1
    kind = data[start : start + 1]
    position = line_end + 2
    if kind in b"+-:,#_(":
        return position
    count = int(data[start + 1 : line_end])
    if kind in b"$=!":
        if count < 0:
            return position
        position += count + 2
        return position if position <= len(data) else -1
    if kind not in b"*%~>|":
        raise ValueError(f"not a reply: {data[start : start + 40]!r}")
    parts = count * 2 if kind in b"%|" else count
    # An attribute is followed by the reply that it belongs to.
    for _ in range(parts + (kind == b"|")):
        position = reply_end(data, position)
        if position < 0:
            return -1
    return position


def split_replies(data: bytes) -> list[bytes]:
    """The whole replies that `data` consists of, each as its bytes."""
    replies = []
    start = 0
    while start < len(data):
        end = reply_end(data, start)
        if end < 0:
            raise ValueError(f"half a reply: {data[start : start + 80]!r}")
        replies.append(data[start:end])
        start = end
    return replies


def decode(data: bytes) -> Any:
    """The one reply that `data` is."""
    value, end = _decode(data, 0)
    if end != len(data):
        raise ValueError(f"more than one reply: {data[:80]!r}")
    return value


def _decode(data: bytes, start: int) -> tuple[Any, int]:
    kind = data[start : start + 1]
    line_end = data.index(b"\r\n", start)
    line = data[start + 1 : line_end]
    position = line_end + 2
    if kind in b"$=!":
        return _decode_bulk(kind, data, int(line), position)
    if kind in b"*%~>|":
        return _decode_aggregate(kind, data, int(line), position)
    return _decode_line(kind, line), position


def _decode_line(kind: bytes, line: bytes) -> Any:
    if kind == b"+":
        return line.decode()
    if kind == b"-":
        return Error(line.decode("utf-8", "backslashreplace"))
    if kind in b":(":
        return int(line)
    if kind == b",":
        return float(line)
    if kind == b"#":
        return {b"t": True, b"f": False}[line]
    if kind == b"_":
        return None
    raise ValueError(f"not a reply: {kind + line!r}")


def _decode_bulk(kind: bytes, data: bytes, size: int, position: int) -> tuple[Any, int]:
    if size < 0:
        return None, position
    body = data[position : position + size]
    end = position + size + 2
    if len(body) != size or data[end - 2 : end] != b"\r\n":
        raise ValueError(f"a bulk without its end: {data[position : position + 80]!r}")
    if kind == b"=":
        return Text(body[:3].decode(), body[4:]), end
    return (Error(body.decode()) if kind == b"!" else body), end


def _decode_aggregate(kind: bytes, data: bytes, count: int, position: int) -> tuple[Any, int]:
    if count < 0:
        return None, position
    items = []
    for _ in range(count * 2 if kind in b"%|" else count):
        item, position = _decode(data, position)
        items.append(item)
    if kind == b"|":
        return _decode(data, position)
    if kind == b"%":
        keys = [key if isinstance(key, Hashable) else repr(key) for key in items[::2]]
        return dict(zip(keys, items[1::2], strict=True)), position
    if kind == b"~":
        return Members(items), position
    return (Pushed(items) if kind == b">" else items), position
