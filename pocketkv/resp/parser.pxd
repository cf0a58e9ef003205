cimport cython

cdef int _CR, _DIGITS_MAX, _DOLLAR, _LF, _MINUS, _NINE, _STAR, _ZERO
cdef unsigned long long _INT64_MAX


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
    cdef Py_ssize_t _frame_start
    cdef object _sink
    cdef Py_ssize_t _sink_missing
    cdef public object sinks
    cdef public bint keep_frames
    cdef public bytes frame

    @cython.locals(large=Py_ssize_t)
    cpdef Py_ssize_t buffered_bytes(self) except -1
    cpdef feed(self, bytes data)
    @cython.locals(
        arguments=list, chars=cython.p_const_uchar, skipped=Py_ssize_t, start=Py_ssize_t
    )
    cpdef object next_request(self)
    cpdef writable(self)
    cpdef bint completes(self, Py_ssize_t count) except -1
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
    cdef int _check_bulk_bytes(self) except -1
    cdef int _append(self, object argument) except -1
    @cython.locals(size=Py_ssize_t)
    cdef _begin_large(self)
    cdef bint _continue_large(self) except -1
    @cython.locals(count=Py_ssize_t)
    cdef _fill_large(self, object sink)
    cdef bint _more_data(self) except -1
