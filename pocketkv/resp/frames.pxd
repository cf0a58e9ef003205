cimport cython

cdef int _CR, _LF, _MINUS, _ZERO, _NINE
cdef Py_ssize_t _LINE_MAX, _LINE_SHORT, _LARGE_BULK_BYTES, _DIGITS_MAX, _REPLIES_FEW


cdef class FrameScanner:
    cdef public int kind
    cdef public Py_ssize_t begun_bytes
    cdef public long long bulk_missing
    cdef list _aside, _chunks
    cdef Py_ssize_t _chunks_bytes
    cdef bytes _data
    cdef long long _missing, _needed, _number
    cdef Py_ssize_t _position, _start

    cpdef feed(self, bytes data)
    @cython.locals(frame=bytes)
    cpdef next_frame(self)
    cpdef list take_begun(self)
    cpdef skip(self, Py_ssize_t count)
    @cython.locals(size=Py_ssize_t, is_all=cython.bint)
    cpdef bint skip_bulk(self, data) except -1
    @cython.locals(chars=cython.p_const_uchar)
    cdef bytes _looked_at(self)
    cdef _set_aside(self)
    cdef _join(self)
    @cython.locals(data=bytes, position=Py_ssize_t, kind=cython.uchar)
    cdef bint _skip_one(self) except -1
    @cython.locals(
        data=bytes, chars=cython.p_const_uchar, end=Py_ssize_t, i=Py_ssize_t, near=Py_ssize_t
    )
    cdef bint _skip_line(self) except -1
    cdef bint _skip_head(self, int replies, int itself) except -1
    cdef _check_missing(self)
    @cython.locals(data=bytes, head=Py_ssize_t, after=cython.longlong)
    cdef bint _skip_bulk(self) except -1
    @cython.locals(available=cython.longlong, taken=cython.longlong)
    cdef bint _skip_in_bulk(self) except -1
    @cython.locals(chars=cython.p_const_uchar)
    cdef _check_end(self, Py_ssize_t position)
    @cython.locals(
        data=bytes, chars=cython.p_const_uchar, end=Py_ssize_t, i=Py_ssize_t, first=Py_ssize_t,
        number=cython.longlong, negative=cython.bint,
    )
    cdef bint _read_number(self) except -1
