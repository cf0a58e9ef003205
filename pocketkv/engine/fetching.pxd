cimport cython

from pocketkv.engine.commands cimport Command
from pocketkv.engine.database cimport Database
from pocketkv.engine.session cimport Session
from pocketkv.resp.replies cimport Deferred


cpdef list require_resident(Session session, Command command, list request)
cpdef forget(list reads)
cpdef list missing_string(Database db, bytes key)
cdef list _missing(Session session, Command command, list request, list at_hand)
cpdef Deferred fetch(Session session, Command command, list request, list reads, resume)


cdef class Waiting(Deferred):
    cdef object _resume
    cdef Session _session
    cdef list _request, _reads
    cdef bint _gone

    cpdef begin(self, list reads)
    @cython.locals(index=Py_ssize_t)
    cpdef _on_read(self, list results)
    cdef _take(self, steps)
    cpdef _execute(self)
    cpdef _forget(self)
