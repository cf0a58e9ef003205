# cython: language_level=3
# cython: boundscheck=False, wraparound=False, cdivision=True
"""LZF, which Redis compresses strings with. The plain twin is `lzf.py`, which tells how it works."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memcpy

from pocketkv.engine.rdb.errors import RdbError

LENGTH_MAX = 1 << 20
"""Longer strings are left as they are, which is always right: they would take too long."""

cdef enum:
    RUN_MAX = 32
    DISTANCE_MAX = 8192
    REFERENCE_MAX = 264
    UNROLLED = 16
    PLACES = 65536


cdef inline uint32_t place_of(const unsigned char *three) noexcept nogil:
    cdef uint32_t triple = (<uint32_t>three[0] << 16) | (<uint32_t>three[1] << 8) | three[2]
    return ((triple >> 8) - triple * 5) & 0xFFFF


cdef Py_ssize_t matching(
    const unsigned char *found, const unsigned char *here, Py_ssize_t left
) noexcept nogil:
    """How many bytes are the same at two places, of which the later one has so many left."""
    cdef Py_ssize_t length_max = left - 2
    cdef Py_ssize_t length = 2
    cdef int i
    if length_max > REFERENCE_MAX:
        length_max = REFERENCE_MAX
    if length_max > UNROLLED:
        for i in range(UNROLLED):
            length += 1
            if found[length] != here[length]:
                return length
    length += 1
    while length < length_max and found[length] == here[length]:
        length += 1
    return length


cdef Py_ssize_t compress_into(
    const unsigned char *data,
    Py_ssize_t end,
    unsigned char *out,
    Py_ssize_t size_max,
    uint32_t *latest,
) noexcept nogil:
    """The length of the compressed form; 0 if it does not fit."""
    cdef Py_ssize_t position = 0, at = 1, back, length
    cdef uint32_t place, found
    cdef int run = 0
    while position < end - 2:
        place = place_of(data + position)
        found = latest[place]
        latest[place] = <uint32_t>position
        back = position - found - 1
        if not (
            found > 0 and back < DISTANCE_MAX and memcmp(data + found, data + position, 3) == 0
        ):
            if at >= size_max:
                return 0
            out[at] = data[position]
            at += 1
            position += 1
            run += 1
            if run == RUN_MAX:
                out[at - run - 1] = run - 1
                run = 0
                at += 1
            continue
        if at - (run == 0) + 4 >= size_max:
            return 0
        if run:
            out[at - run - 1] = run - 1
        else:
            at -= 1
        run = 0
        length = matching(data + found, data + position, end - position)
        if length - 2 < 7:
            out[at] = <unsigned char>((back >> 8) + ((length - 2) << 5))
            at += 1
        else:
            out[at] = <unsigned char>((back >> 8) + (7 << 5))
            out[at + 1] = <unsigned char>(length - 9)
            at += 2
        out[at] = <unsigned char>(back & 0xFF)
        at += 2
        position += length
        if position >= end - 2:
            break
        latest[place_of(data + position - 2)] = <uint32_t>(position - 2)
        latest[place_of(data + position - 1)] = <uint32_t>(position - 1)
    if at + 3 > size_max:
        return 0
    while position < end:
        out[at] = data[position]
        at += 1
        position += 1
        run += 1
        if run == RUN_MAX:
            out[at - run - 1] = run - 1
            run = 0
            at += 1
    if run:
        out[at - run - 1] = run - 1
    else:
        at -= 1
    return at


def compress(bytes data not None, Py_ssize_t size_max):
    """The compressed form of a string; ``None`` if it would take more than `size_max`."""
    cdef Py_ssize_t size
    cdef uint32_t *latest
    cdef bytes out
    if size_max < 4:
        return None
    # A run's length is written before it is known whether there is one.
    out = PyBytes_FromStringAndSize(NULL, size_max + 4)
    latest = <uint32_t *>calloc(PLACES, sizeof(uint32_t))
    if latest == NULL:
        raise MemoryError
    size = compress_into(
        <const unsigned char *>PyBytes_AS_STRING(data),
        len(data),
        <unsigned char *>PyBytes_AS_STRING(out),
        size_max,
        latest,
    )
    free(latest)
    return out[:size] if size else None


def decompress(bytes data not None, Py_ssize_t size):
    """The string of `size` bytes that was compressed.

    Raises:
        RdbError: It is none.
    """
    cdef const unsigned char *source = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t end = len(data), position = 0, at = 0, length, start, i
    cdef bytes made = PyBytes_FromStringAndSize(NULL, size)
    cdef unsigned char *out = <unsigned char *>PyBytes_AS_STRING(made)
    cdef int control
    while position < end:
        control = source[position]
        position += 1
        if control < RUN_MAX:
            length = control + 1
            if position + length > end:
                raise RdbError("a run is cut off")
            if at + length > size:
                raise RdbError("it is longer than announced")
            memcpy(out + at, source + position, length)
            position += length
            at += length
            continue
        length = control >> 5
        if length == 7:
            if position >= end:
                raise RdbError("a reference is cut off")
            length += source[position]
            position += 1
        if position >= end:
            raise RdbError("a reference is cut off")
        start = at - ((control & 0x1F) << 8) - source[position] - 1
        position += 1
        length += 2
        if start < 0:
            raise RdbError("a reference to what is before the string")
        if at + length > size:
            raise RdbError("it is longer than announced")
        # It may reach into what it makes.
        for i in range(length):
            out[at + i] = out[start + i]
        at += length
    if at != size:
        raise RdbError("it is shorter than announced")
    return made
