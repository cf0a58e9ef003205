cimport cython


cdef class PendingMap:
    cdef list _keys, _values
    cdef public Py_ssize_t _size

    cpdef first(self)
    cpdef last(self)
    @cython.locals(keys=list, number=Py_ssize_t, position=Py_ssize_t)
    cpdef get(self, key)
    @cython.locals(keys=list, number=Py_ssize_t, position=Py_ssize_t)
    cpdef put(self, key, value)
    @cython.locals(keys=list, values=list, number=Py_ssize_t, position=Py_ssize_t)
    cpdef pop(self, key)
    @cython.locals(
        found=list, keys=list, values=list, number=Py_ssize_t, position=Py_ssize_t
    )
    cpdef list some(self, start, end, count)
    @cython.locals(
        chunks=list, keys=list, low=Py_ssize_t, high=Py_ssize_t, middle=Py_ssize_t
    )
    cdef Py_ssize_t _chunk_of(self, key) except -1
    @cython.locals(keys=list)
    cdef _append(self, key, value)
    @cython.locals(half=Py_ssize_t)
    cdef _split(self, Py_ssize_t number)
    @cython.locals(first=Py_ssize_t)
    cdef _unite(self, Py_ssize_t number)
