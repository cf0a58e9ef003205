cimport cython


cdef long long _PAGE_BYTES


cdef class Segment:
    cdef public object buffer, clears, folder, index
    cdef public bint drained, finished, made, recent, retired, stuck, unsynced
    cdef public int direct_fd, fd, pins
    cdef bytearray _passed, _passed_before
    cdef long long _passed_in
    cdef public long long doubted, lost_from, synced, live, marks, number, reserved, roll_at, size, sparse_below, written
    cdef public unsigned long long seed

    @cython.locals(page=cython.longlong, place=Py_ssize_t, bit=cython.int, pages=bytearray)
    cpdef bint passes_cache(self, long long offset, long long era) except -1
