cdef extern from "<linux/aio_abi.h>" nogil:
    cdef struct iocb:
        unsigned long long aio_data
        int aio_rw_flags
        unsigned short aio_lio_opcode
        unsigned int aio_fildes
        unsigned long long aio_buf
        unsigned long long aio_nbytes
        long long aio_offset
        unsigned int aio_flags
        unsigned int aio_resfd
    cdef struct io_event:
        unsigned long long data
        long long res
    enum: IOCB_CMD_PREAD
    enum: IOCB_FLAG_RESFD


cdef struct aio_ring:
    # `struct aio_ring`, where the system says how much there is to be taken.
    unsigned int id
    unsigned int size
    unsigned int head
    unsigned int tail
    unsigned int magic


cdef class AsyncReads:
    cdef unsigned long _context
    cdef aio_ring *_ring
    cdef iocb *_requests
    cdef iocb **_pointers
    cdef io_event *_events
    cdef Py_ssize_t _depth, _begun
    cdef bint _is_shared
    cdef list _refused
    cdef readonly Py_ssize_t under_way

    cpdef bint begin(self, int fd, long long offset, unsigned long long address, unsigned long long size, long long token) except -1
    cpdef submit(self)
    cpdef list take(self, Py_ssize_t count)
    cdef void _end(self) noexcept
