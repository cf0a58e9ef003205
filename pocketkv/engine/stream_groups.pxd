from pocketkv.engine.pending_map cimport PendingMap


cdef class Pending:
    cdef public Consumer consumer
    cdef public long long count, delivered_ms


cdef class Consumer:
    cdef public bytes name
    cdef public long long seen_ms
    cdef public PendingMap pending


cdef class Group:
    cdef public bytes name
    cdef public object last_id
    cdef public long long entries_read
    cdef public PendingMap pending
    cdef public dict consumers
