from pocketkv.crc16 cimport crc16

cdef int _SLOT_MASK

cpdef int key_slot(bytes key) except -1
