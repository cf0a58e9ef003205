cimport cython

from pocketkv.engine.ranking cimport Ranking
from pocketkv.engine.segments cimport SegmentMap
from pocketkv.engine.values cimport Collection


cdef class SortedSetValue(Collection):
    cdef public bint _is_listpack
    cdef public SegmentMap _scores
    cdef public Ranking _ranking

    cpdef score(self, bytes member)
    cpdef Py_ssize_t rank(self, bytes member) except -2
    cpdef Py_ssize_t rank_of_score(self, double score, bint is_after) except -1
    cpdef Py_ssize_t rank_of_member(self, bytes member, bint is_after) except -1
    cpdef list members_between(self, Py_ssize_t start, Py_ssize_t stop)
    cpdef list scores_between(self, Py_ssize_t start, Py_ssize_t stop)

    cdef _changed_size(self)
    cpdef int put(self, bytes member, score, long long entries_max, long long value_max) except -1
    @cython.locals(done=cython.int)
    cdef int _put(self, bytes member, score) except -1
    cpdef bint remove(self, bytes member) except -1
    @cython.locals(member=bytes)
    cpdef tuple pop_first(self)
    @cython.locals(member=bytes)
    cpdef tuple pop_last(self)
    cdef _removed(self, bytes member)
