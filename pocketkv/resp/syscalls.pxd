cpdef bytes receive(int fd)
cpdef Py_ssize_t send(int fd, bytes data) except -1
