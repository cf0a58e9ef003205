cimport cython


cdef class Extent:
    cdef public Extents extents
    cdef public Py_ssize_t start, pages, backed_pages, holds
    cdef public long long copied_bytes
    cdef public bint is_sent, is_shared

    cpdef Py_ssize_t offset(self) except -1
    cpdef Py_ssize_t size_bytes(self) except -1
    cpdef Py_ssize_t backed_bytes(self) except -1
    cpdef bint is_writable(self) except -1
    cpdef view(self, Py_ssize_t offset, Py_ssize_t size)


# A class's number stays an object, since a bit is shifted by it further than a C integer has.
@cython.locals(shift=Py_ssize_t)
cpdef object class_of(Py_ssize_t pages)


cdef class FreeRanges:
    cdef public dict sizes
    cdef public Py_ssize_t pages
    cdef dict _classes, _ends
    cdef object _occupied

    cpdef add(self, Py_ssize_t start, Py_ssize_t pages)
    cpdef take(self, Py_ssize_t start, Py_ssize_t pages)
    @cython.locals(tries=Py_ssize_t)
    cpdef Py_ssize_t find(self, Py_ssize_t pages) except -2
    cdef _insert(self, Py_ssize_t start, Py_ssize_t pages)
    cdef Py_ssize_t _remove(self, Py_ssize_t start) except -1


cdef class Extents:
    cdef FreeRanges _cold, _spent, _warm
    cdef Py_ssize_t _capacity_pages, _punched_pages
    cdef public object medium
    cdef public Py_ssize_t page_bytes, used_pages, reserved_pages, warm_low_pages
    cdef public long long allocations

    @cython.locals(pages=Py_ssize_t, start=Py_ssize_t)
    cpdef list allocate(self, Py_ssize_t size)
    @cython.locals(warm=FreeRanges)
    cdef Extent _take_warm(self, Py_ssize_t start, Py_ssize_t pages)
    @cython.locals(first=Py_ssize_t)
    cpdef bint back(self, Extent extent, Py_ssize_t pages) except -1
    @cython.locals(freed=Py_ssize_t, first=Py_ssize_t, backed=Py_ssize_t)
    cpdef take_back(self, Extent extent, Py_ssize_t pages)
