# cython: language_level=3
"""Reading without waiting; the plain twin is `reading.py`.

The GIL is kept: what does not wait takes a microsecond or two. So one buffer is enough.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EAGAIN, EINTR, errno

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

cdef char buffer[BUFFER_SIZE]


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
