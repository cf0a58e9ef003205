cimport cython


@cython.locals(ms=cython.ulonglong, seq=cython.ulonglong)
cpdef bytes format_id(entry_id)
