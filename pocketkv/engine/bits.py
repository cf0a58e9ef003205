"""Loops over the bits of long strings; `bits.pyx` is the same in C.

Bit 0 is the most significant one of byte 0, as Redis counts.
"""

from __future__ import annotations

from typing import Final, TypeAlias

Buffer: TypeAlias = "bytes | bytearray | memoryview"

# Python reads numbers of this size fastest.
_STEP_BYTES: Final = 8192


def count_bits(data: Buffer) -> int:
    """How many bits are 1."""
    view = memoryview(data)
    total = 0
    for start in range(0, len(view), _STEP_BYTES):
        total += int.from_bytes(view[start : start + _STEP_BYTES], "little").bit_count()
    return total


def first_other(data: Buffer, byte: int) -> int:
    """The position of the first byte that is another one; -1 if there is none."""
    view = memoryview(data)
    same = bytes((byte,))
    for start in range(0, len(view), _STEP_BYTES):
        step = bytes(view[start : start + _STEP_BYTES])
        rest = len(step.lstrip(same))
        if rest:
            return start + len(step) - rest
    return -1


def and_into(target: bytearray, source: Buffer) -> None:
    """Put ``target & source`` into the target; both have the same length."""
    number = int.from_bytes(target, "little") & int.from_bytes(source, "little")
    target[:] = number.to_bytes(len(target), "little")


def or_into(target: bytearray, source: Buffer) -> None:
    """Put ``target | source`` into the target; both have the same length."""
    number = int.from_bytes(target, "little") | int.from_bytes(source, "little")
    target[:] = number.to_bytes(len(target), "little")


def xor_into(target: bytearray, source: Buffer) -> None:
    """Put ``target ^ source`` into the target; both have the same length."""
    number = int.from_bytes(target, "little") ^ int.from_bytes(source, "little")
    target[:] = number.to_bytes(len(target), "little")


def invert(target: bytearray) -> None:
    """Turn every bit over."""
    target[:] = target.translate(_INVERTED)


_INVERTED: Final = bytes(255 - byte for byte in range(256))
