cimport cython

from pocketkv.engine.segments cimport SegmentMap
from pocketkv.engine.values cimport Collection


cdef class SetValue(Collection):
    cdef public object _integers
    cdef public SegmentMap _members

    @cython.locals(members=SegmentMap)
    cpdef bint add(self, bytes member, long long integers_max) except -1
    @cython.locals(members=SegmentMap)
    cpdef bint discard(self, bytes member) except -1
    @cython.locals(members=SegmentMap)
    cpdef bytes pop_random(self, randomness)
    cdef SegmentMap _to_segments(self)
