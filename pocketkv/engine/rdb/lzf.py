"""LZF, which Redis compresses strings with; `lzf.pyx` is the same in C's numbers.

A compressed string is a row of runs and references. A run is a byte below 32, its length less one,
and then its bytes. A reference has in the three upper bits of its first byte its length less two
(7: a byte with what is added to it follows), and in the other five bits and the next byte how far
back it begins, less one.

Which references are found follows from the hash table alone, and this one is Redis's (16 bits, the
latest place of three bytes), so that equal strings are compressed to equal bytes.
"""

from __future__ import annotations

from typing import Final

from pocketkv.engine.rdb.errors import RdbError

LENGTH_MAX: Final = 1 << 16
"""Longer strings are left as they are, which is always right: they would take too long."""

_RUN_MAX: Final = 32
_DISTANCE_MAX: Final = 8192
_REFERENCE_MAX: Final = 264
# What is compared before the length is looked at again.
_UNROLLED: Final = 16


def compress(data: bytes, size_max: int) -> bytes | None:
    """The compressed form of a string; ``None`` if it would take more than `size_max`."""
    end = len(data)
    latest: dict[int, int] = {}
    out = bytearray(1)
    run = 0
    position = 0
    while position < end - 2:
        triple = data[position] << 16 | data[position + 1] << 8 | data[position + 2]
        place = ((triple >> 8) - triple * 5) & 0xFFFF
        found = latest.get(place, 0)
        latest[place] = position
        back = position - found - 1
        if not (
            found > 0
            and back < _DISTANCE_MAX
            and data[found : found + 3] == data[position : position + 3]
        ):
            if len(out) >= size_max:
                return None
            out.append(data[position])
            position += 1
            run += 1
            if run == _RUN_MAX:
                out[-run - 1] = run - 1
                run = 0
                out.append(0)
            continue
        if len(out) - (run == 0) + 4 >= size_max:
            return None
        _end_run(out, run)
        run = 0
        length = _matching(data, found, position)
        if length - 2 < 7:
            out.append((back >> 8) + (length - 2 << 5))
        else:
            out.append((back >> 8) + (7 << 5))
            out.append(length - 9)
        out.append(back & 0xFF)
        out.append(0)
        position += length
        if position >= end - 2:
            break
        # The last two places of what was referred to can be referred to again.
        for before in (position - 2, position - 1):
            triple = data[before] << 16 | data[before + 1] << 8 | data[before + 2]
            latest[((triple >> 8) - triple * 5) & 0xFFFF] = before
    if len(out) + 3 > size_max:
        return None
    for byte in data[position:]:
        out.append(byte)
        run += 1
        if run == _RUN_MAX:
            out[-run - 1] = run - 1
            run = 0
            out.append(0)
    _end_run(out, run)
    # Nothing has no compressed form.
    return bytes(out) or None


def _end_run(out: bytearray, run: int) -> None:
    """Write a run's length before it, or take the place for it back if there is none."""
    if run:
        out[-run - 1] = run - 1
    else:
        out.pop()


def _matching(data: bytes, found: int, position: int) -> int:
    """How many bytes are the same at two places, as far as a reference reaches."""
    length_max = min(len(data) - position - 2, _REFERENCE_MAX)
    length = 2
    if length_max > _UNROLLED:
        for _ in range(_UNROLLED):
            length += 1
            if data[found + length] != data[position + length]:
                return length
    length += 1
    while length < length_max and data[found + length] == data[position + length]:
        length += 1
    return length


def decompress(data: bytes, size: int) -> bytes:
    """The string of `size` bytes that was compressed.

    Raises:
        RdbError: It is none.
    """
    out = bytearray()
    position = 0
    end = len(data)
    while position < end:
        control = data[position]
        position += 1
        if control < _RUN_MAX:
            position += control + 1
            if position > end:
                raise RdbError("a run is cut off")
            out += data[position - control - 1 : position]
        else:
            length = control >> 5
            if length == 7:
                if position >= end:
                    raise RdbError("a reference is cut off")
                length += data[position]
                position += 1
            if position >= end:
                raise RdbError("a reference is cut off")
            start = len(out) - ((control & 0x1F) << 8) - data[position] - 1
            position += 1
            if start < 0:
                raise RdbError("a reference to what is before the string")
            _repeat(out, start, length + 2)
        if len(out) > size:
            raise RdbError("it is longer than announced")
    if len(out) != size:
        raise RdbError("it is shorter than announced")
    return bytes(out)


def _repeat(out: bytearray, start: int, length: int) -> None:
    """Append what begins at `start`, which may reach into what is appended."""
    distance = len(out) - start
    if distance >= length:
        out += out[start : start + length]
    else:
        piece = out[start:]
        out += (piece * (length // distance + 1))[:length]
