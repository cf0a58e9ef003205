from pocketkv.engine.cold cimport Cold


cdef class StoredRead:
    cdef public Shelf shelf
    cdef public Cold cold
    cdef public object key

    cpdef try_read(self)
    cpdef read(self)
    cpdef bint keep(self, result) except -1
    cpdef forget(self)


cdef class Shelf:
    cdef public object assemblies, db, journal, keyspace, reading
    cdef public bint durable, is_cold
    cdef public long long index_bytes, spilled_bytes, spilled_keys
    cdef public dict chains, fetched, spilling, unwritten, writings

    cpdef stored(self, bytes key, value, long long due_ms)
    cpdef changed(self, bytes key)
    cdef bint _journals(self) except -1
    cpdef added(self, bytes key)
    cpdef replaced(self, bytes key, old)
    cpdef removed(self, bytes key, old)
    cdef _index_grew(self, long long count)
    cdef _forget_cold(self, bytes key, Cold cold)
    cdef _forget_chain(self, bytes key)
    cpdef load(self, bytes key, Cold cold)
    cpdef read_now(self, Cold cold)
