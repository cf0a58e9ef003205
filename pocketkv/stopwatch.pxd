cdef class Stopwatch:
    cdef object _timer_ns

    cpdef long long now_ns(self) except? -1
