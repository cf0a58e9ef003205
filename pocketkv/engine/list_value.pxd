cimport cython

from pocketkv.engine.list_chunks cimport cost_of, item_cost
from pocketkv.engine.sizes cimport bytes_object
from pocketkv.engine.values cimport Collection

cdef Py_ssize_t _CHUNK_ITEMS, _CHUNK_MASK
cdef int _CHUNK_SHIFT
cdef long long _BASE_BYTES, _CHUNK_BYTES


cdef class ListValue(Collection):
    cdef public list _chunks, _first, _frozen, _last
    cdef public Py_ssize_t _room, _size
    cdef public bint _regular

    @cython.locals(number=Py_ssize_t, position=Py_ssize_t)
    cpdef bytes get(self, Py_ssize_t index)
    @cython.locals(
        chunk=list,
        chunks=list,
        found=list,
        missing=Py_ssize_t,
        number=Py_ssize_t,
        position=Py_ssize_t,
    )
    cpdef list items_from(self, Py_ssize_t start, Py_ssize_t count)
    cpdef list chunks(self)
    cpdef push_left(self, bytes item)
    cpdef push_right(self, bytes item)
    @cython.locals(item=bytes)
    cpdef bytes pop_left(self)
    @cython.locals(item=bytes)
    cpdef bytes pop_right(self)
    @cython.locals(chunks=list)
    cdef _add_first(self)
    cdef _add_last(self)
    @cython.locals(chunks=list)
    cdef _drop_first(self)
    @cython.locals(chunks=list)
    cdef _drop_last(self)
    @cython.locals(chunks=list)
    cdef _left_chunk(self)
    @cython.locals(chunks=list)
    cdef _find_ends(self)
    @cython.locals(number=Py_ssize_t, chunks=list, from_end=Py_ssize_t)
    cdef tuple _locate(self, Py_ssize_t index)
