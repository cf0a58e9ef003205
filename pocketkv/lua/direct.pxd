cdef class Table:
    cdef object items


cdef class Direct


cdef class Body:
    cdef Direct _direct
    cdef int _ref


cdef class Direct:
    cdef void *_state
    cdef object _runtime, _invoke, _tick, _raised
    cdef bint _is_dirty
    cdef Body _begin, _finished, _globals, _on_error
    cdef public object given

    cpdef long long used_bytes(self)
    cpdef table(self, items)
    cpdef Body body(self, function)
    cpdef run(self, Body code, int protocol, list given, Py_ssize_t key_count)
    cpdef call(self, Body code, int protocol, list given, Py_ssize_t key_count)
    cdef _execute(self, Body code, int protocol, list given, Py_ssize_t key_count, bint is_script)
    cdef _finish(self, int protocol, bint is_ok)
    cdef int _answer(self, void *state) except -2
