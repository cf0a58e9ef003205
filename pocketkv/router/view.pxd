cimport cython

from pocketkv.router.upstream cimport Upstream


cdef class JobView:
    cdef bytes _high, _low, _reason
    cdef list _owner_ids, _owners, _shares
    cdef public bint is_stale
    cdef public object placement
    cdef public Upstream sole

    @cython.locals(low=cython.uchar, high=cython.uchar, upstream=Upstream)
    cpdef Upstream owner(self, Py_ssize_t slot)
    @cython.locals(first=Upstream)
    cpdef Upstream common_owner(self, list slots)
