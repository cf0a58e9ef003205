cimport cython

from pocketkv.slots cimport key_slot


cdef class Schedule:
    cdef dict _expires
    cdef list _buckets, _starts

    @cython.locals(number=Py_ssize_t, bucket=dict, starts=list)
    cpdef add(self, bytes key, due_ms)
    @cython.locals(number=Py_ssize_t, bucket=dict)
    cpdef remove(self, bytes key, due_ms)
    cdef list _due_times(self, dict bucket)
    @cython.locals(bucket=dict, ordered=list, dues=list)
    cdef bint _split(self, Py_ssize_t number) except -1
    @cython.locals(buckets=list)
    cdef _delete_empty(self, Py_ssize_t number)
