cimport cython


cdef int _ZERO, _POINT, _PLAIN_DECIMAL_MAX, _PLAIN_DIGITS_MAX
cdef tuple _POWERS


@cython.locals(small=cython.longlong)
cpdef canonical_integer(text)
@cython.locals(digit=cython.int, end=Py_ssize_t, i=Py_ssize_t, number=cython.longlong)
cdef long long _plain_digits(bytes text) except? -1
@cython.locals(
    digit=cython.int, end=Py_ssize_t, i=Py_ssize_t, number=cython.longlong, places=Py_ssize_t
)
cdef double _plain_decimal(bytes text) except? -1.0
cpdef parse_int(text, bytes error=*)
@cython.locals(plain=double)
cpdef parse_double(text, bytes error=*)
