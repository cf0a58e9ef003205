cimport cython


cdef class Work:
    cpdef do(self)


cdef class Worker:
    cdef public Work work
    cdef object _back, _failure, _greenlet, _parent, _result, _switch

    cpdef bint go_on(self) except -1
    cpdef leave(self)
    cpdef take_result(self)


cdef class Workers:
    cdef list _idle

    cpdef Worker take(self)
    cpdef give_back(self, Worker worker)
