cimport cython


@cython.locals(magic=cython.ulonglong, head_checksum=cython.ulonglong, key_bytes=cython.longlong, payload_bytes=cython.longlong, begin=cython.longlong)
cpdef bytes payload_of(record, unsigned long long seed, long long length)
