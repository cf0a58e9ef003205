cpdef bytes read_at_once(int fd, Py_ssize_t size, long long offset, int flags)
cpdef Py_ssize_t cached_pages(long call, int fd, long long offset, long long size) except -1
