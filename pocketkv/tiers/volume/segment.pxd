cdef class Segment:
    cdef public object buffer, clears, folder, index
    cdef public bint drained, finished, made, recent, retired, stuck, unsynced
    cdef public int fd, pins
    cdef public long long doubted, lost_from, synced, live, marks, number, reserved, roll_at, size, sparse_below, written
    cdef public unsigned long long seed
