"""What a key may hold.

A string is a ``bytes``, or a ``bytearray`` once it was changed in place (APPEND, SETRANGE), so
that appending stays cheap. Every other type is a `Collection`.
"""

from __future__ import annotations

from typing import TypeAlias

from pocketkv.engine.sizes import BYTES_OBJECT_BYTES


class Collection:
    """Base of all values with elements.

    Attributes:
        size_bytes: What the elements cost, kept up to date by each change (see `sizes`).
    """

    __slots__ = ("size_bytes",)

    type_name = "none"

    def __init__(self) -> None:
        self.size_bytes = 0

    def __len__(self) -> int:
        raise NotImplementedError  # An interface: every type counts its own elements.

    def encoding(self) -> str:
        """What OBJECT ENCODING answers."""
        raise NotImplementedError  # An interface: every type has its own encodings.

    def copy(self) -> Collection:
        """A value that shares nothing that changes with this one."""
        raise NotImplementedError  # An interface: every type copies its own elements.


Value: TypeAlias = "bytes | bytearray | Collection"


def value_cost(value: Value) -> int:
    """Memory of a value, without its key."""
    if type(value) is bytes:
        return (BYTES_OBJECT_BYTES + len(value) + 15) & ~15
    if isinstance(value, Collection):
        return value.size_bytes
    # A bytearray keeps some room to grow.
    return 64 + len(value) + (len(value) >> 3)


def type_name(value: Value) -> str:
    """What TYPE answers."""
    return value.type_name if isinstance(value, Collection) else "string"
