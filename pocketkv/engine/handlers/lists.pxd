from pocketkv.engine.database cimport Database
from pocketkv.engine.shrinking cimport shrunk
from pocketkv.engine.list_value cimport ListValue
from pocketkv.engine.session cimport Session

cdef int _GENERIC, _LIST

cpdef ListValue lookup_list(Database db, bytes key)
cdef ListValue _read_list(Session session, bytes key)
