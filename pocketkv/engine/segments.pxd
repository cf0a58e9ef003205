cimport cython

from pocketkv.engine.sizes cimport bytes_object


cdef class SegmentMap:
    cdef public list segments
    cdef public Py_ssize_t size, _largest, _split_at, _merge_at
    cdef public long long size_bytes

    cpdef get(self, bytes member)
    @cython.locals(segment=dict, before=Py_ssize_t)
    cpdef bint add(self, bytes member) except -1
    @cython.locals(segment=dict, before=Py_ssize_t)
    cpdef put(self, bytes member, value)
    cdef int _added(self, bytes member, Py_ssize_t before) except -1
    @cython.locals(segment=dict)
    cpdef bint discard(self, bytes member) except -1
    @cython.locals(segment=dict)
    cpdef take(self, bytes member)
    cdef int _remove(self, dict segment, bytes member) except -1
    @cython.locals(number=Py_ssize_t, position=Py_ssize_t)
    cpdef bytes random_member(self, randomness)
    @cython.locals(number=Py_ssize_t, position=Py_ssize_t, segment=dict, member=bytes)
    cpdef bytes pop_random(self, randomness)
    @cython.locals(
        segments=list,
        segment=dict,
        count=Py_ssize_t,
        drawn=Py_ssize_t,
        number=Py_ssize_t,
        position=Py_ssize_t,
    )
    cpdef tuple _draw(self, randomness)
    @cython.locals(segments=list, count=Py_ssize_t, half=Py_ssize_t, number=Py_ssize_t)
    cdef dict _segment(self, bytes member)
    @cython.locals(segments=list, half=Py_ssize_t, number=Py_ssize_t, old=dict, stay=dict, moved=dict)
    cdef _split(self)
    @cython.locals(segments=list)
    cdef _merge(self)
    @cython.locals(count=Py_ssize_t, merged=dict)
    cdef _segments_changed(self, Py_ssize_t grown_bytes)


cdef Py_ssize_t _power_of_two(Py_ssize_t count) except -1
