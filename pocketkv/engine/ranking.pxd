cimport cython


cdef class Ranking:
    cdef public list _scores, _members
    cdef public long long[::1] _index
    cdef public double[::1] _tops
    cdef public Py_ssize_t size
    cdef public long long size_bytes

    @cython.locals(
        low=Py_ssize_t,
        high=Py_ssize_t,
        middle=Py_ssize_t,
        start=Py_ssize_t,
        end=Py_ssize_t,
        other=double,
        scores=list,
        members=list,
        tops="double[::1]",
    )
    cdef Py_ssize_t _find(self, double score, bytes member) except -1
    cpdef Py_ssize_t rank(self, double score, bytes member) except -1
    @cython.locals(
        low=Py_ssize_t,
        high=Py_ssize_t,
        middle=Py_ssize_t,
        start=Py_ssize_t,
        end=Py_ssize_t,
        other=double,
        scores=list,
        tops="double[::1]",
    )
    cpdef Py_ssize_t rank_of_score(self, double score, bint is_after) except -1
    @cython.locals(
        low=Py_ssize_t,
        high=Py_ssize_t,
        middle=Py_ssize_t,
        start=Py_ssize_t,
        end=Py_ssize_t,
        other=bytes,
        members=list,
    )
    cpdef Py_ssize_t rank_of_member(self, bytes member, bint is_after) except -1

    @cython.locals(chunk=Py_ssize_t, rank=Py_ssize_t, index="long long[::1]")
    cdef Py_ssize_t _rank_of(self, Py_ssize_t position) except -1
    @cython.locals(
        first=Py_ssize_t,
        index="long long[::1]",
        count=Py_ssize_t,
        chunk=Py_ssize_t,
        step=Py_ssize_t,
        following=Py_ssize_t,
    )
    cdef Py_ssize_t _position_of(self, Py_ssize_t rank) except -1
    cdef _make_index(self)
    @cython.locals(index="long long[::1]", number=Py_ssize_t, above=Py_ssize_t)
    cdef _sum_up(self, Py_ssize_t count)
    @cython.locals(index="long long[::1]", count=Py_ssize_t, number=Py_ssize_t)
    cdef _count(self, Py_ssize_t chunk, Py_ssize_t change)
    @cython.locals(tops="double[::1]", count=Py_ssize_t, number=Py_ssize_t)
    cdef _make_tops(self)
    cdef _set_top(self, Py_ssize_t chunk)
    @cython.locals(tops="double[::1]", count=Py_ssize_t, number=Py_ssize_t)
    cdef _move_tops(self, Py_ssize_t chunk, Py_ssize_t more)

    @cython.locals(
        position=Py_ssize_t, chunk=Py_ssize_t, offset=Py_ssize_t, scores=list, members=list
    )
    cpdef add(self, score, bytes member)
    @cython.locals(position=Py_ssize_t)
    cpdef bytes remove(self, double score, bytes member)
    @cython.locals(position=Py_ssize_t, chunk=Py_ssize_t, offset=Py_ssize_t, scores=list)
    cpdef move(self, double old, score, bytes member)
    cpdef bytes pop_first(self)
    @cython.locals(chunk=Py_ssize_t)
    cpdef bytes pop_last(self)
    @cython.locals(scores=list, members=list, member=bytes)
    cdef bytes _remove_at(self, Py_ssize_t chunk, Py_ssize_t offset)
    @cython.locals(first=Py_ssize_t)
    cdef _shrunk(self, Py_ssize_t chunk)
    @cython.locals(scores=list, members=list, half=Py_ssize_t)
    cdef _split(self, Py_ssize_t chunk)
    cdef _chunks_changed(self, Py_ssize_t more)
    @cython.locals(
        position=Py_ssize_t, chunk=Py_ssize_t, offset=Py_ssize_t, items=list, missing=Py_ssize_t
    )
    cdef list _between(self, list chunks, Py_ssize_t start, Py_ssize_t stop)
    cpdef list members_between(self, Py_ssize_t start, Py_ssize_t stop)
    cpdef list scores_between(self, Py_ssize_t start, Py_ssize_t stop)
