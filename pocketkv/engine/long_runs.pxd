cimport cython

from pocketkv.engine.keyspace cimport JobSpace
from pocketkv.engine.node cimport Node
from pocketkv.engine.session cimport Session
from pocketkv.lua.slices cimport Work, Worker, Workers
from pocketkv.resp.replies cimport Deferred


cdef class LongRun:
    cdef bint _expired_actively
    cdef Deferred _deferred
    cdef dict _held
    cdef list _request
    cdef Session _session
    cdef JobSpace _space
    cdef long long _slice_ns, _slice_until_ns, _started_ms, _started_ns
    cdef public bint is_busy
    cdef public bytes busy_text, kill_text
    cdef public Node node
    cdef public Worker worker

    cpdef begin(self)
    cpdef rest(self)
    cpdef bint wait(self, Deferred deferred) except -1
    cpdef leave(self, Session session, list request, bytes busy_text)
    cpdef _go_on_soon(self)


cpdef bint go_on(LongRun run) except -1
@cython.locals(workers=Workers, worker=Worker)
cpdef run_sliced(LongRun run, Work work, Session session, list request, bytes busy_text)
