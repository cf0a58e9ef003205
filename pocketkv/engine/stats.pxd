cdef class CommandStats:
    cdef public long long calls, failed, rejected, total_ns
    cdef public long long[::1] buckets


cdef class SlowLog:
    cdef public long long length_max, next_id, threshold_us
    cdef public object entries
