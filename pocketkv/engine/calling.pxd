cimport cython

from pocketkv.engine.commands cimport Command
from pocketkv.engine.node cimport Node
from pocketkv.engine.session cimport Session


@cython.locals(node=Node, started_ns=cython.longlong)
cpdef call(Session session, Command command, list request)
cdef _execute(Session session, Command command, list request)
