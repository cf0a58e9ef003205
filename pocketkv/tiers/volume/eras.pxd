cdef class Eras:
    cdef long long _era_bytes, _left_bytes
    cdef readonly long long now

    cpdef read(self, long long size)
