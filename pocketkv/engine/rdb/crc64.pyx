# cython: language_level=3
"""CRC64 as Redis uses it (Jones), eight table look-ups for eight bytes. The plain twin is `crc64.py`."""

from libc.stdint cimport uint64_t
from libc.string cimport memcpy

cdef uint64_t[8][256] TABLES


cdef _fill_tables():
    cdef int byte, bit, place
    cdef uint64_t crc
    for byte in range(256):
        crc = byte
        for bit in range(8):
            crc = (crc >> 1) ^ 0x95AC9329AC4BC9B5ULL if crc & 1 else crc >> 1
        TABLES[0][byte] = crc
    for place in range(1, 8):
        for byte in range(256):
            crc = TABLES[place - 1][byte]
            TABLES[place][byte] = TABLES[0][crc & 0xFF] ^ (crc >> 8)


_fill_tables()


def crc64(const unsigned char[::1] data not None, uint64_t crc=0):
    """The checksum of bytes, or of those that `crc` is the checksum of and these behind them."""
    cdef Py_ssize_t length = data.shape[0]
    cdef Py_ssize_t i = 0
    cdef uint64_t word
    while i + 8 <= length:
        # The servers run on little-endian machines only, as the file formats do.
        memcpy(&word, &data[i], 8)
        word ^= crc
        crc = (
            TABLES[7][word & 0xFF]
            ^ TABLES[6][(word >> 8) & 0xFF]
            ^ TABLES[5][(word >> 16) & 0xFF]
            ^ TABLES[4][(word >> 24) & 0xFF]
            ^ TABLES[3][(word >> 32) & 0xFF]
            ^ TABLES[2][(word >> 40) & 0xFF]
            ^ TABLES[1][(word >> 48) & 0xFF]
            ^ TABLES[0][word >> 56]
        )
        i += 8
    while i < length:
        crc = TABLES[0][(crc ^ data[i]) & 0xFF] ^ (crc >> 8)
        i += 1
    return crc
