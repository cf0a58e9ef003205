cimport cython

from pocketkv.resp.connection cimport Connection
from pocketkv.resp.syscalls cimport Poller


cdef class Reactor:
    cdef public object log
    cdef public double now_s
    cdef public dict connections, dropped
    cdef public Py_ssize_t connections_max
    cdef Py_ssize_t _descriptors_max, _own
    cdef public long long accepted
    cdef dict _closed_bytes, _listeners
    cdef public object commit, fetch, poll, on_stall
    cdef public double stall_s
    cdef double _alive_s
    cdef bint _polling
    cdef public bint holds_large
    cdef list _held
    cdef object _on_round, _on_burst_end, _scheduled, _accept_resume_s
    cdef Poller _epoll
    cdef int _wake_fd, _linger_ms
    cdef bint _serving, _closed, _stalled, _tasks_wait

    @cython.locals(mask=cython.int)
    cpdef update_interest(self, Connection connection)
    cpdef schedule(self, Connection connection)
    cpdef let_tasks_run(self)
    cpdef wake(self)
    cdef _look_at_clock(self)
    @cython.locals(started_s=cython.double, ready=cython.int)
    cpdef _burst(self)
    @cython.locals(index=cython.int, fd=cython.int, connection=Connection)
    cdef _round(self, int ready)
    cdef _serve(self, Connection connection, int mask)
    cdef _contain(self, Connection connection, error)
