cimport cython


cdef class Region:
    cdef object __weakref__
    cdef public object file, sums, unverified
    cdef object _running, _cut, _given_up, _passed
    cdef list _loaded
    cdef long _passed_in
    cdef public long long backed, offset, size, used
    cdef public long holds
    cdef public bint is_kept, is_shared

    @cython.locals(wanted=cython.longlong)
    cpdef back(self, long long until, long long step_bytes=*)
    cpdef back_for(self, long long count)
    @cython.locals(size=cython.longlong)
    cpdef append(self, data)
    @cython.locals(within=cython.longlong)
    cdef _count(self, data)
