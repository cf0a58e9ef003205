cimport cython

from pocketkv.engine.sizes cimport allocated_bytes, dict_bytes


cdef class Survey:
    cdef object _addresses, _lasting
    cdef public dict large, small
    cdef public long long counted

    cpdef count(self, item, long long size_bytes, long long weight)
    cpdef count_bytes(self, bytes item, long long weight)
    cpdef count_dict(self, dict table, long long weight)
    @cython.locals(counts=dict)
    cdef _count(self, region, long long size_bytes, long long weight)


cdef class Evacuation:
    cdef object _addresses
    cdef public dict held
    cdef public long long attempts, moved_bytes, moved_objects

    cpdef bint concerns(self, item) except -1
    cpdef bint concerns_dict(self, dict table) except -1
    cpdef bint concerns_list(self, list items) except -1
    cdef bint _concerns_at(self, address) except -1
    cpdef bint refuses(self, item) except -1
    cdef bint _refuses_at(self, address, item) except -1
    cpdef moved(self, item, long long size_bytes)
    @cython.locals(held=dict, refused=list, cost=cython.longlong)
    cpdef move_bytes(self, bytes item)
    @cython.locals(size_bytes=cython.longlong, fresh=dict)
    cpdef move_dict(self, dict table)
    cdef bint _finds_place(self, long long size_bytes) except -1
