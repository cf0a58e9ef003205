from cpython.ref cimport PyObject


cdef class ByteSink:
    cdef PyObject *_bytes
    cdef Py_ssize_t _size, _filled, _room

    cpdef writable(self)
    cpdef wrote(self, Py_ssize_t count)
    cpdef finish(self)
    cpdef abort(self)
