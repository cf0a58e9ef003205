# cython: language_level=3
"""Reads that go on by themselves, without objects for what goes in; the plain twin is
`async_reads.py`.

The GIL is kept: no call waits.
"""

from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport errno
from libc.stdlib cimport calloc, free
from libc.string cimport memset

cdef extern from "<sys/syscall.h>" nogil:
    enum: SYS_io_setup
    enum: SYS_io_destroy
    enum: SYS_io_submit
    enum: SYS_io_getevents

cdef extern from "<linux/fs.h>" nogil:
    enum: RWF_NOWAIT

cdef extern from "<unistd.h>" nogil:
    long c_syscall "syscall"(long number, ...)

DEF RING_MAGIC = 0xA10A10A1


cdef class AsyncReads:

    def __cinit__(self, Py_ssize_t depth, int wake_fd, *, bint nowait=False):
        self._refused = []
        self._depth = depth
        self._requests = <iocb *>calloc(depth, sizeof(iocb))
        self._pointers = <iocb **>calloc(depth, sizeof(void *))
        self._events = <io_event *>calloc(depth, sizeof(io_event))
        if not self._requests or not self._pointers or not self._events:
            raise MemoryError
        if c_syscall(SYS_io_setup, <unsigned int>depth, &self._context) != 0:
            self._context = 0
            PyErr_SetFromErrno(OSError)
        self._ring = <aio_ring *>self._context
        self._is_shared = self._ring.magic == RING_MAGIC
        for index in range(depth):
            self._pointers[index] = &self._requests[index]
            self._requests[index].aio_lio_opcode = IOCB_CMD_PREAD
            self._requests[index].aio_flags = IOCB_FLAG_RESFD
            self._requests[index].aio_resfd = wake_fd
            self._requests[index].aio_rw_flags = RWF_NOWAIT if nowait else 0

    def __dealloc__(self):
        self._end()
        free(self._requests)
        free(self._pointers)
        free(self._events)

    cpdef bint begin(self, int fd, long long offset, unsigned long long address, unsigned long long size, long long token) except -1:
        if self.under_way == self._depth or not self._context:
            return False
        cdef iocb *request = &self._requests[self._begun]
        request.aio_fildes = fd
        request.aio_offset = offset
        request.aio_buf = address
        request.aio_nbytes = size
        request.aio_data = token
        self._begun += 1
        self.under_way += 1
        return True

    cpdef submit(self):
        cdef Py_ssize_t done = 0
        cdef long count
        while done < self._begun:
            count = c_syscall(SYS_io_submit, self._context, <long>(self._begun - done), self._pointers + done)
            if count > 0:
                done += count
            else:
                self._refused.append((<long long>self._requests[done].aio_data, -<int>errno if count else 0))
                done += 1
        self._begun = 0

    cpdef list take(self, Py_ssize_t count):
        cdef long found
        cdef Py_ssize_t index
        cdef list taken = []
        while self._refused and count > 0:
            taken.append(self._refused.pop())
            count -= 1
            self.under_way -= 1
        if count <= 0 or self.under_way == self._begun + len(self._refused):
            return taken
        if self._is_shared and self._ring.head == self._ring.tail:
            return taken
        found = c_syscall(SYS_io_getevents, self._context, 0L, <long>min(count, self._depth), self._events, NULL)
        if found < 0:
            PyErr_SetFromErrno(OSError)
        self.under_way -= found
        for index in range(found):
            taken.append((<long long>self._events[index].data, self._events[index].res))
        return taken

    def close(self):
        self._end()

    cdef void _end(self) noexcept:
        if self._context:
            c_syscall(SYS_io_destroy, self._context)
            self._context = 0
            self.under_way = 0
            self._begun = 0
