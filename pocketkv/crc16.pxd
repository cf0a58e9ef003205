cpdef int crc16(bytes data) except -1
