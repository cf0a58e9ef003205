cimport cython

cdef dict _TABLE


cdef class Command:
    cdef public str name
    cdef public object handler
    cdef public object flags, categories, keys, key_flags, route, merge
    cdef public object group, since, complexity, summary, usage, tips
    cdef public dict subcommands
    cdef public bint blocks, is_local, is_write, needs_values, denies_oom, no_auth, no_script, single_key
    cdef public Py_ssize_t arity, arity_min, arity_max, first_key, value_at, value_step

    cpdef bint takes_large(self, Py_ssize_t position) except -1


@cython.locals(name=bytes, record=Command)
cpdef Command find_command(list request)
