cpdef bytes read_at_once(int fd, Py_ssize_t size, long long offset, int flags)
