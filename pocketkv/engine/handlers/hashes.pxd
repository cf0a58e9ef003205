from pocketkv.engine.database cimport Database
from pocketkv.engine.shrinking cimport shrunk
from pocketkv.engine.hash_value cimport HashValue
from pocketkv.engine.session cimport Session

cdef int _HASH

cdef HashValue _read_hash(Session session, bytes key)
cpdef HashValue lookup_hash(Database db, bytes key)
