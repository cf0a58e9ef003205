cimport cython

from pocketkv.engine.sizes cimport bytes_object

cdef long long _ITEM_BYTES

cpdef long long item_cost(bytes item)
@cython.locals(cost=cython.longlong, item=bytes)
cpdef long long cost_of(list items) except? -1
@cython.locals(before=Py_ssize_t, chunk=list)
cpdef Py_ssize_t index_of(list chunks, bytes item) except -2
@cython.locals(chunk=list, kept=list)
cpdef list without(list chunk, bytes item, long long count, bint backwards)
