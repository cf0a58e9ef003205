# cython: language_level=3
"""System calls of the hot path, without a Python object for what goes in and comes out.

The plain twin is `syscalls.py`. The GIL is kept: the descriptors never block, and no other thread
has work that could use the microsecond.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from libc.errno cimport EINTR, ENOSYS, errno

import os
import select
import socket

from pocketkv import limits

cdef extern from "<sys/types.h>" nogil:
    ctypedef long off_t

cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void *iov_base
        size_t iov_len
    ssize_t c_readv "readv"(int fd, const iovec *parts, int count)

cdef extern from "<sys/socket.h>" nogil:
    ssize_t c_recv "recv"(int fd, void *buffer, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void *buffer, size_t size, int flags)
    enum: MSG_NOSIGNAL

cdef extern from "<sys/sendfile.h>" nogil:
    ssize_t c_sendfile "sendfile"(int out_fd, int in_fd, off_t *offset, size_t count)

cdef extern from "<sys/epoll.h>" nogil:
    int epoll_wait(int epfd, epoll_event *events, int maxevents, int timeout)
    int epoll_ctl(int epfd, int op, int fd, epoll_event *event)
    enum: EPOLL_CTL_ADD
    enum: EPOLL_CTL_MOD
    enum: EPOLL_CTL_DEL
    enum: EPOLLIN
    enum: EPOLLRDHUP
    enum: EPOLLOUT
    enum: EPOLLERR
    enum: EPOLLHUP

cdef extern from "<time.h>" nogil:
    ctypedef long time_t
    cdef struct timespec:
        time_t tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    enum: CLOCK_MONOTONIC

cdef extern from "<sys/epoll.h>" nogil:
    # Since Linux 5.11 and glibc 2.35.
    int epoll_pwait2(int epfd, epoll_event *events, int maxevents, const timespec *timeout, const void *mask)


# `limits.RECEIVE_BYTES`, `RECEIVE_HEAD_BYTES` and `EVENTS_PER_POLL`; checked when the module is
# imported.
DEF SIZE = 65536
DEF HEAD_SIZE = 1024
DEF EVENTS = 512
DEF BRIEF_NS = 50000

assert limits.RECEIVE_BYTES == SIZE and limits.EVENTS_PER_POLL == EVENTS
assert limits.RECEIVE_HEAD_BYTES == HEAD_SIZE

cdef char buffer[SIZE]

READABLE = EPOLLIN | EPOLLRDHUP
WRITABLE = EPOLLOUT
BROKEN = EPOLLERR | EPOLLHUP


cpdef bytes receive(int fd, Py_ssize_t size=SIZE):
    cdef ssize_t count = c_recv(fd, buffer, min(size, SIZE), 0)
    if count < 0:
        PyErr_SetFromErrno(OSError)
    return PyBytes_FromStringAndSize(buffer, count)


cpdef tuple receive_into(int fd, view, bint spill):
    cdef unsigned char[::1] part = view
    cdef iovec parts[2]
    cdef ssize_t size = part.shape[0]
    parts[0].iov_base = &part[0]
    parts[0].iov_len = size
    parts[1].iov_base = buffer
    parts[1].iov_len = HEAD_SIZE
    cdef ssize_t count = c_readv(fd, parts, 2 if spill else 1)
    if count < 0:
        PyErr_SetFromErrno(OSError)
    if count <= size:
        return count, b""
    return size, PyBytes_FromStringAndSize(buffer, count - size)


cpdef Py_ssize_t send(int fd, bytes data) except -1:
    cdef ssize_t count = c_send(fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), MSG_NOSIGNAL)
    if count < 0:
        PyErr_SetFromErrno(OSError)
    return count


cpdef Py_ssize_t send_before_file(sock, list pieces) except -1:
    return sock.sendmsg(pieces, [], socket.MSG_MORE)


cpdef Py_ssize_t send_file(int fd, int file_fd, long long offset, Py_ssize_t count) except -1:
    cdef off_t start = offset
    cdef ssize_t sent = c_sendfile(fd, file_fd, &start, count)
    if sent < 0:
        PyErr_SetFromErrno(OSError)
    return sent


cdef class MonotonicStopwatch(Stopwatch):

    def __init__(self):
        self._timer_ns = None

    cpdef long long now_ns(self) except? -1:
        cdef timespec now
        clock_gettime(CLOCK_MONOTONIC, &now)
        return now.tv_sec * 1000000000LL + now.tv_nsec


cdef class Poller:

    def __cinit__(self):
        self._epoll = select.epoll()
        self._fd = self._epoll.fileno()
        self._count = 0

    def fileno(self):
        return self._fd

    cpdef register(self, int fd, int mask):
        self._control(EPOLL_CTL_ADD, fd, mask)

    cpdef modify(self, int fd, int mask):
        self._control(EPOLL_CTL_MOD, fd, mask)

    cpdef unregister(self, int fd):
        self._control(EPOLL_CTL_DEL, fd, 0)

    cdef int _control(self, int operation, int fd, int mask) except -1:
        cdef epoll_event event
        if self._fd < 0:
            raise ValueError("the epoll set is closed")
        event.events = <uint32_t>mask
        event.data.fd = fd
        if epoll_ctl(self._fd, operation, fd, &event) < 0:
            PyErr_SetFromErrno(OSError)
        return 0

    cpdef int poll(self, int timeout_ms) except -1:
        cdef int count
        self._count = 0
        if timeout_ms == 0:
            count = epoll_wait(self._fd, self._events, EVENTS, 0)
        else:
            with nogil:
                count = epoll_wait(self._fd, self._events, EVENTS, timeout_ms)
        return self._polled(count)

    cpdef int poll_briefly(self) except -1:
        cdef timespec timeout
        cdef int count
        timeout.tv_sec = 0
        timeout.tv_nsec = BRIEF_NS
        self._count = 0
        with nogil:
            count = epoll_pwait2(self._fd, self._events, EVENTS, &timeout, NULL)
        if count < 0 and errno == ENOSYS:
            return self.poll(1)
        return self._polled(count)

    cdef int _polled(self, int count) except -1:
        if count < 0:
            if errno == EINTR:
                PyErr_CheckSignals()
                return 0
            PyErr_SetFromErrno(OSError)
        self._count = count
        return count

    cpdef int fd(self, int index) except -1:
        assert 0 <= index < self._count
        return self._events[index].data.fd

    cpdef int mask(self, int index) except -1:
        assert 0 <= index < self._count
        return <int>self._events[index].events

    def close(self):
        self._epoll.close()
        self._fd = -1
