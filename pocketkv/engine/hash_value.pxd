cimport cython

from pocketkv.engine.segments cimport SegmentMap
from pocketkv.engine.sizes cimport bytes_object
from pocketkv.engine.values cimport Collection


cdef class HashValue(Collection):
    cdef public dict _listpack
    cdef public SegmentMap _table
    cdef public long long _held_bytes

    cpdef get(self, bytes field)
    @cython.locals(listpack=dict, held_bytes=cython.longlong)
    cpdef bint set(self, bytes field, bytes value, long long entries_max, long long value_max) except -1
    @cython.locals(table=SegmentMap)
    cdef bint _set_in_table(self, bytes field, bytes value) except -1
    cdef _note_set(self, bytes field, bytes value)
    @cython.locals(listpack=dict, held_bytes=cython.longlong)
    cpdef bint discard(self, bytes field) except -1
    cdef dict _few(self)
    cpdef SegmentMap to_table(self)


cdef long long _dict_growth(Py_ssize_t entries) except -1
