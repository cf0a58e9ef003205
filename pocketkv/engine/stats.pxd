cdef class CommandStats:
    cdef public long long calls, failed, rejected, total_ns
    cdef public long long[::1] buckets


cdef class KeyStats:
    cdef public long long hits, misses, evicted, expired, commands, received_bytes, sent_bytes, refused_oom
    cdef public long long spill_hits, spilled_back, spilled_out


cdef class SlowLog:
    cdef public long long length_max, next_id, threshold_us
    cdef public object entries
