from pocketkv.engine.database cimport Database
from pocketkv.engine.values cimport Collection

cdef int _GENERIC

cpdef shrunk(
    Database db, bytes key, Collection value, long long before_bytes, int kind, bytes event
)
