cimport cython

from pocketkv.engine.commands cimport Command
from pocketkv.router.exchange cimport Exchange, Forward
from pocketkv.router.upstream cimport Upstream
from pocketkv.router.view cimport JobView
from pocketkv.slots cimport key_slot


cdef class Part(Forward):
    cdef public Gather parent
    cdef public list places

    cpdef finish(self, reply, long long size_bytes)
    cpdef Upstream owner(self, JobView view)


cdef class Gather(Exchange):
    cdef public Py_ssize_t missing
    cdef public list parts
    cdef public long long size_bytes

    cpdef part_finished(self, Part part, long long size_bytes)
    cpdef gathered(self)
    cpdef replace(self, Part part)


cdef class SplitForward(Forward):
    cpdef misplaced(self, JobView view, error)


cdef class SplitGather(Gather):
    cdef public SplitForward whole

    cpdef start(self)
    cpdef finish(self, reply, long long size_bytes)
    cpdef split(self, JobView view)
    @cython.locals(
        request=list, first=Py_ssize_t, step=Py_ssize_t, place=Py_ssize_t, groups=dict, group=list,
        part=list, owner=Upstream, position=Py_ssize_t,
    )
    cdef list _plan(self, JobView view, list places)


cdef class AllGather(Gather):
    cdef public int rounds
    cdef public JobView view

    cpdef start(self)
    cpdef gathered(self)


cdef class RandomKey(Gather):
    cdef public list candidates

    cpdef start(self)
    cpdef gathered(self)
