cimport cython

cdef long long _BYTES_OBJECT_BYTES, _DICT_ENTRY_BYTES

cpdef long long bytes_object(Py_ssize_t length)
cpdef long long key_cost(bytes key)
cpdef long long allocated_bytes(long long size_bytes)
@cython.locals(slots=cython.longlong, index_bytes=cython.longlong)
cpdef long long dict_bytes(Py_ssize_t entries)
