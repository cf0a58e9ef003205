"""What is changed of a script that Lua has compiled.

Lua 5.1 lets a function that is called at the very end of another one take its place on the stack.
Scripts mostly end in ``return redis.call(...)``, and an error then could not tell its line, so
such calls are made ordinary ones.
"""

from __future__ import annotations

import struct
from typing import Final

_HEADER_BYTES: Final = 12
_CALL: Final = 28
_TAIL_CALL: Final = 29
_OPCODE_BITS: Final = 0x3F
_INT: Final = struct.Struct("<i")
_SIZE: Final = struct.Struct("<Q")
# Kinds of constants.
_BOOLEAN, _NUMBER, _STRING = 1, 3, 4


def without_tail_calls(dump: bytes) -> bytes:
    """The same function, as `string.dump` gave it on this machine, with ordinary calls only."""
    return _Patch(dump).patched()


class _Patch:
    """Walks through a dump."""

    def __init__(self, dump: bytes) -> None:
        self._dump = bytearray(dump)
        self._at = _HEADER_BYTES

    def patched(self) -> bytes:
        self._function()
        return bytes(self._dump)

    def _number(self) -> int:
        (number,) = _INT.unpack_from(self._dump, self._at)
        self._at += _INT.size
        return int(number)

    def _string(self) -> None:
        (size,) = _SIZE.unpack_from(self._dump, self._at)
        self._at += _SIZE.size + int(size)

    def _function(self) -> None:
        self._string()
        # Lines; then numbers of upvalues, parameters and registers.
        self._at += 2 * _INT.size + 4
        self._code()
        self._constants()
        for _ in range(self._number()):
            self._function()
        # A line for each instruction.
        lines = self._number()
        self._at += lines * _INT.size
        for _ in range(self._number()):
            self._string()
            self._at += 2 * _INT.size
        for _ in range(self._number()):
            self._string()

    def _code(self) -> None:
        count = self._number()
        for at in range(self._at, self._at + 4 * count, 4):
            if self._dump[at] & _OPCODE_BITS == _TAIL_CALL:
                self._dump[at] = self._dump[at] & ~_OPCODE_BITS & 0xFF | _CALL
        self._at += 4 * count

    def _constants(self) -> None:
        for _ in range(self._number()):
            kind = self._dump[self._at]
            self._at += 1
            if kind == _BOOLEAN:
                self._at += 1
            elif kind == _NUMBER:
                self._at += 8
            elif kind == _STRING:
                self._string()
