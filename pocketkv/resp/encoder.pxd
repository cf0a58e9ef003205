cimport cython

from pocketkv.resp.replies cimport FileBulk, FileRange, Simple
cdef bytes _CRLF
cdef list _BULK_HEADS, _INTEGERS
cdef Py_ssize_t _HEADS_MADE


cdef class Outbox:
    cdef public int protocol
    cdef public Py_ssize_t pending_bytes
    cdef object _segments
    cdef list _parts
    cdef Py_ssize_t _head_sent
    cdef Py_ssize_t _shared_bytes

    @cython.locals(size=Py_ssize_t)
    cpdef write(self, bytes data)
    cdef _seal(self)
    cpdef pieces(self)
    cpdef FileRange file_part(self)
    cpdef bint file_follows(self, Py_ssize_t pieces) except -1
    cdef _file_bulk(self, FileBulk reply)
    @cython.locals(parts=list, data=bytes)
    cpdef bytes take_small(self)
    cpdef give_back(self, bytes rest)
    cpdef sent(self, Py_ssize_t count)
    @cython.locals(simple=Simple)
    cpdef encode(self, reply)
    @cython.locals(size=Py_ssize_t, parts=list, head=bytes)
    cdef _bulk(self, bytes value)
