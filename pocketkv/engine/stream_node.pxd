cimport cython

from pocketkv.engine.sizes cimport bytes_object

cdef Py_ssize_t _ENTRY_BYTES
cdef list _LENGTHS
cdef unsigned long long _MASK


cpdef int integer_bytes(long long number) except -1
cpdef int difference_bytes(unsigned long long number) except -1
@cython.locals(length=Py_ssize_t)
cpdef Py_ssize_t text_bytes(bytes text) except -1


cdef class StreamNode:
    cdef public object data, first, last, lengths, ms, seqs
    cdef public tuple fields
    cdef public Py_ssize_t deleted, listpack_bytes
    cdef public unsigned long long first_ms, first_seq

    @cython.locals(size=Py_ssize_t, field=bytes)
    cpdef Py_ssize_t size_bytes(self) except -1
    @cython.locals(count=Py_ssize_t)
    cpdef bint is_full(
        self, Py_ssize_t added_bytes, Py_ssize_t entries_max, Py_ssize_t bytes_max
    ) except -1
    @cython.locals(
        count=Py_ssize_t, fields=tuple, grown=Py_ssize_t, i=Py_ssize_t, length=Py_ssize_t, parts=list,
        ms=cython.ulonglong, packed=bytes, same=bint, seq=cython.ulonglong, step=Py_ssize_t, text=bytes
    )
    cpdef Py_ssize_t add(self, entry_id, list pairs) except -1
    cpdef Py_ssize_t add_packed(self, entry_id, bytes packed, Py_ssize_t listpack_bytes) except -1
    cdef Py_ssize_t _add(self, entry_id, bytes packed, Py_ssize_t listpack_bytes) except -1
    cpdef close(self)
    cpdef Py_ssize_t remove(self, Py_ssize_t position) except -1
    cpdef Py_ssize_t remove_first(self, Py_ssize_t count) except -1
    @cython.locals(begin=Py_ssize_t, size=Py_ssize_t)
    cdef Py_ssize_t _cut(self, Py_ssize_t start, Py_ssize_t end) except -1
    cpdef entry_id(self, Py_ssize_t position)
    @cython.locals(low=Py_ssize_t)
    cpdef Py_ssize_t position(self, entry_id) except -1
    @cython.locals(
        begin=Py_ssize_t, found=list, number=Py_ssize_t, place=Py_ssize_t, raw=bytes
    )
    cpdef list read(self, Py_ssize_t start, Py_ssize_t end)
    @cython.locals(count=Py_ssize_t, stop=Py_ssize_t, texts=list, _=Py_ssize_t)
    cdef list _texts(self, bytes raw, Py_ssize_t place)
    cpdef bytes packed_at(self, Py_ssize_t position)


cdef Py_ssize_t _length(bytes raw, Py_ssize_t place) except -1
