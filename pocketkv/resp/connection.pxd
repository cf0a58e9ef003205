cimport cython

from pocketkv.resp.encoder cimport Outbox
from pocketkv.resp.parser cimport RequestParser
from pocketkv.resp.syscalls cimport receive, send


cdef class Connection:
    cdef object __weakref__
    cdef public bint closed, input_paused, output_waits, scheduled
    cdef public int fd
    cdef public double last_progress_s, last_receive_s
    cdef public Outbox outbox
    cdef public object reactor, socket
    cdef public long long received_bytes, sent_bytes, send_bytes_per_turn

    cpdef receive(self)
    @cython.locals(outbox=Outbox, budget_bytes=cython.longlong, count=Py_ssize_t, small=bytes, full=cython.bint)
    cpdef flush(self)


cdef class ClientConnection(Connection):
    cdef bint _closing, _ended, _overrun
    cdef object _exclusive
    cdef object _waiting
    cdef public object handler
    cdef public Py_ssize_t outstanding_max
    cdef Py_ssize_t _requests_per_turn, _backlog_high_bytes
    cdef public RequestParser parser
    cdef public long long requests

    cpdef on_readable(self)
    cpdef on_turn(self)
    @cython.locals(turns=Py_ssize_t)
    cdef bint _serve_requests(self) except -1
    cdef bint _may_serve(self) except -1
    cdef bint _serve_one(self) except -1
    cpdef reply(self, reply)
    cdef _finish_closing(self)
    cdef _limit_backlog(self)
