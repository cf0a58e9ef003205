from pocketkv.engine.arguments cimport parse_double
from pocketkv.engine.database cimport Database
from pocketkv.engine.session cimport Session
from pocketkv.engine.shrinking cimport shrunk
from pocketkv.engine.sorted_set_value cimport SortedSetValue

cdef int _ADDED, _CHANGED, _SORTED_SET

cpdef SortedSetValue lookup_sorted_set(Session session, bytes key)
cpdef SortedSetValue read_sorted_set(Session session, bytes key)
