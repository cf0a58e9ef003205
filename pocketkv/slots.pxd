cpdef int key_slot(bytes key) except -1
