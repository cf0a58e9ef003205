cimport cython


cdef class Encoded:
    cdef public bytes raw


cdef class Status:
    cdef public bytes text


cdef class Failure:
    cdef public bint is_counted
    cdef public bytes text


cdef class Interpreter:
    cdef object _direct, _call, _call_tables, _compile, _load_library, _lua, _memory_used, _run, _run_tables
    cdef public object table

    cpdef run(self, script, int protocol, list given, Py_ssize_t key_count)
    cpdef call(self, body, int protocol, list given, Py_ssize_t key_count)
    @cython.locals(size=cython.longlong)
    cdef _execute(self, run, run_tables, code, int protocol, list given, Py_ssize_t key_count)
    cdef _require_room(self, long long size)


cdef _answer(tuple result)
