cimport cython


cdef class FileSink:
    cdef object __weakref__
    cdef object _charge, _error, _file, _file_of, _refuses, _warm
    cdef list _regions
    cdef bytes _rest
    cdef long long _filled, _seen, _size

    @cython.locals(begin=cython.longlong)
    cpdef writable(self)
    @cython.locals(received=cython.longlong, whole=cython.longlong)
    cpdef wrote(self, long long count)
    cdef _store_or_refuse(self, data)
    cdef _refuse(self, error)
