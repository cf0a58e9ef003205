cimport cython

from pocketkv.engine.database cimport Database
from pocketkv.engine.list_value cimport ListValue
from pocketkv.engine.session cimport Session

cdef int _GENERIC, _LIST

cpdef ListValue lookup_list(Database db, bytes key)
cdef ListValue _read_list(Session session, bytes key)
cpdef removed(Database db, bytes key, ListValue value, long long before_bytes, bytes event)
@cython.locals(db=Database, before_bytes=cython.longlong, i=Py_ssize_t, is_new=bint, key=bytes, value=ListValue)
cdef _push(Session session, list request, bint left, bint only_existing)
@cython.locals(count=cython.longlong, db=Database, key=bytes, value=ListValue)
cdef _pop(Session session, list request, bint left)
@cython.locals(before_bytes=cython.longlong, item=bytes)
cpdef bytes pop_one(Database db, bytes key, ListValue value, bint left)
