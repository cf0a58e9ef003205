from libc.stdint cimport uint32_t

from pocketkv.stopwatch cimport Stopwatch

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        int fd
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data

cpdef bytes receive(int fd, Py_ssize_t size=*)
cpdef tuple receive_into(int fd, view, bint spill)
cpdef Py_ssize_t send(int fd, bytes data) except -1
cpdef Py_ssize_t send_before_file(sock, list pieces) except -1
cpdef Py_ssize_t send_file(int fd, int file_fd, long long offset, Py_ssize_t count) except -1


cdef class MonotonicStopwatch(Stopwatch):
    pass


cdef class Poller:
    cdef object _epoll
    cdef int _fd, _count
    cdef epoll_event _events[512]

    cpdef register(self, int fd, int mask)
    cpdef modify(self, int fd, int mask)
    cpdef unregister(self, int fd)
    cdef int _control(self, int operation, int fd, int mask) except -1
    cpdef int poll(self, int timeout_ms) except -1
    cpdef int poll_briefly(self) except -1
    cdef int _polled(self, int count) except -1
    cpdef int fd(self, int index) except -1
    cpdef int mask(self, int index) except -1
