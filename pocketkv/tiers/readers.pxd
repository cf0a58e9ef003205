cimport cython


cdef class _Batch:
    cdef list results
    cdef Py_ssize_t left
    cdef object done


cdef class _Coming:
    cdef _Batch batch
    cdef Py_ssize_t index
    cdef object read
    cdef double since_s


cdef class Readers:
    cdef object _log, _queue, _finished, _token, _coming, _direct
    cdef list _threads
    cdef bint _polls
    cdef Py_ssize_t _depth, _waiting
    cdef public long long given, given_direct

    cpdef read(self, list reads, done)
    @cython.locals(batch=_Batch, index=Py_ssize_t, now_s=cython.double)
    cpdef fetch(self, list reads, done)
    @cython.locals(first=_Coming, now_s=cython.double, commands=cython.int, found_direct=cython.bint)
    cpdef bint poll(self) except -1
    @cython.locals(batch=_Batch, index=Py_ssize_t)
    cdef _fetch_each(self, list reads, done)
    @cython.locals(batch=_Batch, index=Py_ssize_t)
    cdef bint _poll_direct(self) except -1
    cdef _give(self, item)
    cdef bint _take(self, _Batch batch, Py_ssize_t index, result) except -1


cdef bint _are_coming(list reads) except -1
