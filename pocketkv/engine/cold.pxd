cdef class Cold:
    cdef public int kind
    cdef public long long length, offset, record_bytes, cost_bytes
    cdef public object place
