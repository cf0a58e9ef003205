cimport cython

from pocketkv.engine.commands cimport Command
from pocketkv.engine.session cimport Session
from pocketkv.resp.handler cimport RequestHandler
from pocketkv.resp.replies cimport Deferred, Encoded
# They know each other's types: so neither may import the other while it is executed.
from pocketkv.router.lane cimport Lane
from pocketkv.router.upstream cimport Binding, Upstream
from pocketkv.router.view cimport JobView
from pocketkv.router.wire cimport request_cost
from pocketkv.slots cimport key_slot


cdef class Asker(RequestHandler):
    cdef public bint closed, is_unsettled
    cdef public Py_ssize_t in_flight
    cdef public object router
    cdef public Session session
    cdef public JobView view

    cpdef finished(self, Exchange exchange, reply, long long size_bytes)
    cpdef Py_ssize_t relay(self, Exchange reply, piece) except -1
    cpdef on_piece(self, long long size_bytes)
    cpdef hold(self)
    cpdef release(self)


cdef class Exchange(Deferred):
    cdef public Binding binding
    cdef public Asker client
    cdef public Command command
    cdef public bytes frame
    cdef public list request
    cdef public bint silent
    cdef public long long started_ns

    cpdef _prepare(self, Asker client, Command command, list request)
    cpdef start(self)
    cpdef finish(self, reply, long long size_bytes)


cdef class Forward(Exchange):
    cdef public Py_ssize_t cost_bytes
    cdef public long long streamed_bytes
    cdef public bint is_second
    cdef public double refused_s
    cdef public Upstream upstream

    @cython.locals(command=Command, request=list)
    cpdef Upstream owner(self, JobView view)
    cpdef start(self)
    cpdef route(self, JobView view)
    cpdef misplaced(self, JobView view, error)
    cpdef send(self, Upstream upstream)
    @cython.locals(lane=Lane)
    cpdef dispatch(self, Upstream upstream)
    cpdef answer(self, bytes frame)
    cpdef answer_error(self, bytes frame)
    cpdef take(self, list pieces)
    cpdef relay(self, data)
    cpdef end(self, bytes frame)


cdef class ScanForward(Forward):
    cpdef Upstream owner(self, JobView view)
    cpdef answer(self, bytes frame)


cdef class SlotForward(Forward):
    cpdef Upstream owner(self, JobView view)
