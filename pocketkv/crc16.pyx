# cython: language_level=3
"""CRC16 as Redis Cluster uses it (XMODEM), a table look-up per byte. The plain twin is `crc16.py`."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

cdef unsigned short[256] TABLE


cdef _fill_table():
    cdef int byte, bit
    cdef unsigned int crc
    for byte in range(256):
        crc = byte << 8
        for bit in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
        TABLE[byte] = crc & 0xFFFF


_fill_table()


cpdef int crc16(bytes data) except -1:
    cdef const unsigned char *chars = <const unsigned char *>PyBytes_AS_STRING(data)
    cdef Py_ssize_t i
    cdef unsigned int crc = 0
    for i in range(PyBytes_GET_SIZE(data)):
        crc = ((crc << 8) ^ TABLE[((crc >> 8) ^ chars[i]) & 0xFF]) & 0xFFFF
    return crc
