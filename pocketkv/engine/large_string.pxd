cimport cython

from pocketkv.engine.extents cimport Extent, Extents
from pocketkv.resp.replies cimport FileBulk, FileRange


cdef class Hold:
    cdef public Extent extent

    cpdef view(self, Py_ssize_t offset, Py_ssize_t size)
    cpdef Py_ssize_t resident(self, Py_ssize_t offset, Py_ssize_t size) except -1


cdef class Piece:
    cdef public Extent extent
    cdef public Py_ssize_t offset, size


cdef class LargeString:
    cdef list _ends, _pieces
    cdef Extents _extents
    cdef Py_ssize_t _pages
    cdef public object charge
    cdef public Py_ssize_t written_from

    @cython.locals(extent=Extent, part=Py_ssize_t)
    cdef _adopt(self, list chain, Py_ssize_t size)
    cdef _add(self, Piece piece)
    cpdef FileBulk bulk(self)
    @cython.locals(extent=Extent)
    cpdef FileBulk part_bulk(self, Py_ssize_t start, Py_ssize_t stop)
    @cython.locals(piece=Piece, index=Py_ssize_t, within=Py_ssize_t, size=Py_ssize_t)
    cdef list _parts(self, Py_ssize_t start, Py_ssize_t stop)
    cdef _append_string(self, LargeString other)
    @cython.locals(piece=Piece)
    cdef Py_ssize_t _room(self) except -1


cpdef reply_of(value)
cpdef require_first(LargeString value, Py_ssize_t start, Py_ssize_t stop)
cdef Py_ssize_t _room_behind(Piece piece) except -1
cdef int _sent_by(Extent extent, Py_ssize_t size) except -2
