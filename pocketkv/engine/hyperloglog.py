"""HyperLogLog as Redis keeps it in a string: header, registers in one of two encodings.

The header is ``HYLL``, the encoding, three zero bytes, and the cardinality that was computed last
(little endian; its highest bit says that it is out of date). 16384 registers of 6 bits follow:

- dense: register after register, the lowest bits of a byte first;
- sparse: runs. ``00nnnnnn`` is n+1 registers that are 0, ``01nnnnnn nnnnnnnn`` the same with a
  longer n, ``1vvvvvnn`` n+1 registers that are v+1.

An element's hash selects a register, and the zeros at the end of the rest of the hash, plus one,
are the least that the register then holds. The estimate is Ertl's (arXiv:1702.01284).
"""

from __future__ import annotations

from math import inf, sqrt
from typing import Final

REGISTERS: Final = 1 << 14
HEADER_BYTES: Final = 16
DENSE_BYTES: Final = HEADER_BYTES + REGISTERS * 6 // 8
_MAGIC: Final = b"HYLL"
_ENCODING: Final = 4
_DENSE: Final = 0
_SPARSE: Final = 1
_CARDINALITY: Final = 8
# The byte, and its bit, that say that the cardinality is out of date.
_OUTDATED_BYTE: Final = 15
_OUTDATED_BIT: Final = 128

# Of a hash, those bits select the register; so many others are left.
_INDEX_BITS: Final = 14
_RANK_BITS: Final = 50
_ALPHA: Final = 0.721347520444481703680

# What runs hold at most.
_SHORT_ZEROS_MAX: Final = 64
_VALUE_MAX: Final = 32
_VALUES_MAX: Final = 4
# Runs that are looked at after a change, to be joined where they are equal.
_JOINED_MAX: Final = 5

# How many registers a byte of a run stands for; 0 where another byte belongs to it.
_SPANS: Final = bytes([*range(1, 65)]) + bytes(64) + bytes([1, 2, 3, 4]) * 32

# MurmurHash64A, with Redis's seed.
_SEED: Final = 0xADC83B19
_MULTIPLIER: Final = 0xC6A4A7935BD1E995
_MASK: Final = 2**64 - 1


class CorruptedError(ValueError):
    """A string that looks like a HyperLogLog but is none."""


def empty() -> bytearray:
    """Of no elements; the cardinality is up to date."""
    return bytearray(b"HYLL\x01\0\0\0" + bytes(8) + b"\x7f\xff")


def is_valid(data: bytes | bytearray) -> bool:
    """Whether a string may be one; a sparse one may still turn out to be corrupted."""
    if len(data) < HEADER_BYTES or data[:4] != _MAGIC or data[_ENCODING] > _SPARSE:
        return False
    return data[_ENCODING] == _SPARSE or len(data) == DENSE_BYTES


def is_sparse(data: bytes | bytearray) -> bool:
    """Whether the registers are in runs."""
    return data[_ENCODING] == _SPARSE


def cached_cardinality(data: bytes | bytearray) -> int:
    """The cardinality that the header holds; -1 if that is out of date."""
    if data[_OUTDATED_BYTE] & _OUTDATED_BIT:
        return -1
    return int.from_bytes(data[_CARDINALITY:HEADER_BYTES], "little")


def cache_cardinality(data: bytearray, cardinality: int) -> None:
    """Put the cardinality into the header."""
    data[_CARDINALITY:HEADER_BYTES] = cardinality.to_bytes(8, "little")


def outdate(data: bytearray) -> None:
    """Have the header say that its cardinality is out of date."""
    data[_OUTDATED_BYTE] |= _OUTDATED_BIT


# --- adding ------------------------------------------------------------------------------------


def murmur_hash(element: bytes) -> int:
    """The 64-bit hash of an element."""
    size = len(element)
    hashed = (_SEED ^ size * _MULTIPLIER) & _MASK
    position = 0
    while position + 8 <= size:
        word = 0
        for i in range(8):
            byte = element[position + i]
            word |= byte << (8 * i)
        word = word * _MULTIPLIER & _MASK
        word ^= word >> 47
        word = word * _MULTIPLIER & _MASK
        hashed = (hashed ^ word) * _MULTIPLIER & _MASK
        position += 8
    if position < size:
        word = 0
        for i in range(size - position):
            byte = element[position + i]
            word |= byte << (8 * i)
        hashed = (hashed ^ word) * _MULTIPLIER & _MASK
    hashed ^= hashed >> 47
    hashed = hashed * _MULTIPLIER & _MASK
    return hashed ^ hashed >> 47


def add(data: bytearray, element: bytes, sparse_bytes_max: int) -> bool:
    """Count an element; whether a register has changed.

    A sparse one that would become longer than `sparse_bytes_max` becomes dense.

    Raises:
        CorruptedError: It is none.
    """
    hashed = murmur_hash(element)
    index = hashed & (REGISTERS - 1)
    rest = hashed >> _INDEX_BITS
    rank = 1
    while rank <= _RANK_BITS and not rest & 1:
        rest >>= 1
        rank += 1
    return raise_register(data, index, rank, sparse_bytes_max)


def raise_register(data: bytearray, index: int, rank: int, sparse_bytes_max: int) -> bool:
    """Have a register hold at least so much; whether it has changed.

    Raises:
        CorruptedError: It is none.
    """
    if data[_ENCODING] == _DENSE:
        return _raise_dense(data, index, rank)
    changed = -1 if rank > _VALUE_MAX else _raise_sparse(data, index, rank, sparse_bytes_max)
    if changed < 0:
        to_dense(data)
        return _raise_dense(data, index, rank)
    return changed > 0


def _raise_dense(data: bytearray, index: int, rank: int) -> bool:
    position = HEADER_BYTES + index * 6 // 8
    shift = index * 6 & 7
    word = data[position]
    if shift > 2:
        # The last register ends with its byte.
        high = data[position + 1]
        word |= high << 8
    if (word >> shift & 63) >= rank:
        return False
    word = word & ~(63 << shift) | rank << shift
    data[position] = word & 255
    if shift > 2:
        data[position + 1] = word >> 8 & 255
    return True


def _raise_sparse(data: bytearray, index: int, rank: int, sparse_bytes_max: int) -> int:
    """Change the run that holds a register: 1 or 0 as it has changed, -1 if there is no room."""
    end = len(data)
    position = HEADER_BYTES
    previous = HEADER_BYTES
    first = 0
    size = 1
    span = 0
    spans = _SPANS
    while position < end:
        byte = data[position]
        span = spans[byte]
        size = 1
        if span == 0:
            if position + 1 == end:
                raise CorruptedError
            size = 2
            span = (byte & 63) << 8
            byte = data[position + 1]
            span += byte + 1
        first += span
        if index < first:
            break
        previous = position
        position += size
    else:
        raise CorruptedError
    first -= span
    byte = data[position]
    held = (byte >> 2 & 31) + 1 if byte >= 128 else 0
    if held >= rank:
        return 0
    if span == 1 and size == 1:
        data[position] = 128 | rank - 1 << 2
    else:
        before, behind = index - first, first + span - 1 - index
        runs = _run(held, before) + _run(rank, 1) + _run(held, behind)
        if len(runs) > size and end + len(runs) - size > sparse_bytes_max:
            return -1
        data[position : position + size] = runs
    _join(data, previous)
    return 1


def _run(held: int, count: int) -> bytes:
    """A run of so many registers, perhaps none, that hold the same."""
    if count == 0:
        return b""
    if held:
        return bytes((128 | held - 1 << 2 | count - 1,))
    if count <= _SHORT_ZEROS_MAX:
        return bytes((count - 1,))
    return bytes((64 | count - 1 >> 8, count - 1 & 255))


def _join(data: bytearray, position: int) -> None:
    """Join equal neighbours, from a position on, as far as one change may have made them."""
    end = len(data)
    for _ in range(_JOINED_MAX):
        if position >= end:
            return
        byte = data[position]
        if byte < 128:
            position += 1 if byte < 64 else 2
            continue
        following = data[position + 1] if position + 1 < end else 0
        count = (byte & 3) + (following & 3) + 2
        if byte >> 2 == following >> 2 and count <= _VALUES_MAX:
            data[position + 1] = byte & 0xFC | count - 1
            del data[position]
            end -= 1
        else:
            position += 1


# --- all registers -----------------------------------------------------------------------------


def merge_into(highest: bytearray, data: bytes | bytearray) -> None:
    """Raise each of the registers, a byte each, to what another HyperLogLog has there.

    Raises:
        CorruptedError: It is none.
    """
    index = 0
    position = HEADER_BYTES
    end = len(data)
    if data[_ENCODING] == _DENSE:
        while position + 2 < end:
            # Three bytes are four registers.
            byte = data[position]
            word = byte
            byte = data[position + 1]
            word |= byte << 8
            byte = data[position + 2]
            word |= byte << 16
            for i in range(4):
                held = word >> (6 * i) & 63
                if held > highest[index]:
                    highest[index] = held
                index += 1
            position += 3
        return
    while position < end:
        byte = data[position]
        position += 1
        if byte < 64:
            index += byte + 1
        elif byte < 128:
            if position == end:
                raise CorruptedError
            index += ((byte & 63) << 8) + data[position] + 1
            position += 1
        else:
            held = (byte >> 2 & 31) + 1
            if index + (byte & 3) >= REGISTERS:
                raise CorruptedError
            for _ in range((byte & 3) + 1):
                if held > highest[index]:
                    highest[index] = held
                index += 1
    if index != REGISTERS:
        raise CorruptedError


def registers(data: bytes | bytearray) -> bytearray:
    """All registers, a byte each.

    Raises:
        CorruptedError: It is none.
    """
    found = bytearray(REGISTERS)
    merge_into(found, data)
    return found


def to_dense(data: bytearray) -> None:
    """Make a sparse one dense.

    Raises:
        CorruptedError: It is none.
    """
    if data[_ENCODING] == _DENSE:
        return
    found = registers(data)
    data[HEADER_BYTES:] = bytes(DENSE_BYTES - HEADER_BYTES)
    data[_ENCODING] = _DENSE
    for index in range(REGISTERS):
        held = found[index]
        if held:
            _raise_dense(data, index, held)


def estimate(found: bytearray) -> int:
    """How many different elements have made registers, a byte each, what they are."""
    counts = [found.count(value) for value in range(64)]
    total = REGISTERS * _tau((REGISTERS - counts[_RANK_BITS + 1]) / REGISTERS)
    for held in range(_RANK_BITS, 0, -1):
        total = (total + counts[held]) * 0.5
    total += REGISTERS * _sigma(counts[0] / REGISTERS)
    exact = _ALPHA * REGISTERS * REGISTERS / total
    whole = int(exact)
    return whole + 1 if exact - whole >= 0.5 else whole


def _tau(x: float) -> float:
    if x in (0.0, 1.0):
        return 0.0
    y = 1.0
    z = 1.0 - x
    while True:
        x = sqrt(x)
        before = z
        y *= 0.5
        z -= (1.0 - x) ** 2 * y
        if z == before:
            return z / 3.0


def _sigma(x: float) -> float:
    if x == 1.0:
        return inf
    y = 1.0
    z = x
    while True:
        x *= x
        before = z
        z += x * y
        y += y
        if z == before:
            return z


def describe(data: bytes | bytearray) -> bytes:
    """The runs of a sparse one, as PFDEBUG DECODE tells them."""
    runs: list[bytes] = []
    position = HEADER_BYTES
    while position < len(data):
        byte = data[position]
        position += 1
        if byte < 64:
            runs.append(b"z:%d" % (byte + 1))
        elif byte < 128:
            low = data[position] if position < len(data) else 0
            runs.append(b"Z:%d" % (((byte & 63) << 8) + low + 1))
            position += 1
        else:
            runs.append(b"v:%d,%d" % ((byte >> 2 & 31) + 1, (byte & 3) + 1))
    return b" ".join(runs)
