cdef class KeyWaiter:
    cdef public object attempt, blocked, database, request, session, takes
    cdef public list keys

    cpdef bint try_key(self, bytes key) except -1


cdef class Waiters:
    cdef public object node, space
    cdef public dict left_waiters, ready
    cdef dict _by_key

    cpdef changed(self, database, bytes key, int slot)
