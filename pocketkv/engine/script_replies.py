"""Replies that are encoded already, as a script sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeAlias

# Makes a table of Lua of a list or a dict.
MakeTable: TypeAlias = "Callable[[Any], Any]"

# Of a reply that is one line, what Lua's table has it as.
_FIELDS: Final = {b"+": b"ok", b"-": b"err", b"(": b"big_number"}


def parsed(raw: bytes, at: int, table: MakeTable) -> tuple[Any, int]:
    """What the reply that begins at a place is in Lua, and where it ends."""
    end = raw.index(b"\r\n", at)
    kind, line = raw[at : at + 1], raw[at + 1 : end]
    at = end + 2
    if kind in b"*~%>|":
        return _items(raw, at, kind, int(line), table)
    if kind in b"$=":
        return _text(raw, at, kind, int(line), table)
    if kind == b":":
        return int(line), at
    if kind == b"_":
        return None, at
    if kind == b"#":
        return line == b"t", at
    if kind == b",":
        return table({b"double": float(line)}), at
    return table({_FIELDS[kind]: line}), at


def _text(raw: bytes, at: int, kind: bytes, size: int, table: MakeTable) -> tuple[Any, int]:
    if size < 0:
        return False, at
    text = raw[at : at + size]
    at += size + 2
    if kind == b"$":
        return text, at
    parts = {b"string": text[4:], b"format": text[:3]}
    return table({b"verbatim_string": table(parts)}), at


def _items(raw: bytes, at: int, kind: bytes, count: int, table: MakeTable) -> tuple[Any, int]:
    if count < 0:
        return False, at
    items: list[Any] = []
    for _ in range(2 * count if kind in b"%|" else count):
        item, at = parsed(raw, at, table)
        items.append(item)
    if kind == b"|":
        # An attribute stands before what it is one of.
        return parsed(raw, at, table)
    if kind == b"%":
        return table({b"map": table(dict(zip(items[::2], items[1::2], strict=True)))}), at
    if kind == b"~":
        return table({b"set": table(dict.fromkeys(items, True))}), at
    return table(items), at
