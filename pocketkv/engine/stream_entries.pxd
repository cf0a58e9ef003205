cimport cython

from pocketkv.engine.stream_node cimport StreamNode
from pocketkv.engine.values cimport Collection


cdef class StreamEntries(Collection):
    cdef public object entries_added, last_id, max_deleted_id
    cdef public list _nodes
    cdef public Py_ssize_t _length

    @cython.locals(node=StreamNode)
    cpdef first_id(self)
    @cython.locals(node=StreamNode, i=Py_ssize_t)
    cpdef top_id(self)
    @cython.locals(node=StreamNode)
    cpdef appended_id(self)
    @cython.locals(found=list)
    cpdef entry(self, entry_id)
    @cython.locals(
        first=Py_ssize_t, found=list, left=Py_ssize_t, node=StreamNode, nodes=list,
        number=Py_ssize_t, stop=Py_ssize_t
    )
    cpdef list range(self, start, end, Py_ssize_t count)
    @cython.locals(
        entries=list, first=Py_ssize_t, found=list, left=Py_ssize_t, node=StreamNode, nodes=list,
        number=Py_ssize_t, stop=Py_ssize_t
    )
    cpdef list range_reversed(self, start, end, Py_ssize_t count)
    @cython.locals(
        found=list, left=Py_ssize_t, node=StreamNode, nodes=list, number=Py_ssize_t,
        position=Py_ssize_t
    )
    cpdef list ids_after(self, entry_id, Py_ssize_t count)
    @cython.locals(
        high=Py_ssize_t, low=Py_ssize_t, middle=Py_ssize_t, node=StreamNode, nodes=list
    )
    cdef Py_ssize_t _node_of(self, entry_id) except -1
    @cython.locals(node=StreamNode, size=Py_ssize_t, before=Py_ssize_t, begins=bint, text=bytes)
    cpdef append(self, entry_id, list pairs, Py_ssize_t entries_max, Py_ssize_t bytes_max)
    @cython.locals(last=StreamNode, node=StreamNode)
    cdef StreamNode _begin(self, entry_id, tuple fields)
    cdef _note_added(self, StreamNode node, bint begins, Py_ssize_t listpack_bytes)
    cpdef bint remove(self, entry_id) except -1
    @cython.locals(node=StreamNode, number=Py_ssize_t, position=Py_ssize_t)
    cpdef bint _remove(self, entry_id) except -1
    @cython.locals(
        count=Py_ssize_t, node=StreamNode, nodes=list, number=Py_ssize_t, removed=Py_ssize_t
    )
    cpdef Py_ssize_t trim_to_length(
        self, long long length, bint approximate, long long limit
    ) except -1
    @cython.locals(node=StreamNode, nodes=list, number=Py_ssize_t, removed=Py_ssize_t)
    cpdef Py_ssize_t trim_to_id(self, boundary, bint approximate, long long limit) except -1
    @cython.locals(nodes_before=Py_ssize_t, removed=Py_ssize_t)
    cdef Py_ssize_t _trimmed(self, boundary) except -1
    @cython.locals(
        before=Py_ssize_t, node=StreamNode, nodes=list, number=Py_ssize_t, position=Py_ssize_t
    )
    cpdef Py_ssize_t remove_before(self, boundary) except -1
