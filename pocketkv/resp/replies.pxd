cimport cython


cdef class Simple:
    cdef public bytes encoded
    cdef public bytes text


cdef class ErrorReply:
    cdef public bytes text


cdef class ScriptErrorReply(ErrorReply):
    cdef public bint is_counted


cdef class FileRange:
    cdef public int fd
    cdef public long long offset
    cdef public Py_ssize_t size
    cdef public object owner


cdef class FileBulk:
    cdef public Py_ssize_t size
    cdef public list ranges


cdef class Marker:
    cdef public str name


cdef class Encoded:
    cdef public bytes raw


cdef class Listener:
    cpdef on_reply_known(self)


cdef class Deferred:
    cdef public bint exclusive, is_begun
    cdef public list pieces
    cdef public Listener connection
    cdef public object on_abandon, reply, _listener

    cpdef _begin(self, bint exclusive, on_abandon)
    cpdef give(self, bytes piece)
    @cython.locals(connection=Listener)
    cpdef complete(self, reply)
    cpdef listen(self, listener)
