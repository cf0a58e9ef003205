cdef Py_ssize_t _OVERHEAD_BYTES

cpdef Py_ssize_t request_cost(list request, bytes frame)
