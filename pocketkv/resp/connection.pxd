cimport cython

from pocketkv.resp.encoder cimport Outbox
from pocketkv.resp.handler cimport RequestHandler
from pocketkv.resp.parser cimport RequestParser
from pocketkv.resp.reactor cimport Reactor
from pocketkv.resp.replies cimport Deferred, Encoded, FileRange, Listener
from pocketkv.resp.syscalls cimport receive, receive_into, send, send_before_file, send_file


cdef class Connection(Listener):
    cdef object __weakref__
    cdef public bint closed, fetching, input_paused, output_waits, scheduled
    cdef public int fd
    cdef public double last_progress_s, last_receive_s
    cdef public Outbox outbox
    cdef public Reactor reactor
    cdef public object socket
    cdef public long long received_bytes, sent_bytes, send_bytes_per_turn
    cdef public Py_ssize_t receive_bytes

    cpdef on_readable(self)
    cpdef on_turn(self)
    cpdef on_end(self)
    cpdef on_drained(self)
    cpdef on_writable(self)
    cpdef bytes receive(self)
    cpdef tuple receive_into(self, view, bint spill)
    @cython.locals(
        outbox=Outbox, budget_bytes=cython.longlong, count=Py_ssize_t, small=bytes,
        full=cython.bint,
    )
    cpdef flush(self)
    @cython.locals(outbox=Outbox, part=FileRange, sent=Py_ssize_t, wanted=Py_ssize_t)
    cdef Py_ssize_t _send_large(self, long long budget_bytes) except -1
    @cython.locals(ready=Py_ssize_t)
    cdef Py_ssize_t _at_hand(self, FileRange part, Py_ssize_t sent, Py_ssize_t wanted) except -1
    cdef _wait_for_room(self)
