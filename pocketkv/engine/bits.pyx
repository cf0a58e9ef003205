# cython: language_level=3, boundscheck=False, wraparound=False
"""Loops over the bits of long strings, which the C compiler unrolls. The plain twin is `bits.py`."""

from libc.string cimport memcpy

cdef extern from *:
    """
    #if defined(__GNUC__)
    #define POCKETKV_POPCOUNT(word) __builtin_popcountll(word)
    #else
    static int POCKETKV_POPCOUNT(unsigned long long word) {
        word -= (word >> 1) & 0x5555555555555555ULL;
        word = (word & 0x3333333333333333ULL) + ((word >> 2) & 0x3333333333333333ULL);
        word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fULL;
        return (int)((word * 0x0101010101010101ULL) >> 56);
    }
    #endif
    """
    int POCKETKV_POPCOUNT(unsigned long long word) nogil


def count_bits(const unsigned char[::1] data):
    """How many bits are 1."""
    cdef Py_ssize_t i = 0, size = data.shape[0]
    cdef unsigned long long word
    cdef long long total = 0
    while i + 8 <= size:
        memcpy(&word, &data[i], 8)
        total += POCKETKV_POPCOUNT(word)
        i += 8
    while i < size:
        total += POCKETKV_POPCOUNT(data[i])
        i += 1
    return total


def first_other(const unsigned char[::1] data, unsigned char byte):
    """The position of the first byte that is another one; -1 if there is none."""
    cdef Py_ssize_t i = 0, size = data.shape[0]
    cdef unsigned long long same = <unsigned long long>0x0101010101010101 * byte
    cdef unsigned long long word
    while i + 8 <= size:
        memcpy(&word, &data[i], 8)
        if word != same:
            break
        i += 8
    while i < size:
        if data[i] != byte:
            return i
        i += 1
    return -1


cdef Py_ssize_t _common(unsigned char[::1] target, const unsigned char[::1] source) except -1:
    if target.shape[0] != source.shape[0]:
        raise ValueError("strings of different lengths")
    return target.shape[0]


def and_into(unsigned char[::1] target, const unsigned char[::1] source):
    """Put ``target & source`` into the target; both have the same length."""
    cdef Py_ssize_t i, size = _common(target, source)
    for i in range(size):
        target[i] &= source[i]


def or_into(unsigned char[::1] target, const unsigned char[::1] source):
    """Put ``target | source`` into the target; both have the same length."""
    cdef Py_ssize_t i, size = _common(target, source)
    for i in range(size):
        target[i] |= source[i]


def xor_into(unsigned char[::1] target, const unsigned char[::1] source):
    """Put ``target ^ source`` into the target; both have the same length."""
    cdef Py_ssize_t i, size = _common(target, source)
    for i in range(size):
        target[i] ^= source[i]


def invert(unsigned char[::1] target):
    """Turn every bit over."""
    cdef Py_ssize_t i, size = target.shape[0]
    for i in range(size):
        target[i] = ~target[i]
