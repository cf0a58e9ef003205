cdef class CommandStats:
    cdef public long long calls, failed, rejected, total_ns
    cdef public list buckets
