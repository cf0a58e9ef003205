# cython: language_level=3
"""Receiving and sending on a socket's descriptor, without a socket object in between.

The plain twin is `syscalls.py`. The GIL is kept: the descriptors never block, and no other thread
has work that could use the microsecond.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_recv "recv"(int fd, void *buffer, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void *buffer, size_t size, int flags)
    enum: MSG_NOSIGNAL

DEF SIZE = 65536
cdef char buffer[SIZE]


cpdef bytes receive(int fd):
    cdef ssize_t count = c_recv(fd, buffer, SIZE, 0)
    if count < 0:
        PyErr_SetFromErrno(OSError)
    return PyBytes_FromStringAndSize(buffer, count)


cpdef Py_ssize_t send(int fd, bytes data) except -1:
    cdef ssize_t count = c_send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_NOSIGNAL)
    if count < 0:
        PyErr_SetFromErrno(OSError)
    return count
