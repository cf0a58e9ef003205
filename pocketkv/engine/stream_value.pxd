cimport cython

from pocketkv.engine.stream_entries cimport StreamEntries
from pocketkv.engine.stream_groups cimport Consumer, Group, Pending
from pocketkv.engine.stream_node cimport StreamNode


cdef class StreamValue(StreamEntries):
    cdef public dict groups

    @cython.locals(consumer=Consumer)
    cpdef Consumer see_consumer(self, Group group, bytes name, long long now_ms)
    @cython.locals(ids=list)
    cpdef list read_new(self, Group group, Py_ssize_t count, Consumer consumer, long long now_ms)
    @cython.locals(pending=Pending)
    cpdef deliver(
        self, Group group, entry_id, Consumer consumer, long long delivered_ms, long long count
    )
    @cython.locals(pending=Pending, count=Py_ssize_t, settled=list)
    cpdef Py_ssize_t settle(self, Group group, list ids) except -1
