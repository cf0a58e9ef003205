cdef class RequestHandler:
    cpdef execute(self, list request)
    cpdef on_close(self)
