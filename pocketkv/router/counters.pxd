cdef class RouterCounters:
    cdef public long long lanes_opened, proxied, retries, upstream_errors
