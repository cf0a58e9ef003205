cimport cython

from pocketkv.engine.commands cimport Command
from pocketkv.engine.extents cimport Extent, Extents
from pocketkv.engine.keyspace cimport JobSpace, Keyspace
from pocketkv.engine.large_string cimport LargeString
from pocketkv.engine.session cimport Session


cpdef long long charged_bytes(request) except -1
cpdef settle(request)


cdef class ExtentSinks:
    cdef public Session session

    @cython.locals(keyspace=Keyspace, command=Command, sink=ExtentSink)
    cpdef open(self, list arguments, Py_ssize_t size)


cdef class ExtentSink:
    cdef object __weakref__
    cdef list _chain
    cdef object _charge
    cdef Extents _extents
    cdef Py_ssize_t _filled, _index, _seen, _size, _step_bytes, _within
    cdef bint _is_copy, _refused

    @cython.locals(extent=Extent, missing=Py_ssize_t, end=Py_ssize_t)
    cpdef writable(self)
    cpdef ignore_quota(self, Py_ssize_t size)
    @cython.locals(space=JobSpace)
    cpdef wrote(self, Py_ssize_t count)
    @cython.locals(string=LargeString, chain=list)
    cpdef finish(self)
    cpdef abort(self)
    cpdef give_back_rest(self)
    cdef _refuse(self)
    @cython.locals(chain=list, extent=Extent, step_pages=Py_ssize_t, pages=Py_ssize_t)
    cdef Extent _next_extent(self, Py_ssize_t missing)
