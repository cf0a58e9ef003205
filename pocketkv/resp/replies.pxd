cdef class Simple:
    cdef public bytes encoded
    cdef public bytes text


cdef class ErrorReply:
    cdef public bytes text
