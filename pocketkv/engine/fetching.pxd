cimport cython

from pocketkv.engine.cold cimport Cold
from pocketkv.engine.commands cimport Command
from pocketkv.engine.database cimport Database
from pocketkv.engine.keyspace cimport JobSpace
from pocketkv.engine.node cimport Node
from pocketkv.engine.session cimport Session
from pocketkv.engine.shelf cimport Shelf, StoredRead
from pocketkv.resp.replies cimport Deferred
from pocketkv.slots cimport key_slot


cpdef list require_resident(Session session, Command command, list request)
cpdef forget(list reads)
@cython.locals(shelf=Shelf, cold=Cold)
cpdef list missing_string(Database db, bytes key)
cdef list _missing(Session session, Command command, list request, list at_hand)
cpdef Deferred fetch(Session session, Command command, list request, list reads, resume)
@cython.locals(waiting=WaitingString)
cpdef Deferred fetch_string(Session session, Command command, list request, list reads, resume)


cdef class Waiting(Deferred):
    cdef object _resume
    cdef Session _session
    cdef list _request, _reads
    cdef bint _gone

    cdef _wait(self, Session session, list request, resume)
    @cython.locals(node=Node)
    cpdef begin(self, list reads)
    @cython.locals(index=Py_ssize_t)
    cpdef _on_read(self, list results)
    cdef _take(self, steps)
    cpdef _execute(self)
    cpdef _forget(self)


cdef class WaitingString(Waiting):
    cdef Command _command

    @cython.locals(session=Session, node=Node, stored=StoredRead, cold=Cold, started_ns=cython.longlong, duration_ns=cython.longlong)
    cpdef _on_read(self, list results)
    @cython.locals(session=Session, node=Node, space=JobSpace)
    cdef bint _is_simple(self) except -1
