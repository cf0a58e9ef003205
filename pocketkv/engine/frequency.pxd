cimport cython

cdef unsigned long long _MASK
cdef int _COUNTER_MAX


cdef class FrequencySketch:
    cdef bytearray _cells
    cdef unsigned long long _mask, _slots
    cdef long long _uses, _uses_max
    cdef public long long ages

    @cython.locals(
        cells=bytearray,
        mask=cython.ulonglong,
        slots=cython.ulonglong,
        number=cython.ulonglong,
        step=cython.ulonglong,
        first=cython.ulonglong,
        second=cython.ulonglong,
        third=cython.ulonglong,
        fourth=cython.ulonglong,
        least=cython.int,
    )
    cpdef add(self, bytes key, long long salt=*)
    @cython.locals(
        cells=bytearray,
        mask=cython.ulonglong,
        number=cython.ulonglong,
        step=cython.ulonglong,
        row=cython.ulonglong,
        cell=cython.ulonglong,
    )
    cpdef restore(self, bytes key, int frequency, long long salt=*)
    @cython.locals(
        cells=bytearray,
        mask=cython.ulonglong,
        slots=cython.ulonglong,
        number=cython.ulonglong,
        step=cython.ulonglong,
        first=cython.ulonglong,
        second=cython.ulonglong,
        third=cython.ulonglong,
        fourth=cython.ulonglong,
    )
    cpdef int estimate(self, bytes key, long long salt=*) except -1
