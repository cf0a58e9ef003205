# cython: language_level=3
"""Reading without waiting; the plain twin is `reading.py`.

The GIL is kept: what does not wait takes a microsecond or two. So one buffer is enough.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from pocketkv.tiers.volume.checksums import checksum
from pocketkv.tiers.volume.records import BODY, HEADER, HEADER_BYTES, MAGIC

cdef extern from "<endian.h>" nogil:
    uint32_t le32toh(uint32_t number)
    uint64_t le64toh(uint64_t number)

cdef extern from "<sys/uio.h>" nogil:
    ctypedef long off_t
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t c_preadv2 "preadv2"(int fd, const iovec *parts, int count, off_t offset, int flags)

cdef extern from "<unistd.h>" nogil:
    long c_syscall "syscall"(long number, ...)

# Longer records are read to where they stay.
DEF BUFFER_SIZE = 69632

# A record's header, as `records` tells it: where its numbers stand, and where the key begins.
DEF RECORD_MAGIC = 0x31564B50
DEF HEAD_CHECKSUM = 4
DEF BODY_BEGIN = 8
DEF KEY_BYTES = 12
DEF PAYLOAD_BYTES = 16
DEF PAYLOAD_CHECKSUM = 20
DEF KEY_BEGIN = 36

assert MAGIC == RECORD_MAGIC and BODY == BODY_BEGIN and HEADER_BYTES == KEY_BEGIN
assert HEADER.format == "<IIBBHIIQq"

cdef char buffer[BUFFER_SIZE]
cdef object digest = checksum


cpdef bytes read_at_once(int fd, Py_ssize_t size, long long offset, int flags):
    cdef bytes whole
    cdef ssize_t count
    if size <= BUFFER_SIZE:
        count = _read(fd, buffer, size, offset, flags)
        return None if count < 0 else PyBytes_FromStringAndSize(buffer, count)
    whole = PyBytes_FromStringAndSize(NULL, size)
    count = _read(fd, PyBytes_AS_STRING(whole), size, offset, flags)
    if count < 0:
        return None
    return whole if count == size else whole[:count]


cpdef bytes read_record(int fd, Py_ssize_t size, long long offset, int flags, unsigned long long seed, long long length):
    cdef bytes whole
    cdef ssize_t count
    if size <= BUFFER_SIZE:
        count = _read(fd, buffer, size, offset, flags)
        return None if count < size else _payload(buffer, size, seed, length)
    whole = PyBytes_FromStringAndSize(NULL, size)
    count = _read(fd, PyBytes_AS_STRING(whole), size, offset, flags)
    return None if count < size else _payload(PyBytes_AS_STRING(whole), size, seed, length)


cpdef bytes record_at(unsigned long long address, Py_ssize_t size, unsigned long long seed, long long length):
    return _payload(<const char *>address, size, seed, length)


cdef bytes _payload(const char *record, Py_ssize_t size, unsigned long long seed, long long length):
    """The payload of a record that is as it was written."""
    cdef uint32_t head_digest, key_bytes
    cdef bytes body, payload
    if size < KEY_BEGIN or _number(record) != RECORD_MAGIC or _number(record + PAYLOAD_BYTES) != length:
        raise ValueError
    key_bytes = _number(record + KEY_BYTES)
    if KEY_BEGIN + <long long>key_bytes + length > size:
        raise ValueError
    head_digest = _number(record + HEAD_CHECKSUM)
    body = PyBytes_FromStringAndSize(record + BODY_BEGIN, KEY_BEGIN - BODY_BEGIN + <Py_ssize_t>key_bytes)
    if <uint32_t><uint64_t>digest(body, seed) != head_digest:
        raise ValueError
    payload = PyBytes_FromStringAndSize(record + KEY_BEGIN + key_bytes, length)
    if <uint64_t>digest(payload) != _long_number(record + PAYLOAD_CHECKSUM):
        raise ValueError
    return payload


cdef inline uint32_t _number(const char *place) noexcept:
    cdef uint32_t number
    memcpy(&number, place, sizeof(number))
    return le32toh(number)


cdef inline uint64_t _long_number(const char *place) noexcept:
    cdef uint64_t number
    memcpy(&number, place, sizeof(number))
    return le64toh(number)


cdef ssize_t _read(int fd, char *place, size_t size, long long offset, int flags) except -2:
    """How many bytes were read, -1 if that would wait."""
    cdef iovec part
    cdef ssize_t count
    part.iov_base = place
    part.iov_len = size
    while True:
        count = c_preadv2(fd, &part, 1, offset, flags)
        if count >= 0:
            return count
        if errno == EAGAIN:
            return -1
        if errno != EINTR:
            PyErr_SetFromErrno(OSError)


cpdef Py_ssize_t cached_pages(long call, int fd, long long offset, long long size) except -1:
    cdef unsigned long long part[2]
    cdef unsigned long long counts[5]
    part[0] = offset
    part[1] = size
    if c_syscall(call, fd, part, counts, 0) != 0:
        PyErr_SetFromErrno(OSError)
    return counts[0]
