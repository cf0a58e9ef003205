from pocketkv.engine.cold cimport Cold
from pocketkv.engine.sizes cimport bytes_object


cdef class Collection:
    cdef public long long size_bytes
    cdef public list changes


cpdef long long value_cost(value) except? -1
