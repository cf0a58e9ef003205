cimport cython

from pocketkv.lua.direct cimport Direct


cdef class Encoded:
    cdef public bytes raw


cdef class Status:
    cdef public bytes text


cdef class Failure:
    cdef public bint is_counted
    cdef public bytes text


cdef class Interpreter:
    cdef Direct _direct
    cdef object _call, _call_tables, _compile, _load_library, _lua, _memory_used, _run, _run_tables
    cdef public object table
    cdef long long _memory_idle_bytes, _memory_max_bytes

    cpdef long long used(self) except -1
    cpdef run(self, script, int protocol, list given, Py_ssize_t key_count)
    cpdef call(self, body, int protocol, list given, Py_ssize_t key_count)
    cdef _tidy(self)
    @cython.locals(size=cython.longlong)
    cdef _make_room(self, list given)
    cdef _require_room(self, long long size)


cdef _answer(tuple result)
