cimport cython

from pocketkv.resp.connection cimport Connection
from pocketkv.resp.frames cimport FrameScanner
from pocketkv.router.exchange cimport Forward
from pocketkv.router.upstream cimport Upstream

cdef int _MINUS, _PUSH
cdef Py_ssize_t _CRLF_BYTES, _SPLICED_BYTES, _STREAMED_BYTES


cdef class Lane(Connection):
    cdef Py_ssize_t _behind
    cdef double _busy_since_s, _opened_s
    cdef object _expected
    cdef bint _is_connected
    cdef bytes _refusal
    cdef list _refused
    cdef FrameScanner _scanner
    cdef Forward _streamed
    cdef public object failure, pending, reason
    cdef public bint is_ready
    cdef public tuple key
    cdef public Upstream upstream

    @cython.locals(upstream=Upstream)
    cpdef send(self, Forward forward)
    @cython.locals(frame=bytes)
    cdef _write(self, Forward forward)
    cpdef on_turn(self)
    @cython.locals(data=bytes, streamed=Forward)
    cpdef on_readable(self)
    cdef _after_head(self)
    @cython.locals(contents=cython.longlong)
    cdef _receive_bulk(self, Forward streamed)
    @cython.locals(count=Py_ssize_t)
    cdef _splice_bulk(self, relay, Forward streamed, long long contents)
    @cython.locals(scanner=FrameScanner, missing=cython.longlong)
    cdef _copy_bulk(self, relay, Forward streamed)
    @cython.locals(scanner=FrameScanner)
    cdef _scan(self, bytes data)
    cdef _pass_on_begun(self)
    @cython.locals(streamed=Forward, forward=Forward, kind=cython.int)
    cdef _on_frame(self, bytes frame)
    @cython.locals(forward=Forward)
    cdef Forward _take_pending(self)
