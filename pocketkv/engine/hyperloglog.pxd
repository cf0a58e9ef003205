cimport cython

cdef bytes _SPANS
cdef unsigned long long _SEED, _MULTIPLIER, _MASK


@cython.locals(
    size=Py_ssize_t,
    position=Py_ssize_t,
    i=cython.int,
    hashed=cython.ulonglong,
    word=cython.ulonglong,
    byte=cython.ulonglong,
)
cpdef unsigned long long murmur_hash(bytes element) except? 0
@cython.locals(
    hashed=cython.ulonglong, rest=cython.ulonglong, index=Py_ssize_t, rank=cython.int
)
cpdef bint add(bytearray data, bytes element, long long sparse_bytes_max) except -1
@cython.locals(changed=cython.int)
cpdef bint raise_register(
    bytearray data, Py_ssize_t index, int rank, long long sparse_bytes_max
) except -1
@cython.locals(
    position=Py_ssize_t, shift=cython.int, word=cython.uint, high=cython.uint
)
cdef bint _raise_dense(bytearray data, Py_ssize_t index, int rank) except -1
@cython.locals(
    end=Py_ssize_t,
    position=Py_ssize_t,
    previous=Py_ssize_t,
    first=Py_ssize_t,
    size=cython.int,
    span=cython.int,
    byte=cython.int,
    held=cython.int,
    before=cython.int,
    behind=cython.int,
    runs=bytes,
    spans=bytes,
)
cdef int _raise_sparse(
    bytearray data, Py_ssize_t index, int rank, long long sparse_bytes_max
) except -2
cdef bytes _run(int held, int count)
@cython.locals(end=Py_ssize_t, byte=cython.int, following=cython.int, count=cython.int)
cdef _join(bytearray data, Py_ssize_t position)
@cython.locals(
    index=Py_ssize_t,
    position=Py_ssize_t,
    end=Py_ssize_t,
    byte=cython.int,
    word=cython.int,
    held=cython.int,
    i=cython.int,
)
cpdef merge_into(bytearray highest, data)
@cython.locals(found=bytearray, index=Py_ssize_t, held=cython.int)
cpdef to_dense(bytearray data)
@cython.locals(counts=list, held=cython.int)
cpdef estimate(bytearray found)
cdef double _tau(double x)
@cython.locals(y=cython.double, z=cython.double, before=cython.double)
cdef double _sigma(double x)
