cimport cython

from pocketkv.resp.encoder cimport Outbox
from pocketkv.resp.handler cimport RequestHandler
from pocketkv.resp.parser cimport RequestParser
from pocketkv.resp.reactor cimport Reactor
from pocketkv.resp.replies cimport Deferred, Encoded, FileRange, Listener
from pocketkv.resp.syscalls cimport receive, receive_into, send, send_before_file, send_file
from pocketkv.resp.connection cimport Connection


cdef class ClientConnection(Connection):
    cdef bint _closing, _ended, _overrun
    cdef object _exclusive, _commit
    cdef Py_ssize_t _answered
    cdef object _waiting
    cdef list _held_pushes
    cdef Py_ssize_t _held_bytes, _push_backlog_max_bytes
    cdef public RequestHandler handler
    cdef public Py_ssize_t outstanding_max
    cdef Py_ssize_t _requests_per_turn, _backlog_high_bytes, _request_backlog_max_bytes
    cdef public RequestParser parser
    cdef public long long requests

    cpdef on_readable(self)
    cpdef on_turn(self)
    @cython.locals(turns=Py_ssize_t)
    cdef bint _serve_requests(self) except -1
    @cython.locals(before_bytes=Py_ssize_t, waiting=Py_ssize_t)
    cdef bint _serve_and_commit(self) except -1
    cdef _answer_anew(self, error, Py_ssize_t before_bytes, Py_ssize_t waiting)
    cdef bint _may_serve(self) except -1
    cdef bint _serve_one(self) except -1
    @cython.locals(count=Py_ssize_t)
    cdef bint _receive_large(self) except -1
    cdef _after_head(self)
    @cython.locals(deferred=Deferred)
    cpdef reply(self, reply)
    cpdef bint is_next(self, Deferred reply) except -1
    @cython.locals(count=Py_ssize_t, before_bytes=Py_ssize_t)
    cpdef Py_ssize_t relay(self, Deferred reply, piece) except -1
    @cython.locals(count=Py_ssize_t)
    cpdef Py_ssize_t relay_by(self, Deferred reply, send_piece) except -1
    cpdef on_reply_known(self)
    @cython.locals(known=Deferred, encoded=Encoded)
    cdef _take_known_replies(self)
    cdef _take_pieces(self, Deferred reply)
    cdef _finish_closing(self)
    @cython.locals(backlog=Py_ssize_t)
    cdef _limit_backlog(self)
