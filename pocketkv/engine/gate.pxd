cimport cython

from pocketkv.engine.commands cimport Command, find_command
from pocketkv.engine.fetching cimport fetch, fetch_string, missing_string
from pocketkv.engine.keyspace cimport JobSpace
from pocketkv.engine.node cimport Node
from pocketkv.engine.session cimport Session
from pocketkv.slots cimport key_slot
from pocketkv.resp.handler cimport RequestHandler


cpdef Command admit(Session session, list request)
@cython.locals(space=JobSpace)
cpdef check_slots(Session session, Command command, list request)
@cython.locals(grown_bytes=cython.longlong)
cpdef check_memory(Session session, list request)
@cython.locals(space=JobSpace)
cpdef require_memory(Session session, long long grown_bytes)
@cython.locals(node=Node)
cpdef check_served(Session session, Command command, list request)
@cython.locals(node=Node, started_ns=cython.longlong, command=Command)
cpdef run(Session session, list request)


cdef class GateHandler(RequestHandler):
    cdef public Session session

    cpdef execute(self, list request)
