cimport cython

from pocketkv.engine.cold cimport Cold
from pocketkv.engine.frequency cimport FrequencySketch
from pocketkv.engine.keyspace cimport Clock, JobSpace
from pocketkv.engine.sizes cimport key_cost
from pocketkv.engine.values cimport Collection, value_cost
from pocketkv.slots cimport key_slot


cdef class Database:
    cdef public unsigned int[::1] accessed_s
    cdef public Clock clock
    cdef public dict expires
    cdef public Py_ssize_t expires_count, foreign, size
    cdef public FrequencySketch uses
    cdef public long long salt
    cdef public int index, number
    cdef public bytearray occupied
    cdef public object marks, observer, scans, schedule, shelf
    cdef public JobSpace space
    cdef public list tables

    cpdef lookup(self, bytes key)
    cdef _loaded(self, bytes key, entry)
    cpdef find_stored(self, bytes key)
    @cython.locals(slot=cython.int, table=dict)
    cpdef find(self, bytes key)
    @cython.locals(expires=dict)
    cdef bint _is_due(self, bytes key, int slot) except -1
    cpdef read(self, bytes key)
    cpdef read_string(self, bytes key)
    cpdef lookup_string(self, bytes key)
    @cython.locals(slot=cython.int)
    cpdef put(self, bytes key, value)
    cpdef put_keeping_expiry(self, bytes key, value)
    @cython.locals(table=dict, space=JobSpace)
    cdef _store(self, bytes key, value, int slot, long long due_ms)
    cpdef modified(self, bytes key, long long grown_bytes)
    cdef _remove(self, bytes key)
    @cython.locals(slot=cython.int, table=dict, space=JobSpace)
    cdef _drop(self, bytes key)
    @cython.locals(space=JobSpace)
    cpdef notify(self, int kind, bytes event, bytes key)
    cdef bint _forget_expiry(self, bytes key, int slot) except -1
