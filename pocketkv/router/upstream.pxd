cdef class Binding:
    cdef public tuple key
    cdef public dict lanes


cdef class Upstream:
    cdef str _failure
    cdef double _suspended_until_s
    cdef public object address, held, router
    cdef public str host, id
    cdef public long long in_flight_bytes, in_flight_max_bytes
    cdef public bint is_open, is_retired
    cdef public dict lanes
    cdef public int port
