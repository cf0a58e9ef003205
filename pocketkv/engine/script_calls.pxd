cimport cython

from pocketkv.engine.calling cimport call
from pocketkv.engine.commands cimport Command
from pocketkv.engine.gate cimport check_memory, check_slots
from pocketkv.engine.keyspace cimport JobSpace
from pocketkv.engine.long_runs cimport LongRun
from pocketkv.engine.node cimport Node
from pocketkv.engine.session cimport Session
from pocketkv.engine.sinks cimport ExtentSinks
from pocketkv.resp.encoder cimport Outbox
from pocketkv.resp.replies cimport Simple


cdef dict _TABLE


cdef class ScriptCalls:
    cdef bint _allows_oom, _reads_only
    cdef Node _node
    cdef Outbox _outbox
    cdef Session _session
    cdef ExtentSinks _sinks
    cdef JobSpace _space
    cdef object _tracking, _user
    cdef public bint has_written
    cdef public object defect, registry, table
    cdef public long long load_until_ns
    cdef public LongRun long_run

    cpdef begin(self, Session session, bint allows_oom, bint reads_only)
    cpdef raise_defect(self)
    cpdef invoke_list(self, list request)
    @cython.locals(command=Command)
    cdef _invoke(self, list request)
    @cython.locals(node=Node, session=Session, space=JobSpace)
    cdef _refusal(self, Command command, list request)
    cdef _check_memory(self, Command command, list request)
    cdef _value(self, reply)
    cdef _item(self, reply)


@cython.locals(record=Command)
cdef Command _find(list request)
cdef _texts(list arguments)
