cimport cython

from pocketkv.engine.database cimport Database
from pocketkv.engine.keyspace cimport Keyspace
from pocketkv.engine.regions cimport Evacuation, Survey


cdef class Defragmenter:
    cdef Keyspace _keyspace
    cdef object _addresses, _give_back, _lasting, _work
    cdef Evacuation _evacuation
    cdef bint _stopped
    cdef public long long passes, moved_objects, moved_bytes, spent_ns

    @cython.locals(evacuation=Evacuation, end="long long", began="long long")
    cdef bint _count_some(self, Survey survey, items, long long weight) except -1
    @cython.locals(held=dict)
    cdef list _concerned(self, dict table)
    @cython.locals(evacuation=Evacuation, held=dict)
    cdef Py_ssize_t _move_some(self, table, list keys, Py_ssize_t place, dict moved) except -1
    @cython.locals(evacuation=Evacuation)
    cdef bint _move_other(self, dict table, bytes key, value) except -1
    cdef bint _is_movable(self, dict table) except -1
