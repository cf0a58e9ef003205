cpdef bytes read_at_once(int fd, Py_ssize_t size, long long offset, int flags)
cpdef bytes read_record(int fd, Py_ssize_t size, long long offset, int flags, unsigned long long seed, long long length)
cpdef bytes record_at(unsigned long long address, Py_ssize_t size, unsigned long long seed, long long length)
cpdef Py_ssize_t cached_pages(long call, int fd, long long offset, long long size) except -1
