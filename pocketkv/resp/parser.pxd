cimport cython


cdef class RequestParser:
    cdef public Py_ssize_t arguments_max
    cdef public Py_ssize_t bulk_bytes_max
    cdef public Py_ssize_t queued_bytes
    cdef bytes _data
    cdef Py_ssize_t _position
    cdef object _chunks
    cdef Py_ssize_t _scanned
    cdef long long _number
    cdef list _arguments
    cdef Py_ssize_t _missing
    cdef Py_ssize_t _bulk_bytes
    cdef Py_ssize_t _request_bytes
    cdef Py_ssize_t _request_bytes_max
    cdef Py_ssize_t _large_bytes
    cdef bytearray _large
    cdef Py_ssize_t _large_filled

    cpdef feed(self, bytes data)
    @cython.locals(arguments=list, skipped=Py_ssize_t)
    cpdef object next_request(self)
    cpdef writable(self)
    cpdef wrote(self, Py_ssize_t count)
    @cython.locals(data=bytes, count=Py_ssize_t)
    cdef bint _begin_request(self) except -1
    @cython.locals(
        data=bytes, chars=cython.p_const_uchar, end=Py_ssize_t, i=Py_ssize_t, first=Py_ssize_t,
        number=cython.ulonglong, value=cython.longlong, c=cython.uchar, negative=cython.bint,
    )
    cdef bint _read_number(self, str what) except -1
    @cython.locals(data=bytes, end=Py_ssize_t, start=Py_ssize_t)
    cdef bint _read_inline(self) except -1
    @cython.locals(
        data=bytes, chars=cython.p_const_uchar, end=Py_ssize_t, start=Py_ssize_t,
        size=Py_ssize_t, after=Py_ssize_t,
    )
    cdef bint _read_arguments(self) except -1
    @cython.locals(size=Py_ssize_t)
    cdef _check_bulk_bytes(self)
    cdef _append(self, bytes argument)
    cdef _begin_large(self)
    cdef bint _continue_large(self) except -1
    cdef _fill_large(self, bytearray large)
    cdef bint _more_data(self) except -1
