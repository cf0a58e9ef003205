cimport cython

from pocketkv.engine.arguments cimport parse_int
from pocketkv.engine.keyspace cimport JobSpace
from pocketkv.engine.long_runs cimport LongRun, run_sliced
from pocketkv.engine.node cimport Node
from pocketkv.engine.script_calls cimport ScriptCalls
from pocketkv.engine.session cimport Session
from pocketkv.lua.interpreter cimport Encoded as EncodedByScript
from pocketkv.lua.interpreter cimport Failure, Interpreter, Status
from pocketkv.lua.slices cimport Work
from pocketkv.resp.replies cimport Encoded, ScriptErrorReply, Simple


cdef class Script:
    cdef public object body, flags
    cdef public bytes code, sha
    cdef public bint is_declared, is_kept


cdef list _NOTHING


cdef class Scripts


cdef class Run(Work):
    cdef bint _allows_oom, _reads_only
    cdef LongRun _own_run
    cdef object _body
    cdef Scripts _scripts
    cdef public bint is_function
    cdef public LongRun long_run
    cdef public bytes name
    cdef public list request
    cdef public Session session

    @cython.locals(long_run=LongRun)
    cpdef begin(self, Scripts scripts, Session session, list request, bytes name, body)
    cpdef clear(self)
    cpdef allow(self, flags, bint reads_only)
    @cython.locals(scripts=Scripts, interpreter=Interpreter, calls=ScriptCalls, session=Session)
    cpdef do(self)


cdef class Scripts:
    cdef dict _by_code, _from_eval
    cdef Interpreter _interpreter
    cdef Run _spare
    cdef Script _last
    cdef public ScriptCalls calls
    cdef public dict known
    cdef public object libraries
    cdef public Node node
    cdef public Run run
    cdef public JobSpace space
    cdef public long long version

    cpdef Interpreter interpreter(self)
    cpdef Script find(self, bytes sha)
    @cython.locals(script=Script)
    cpdef Script load(self, bytes code)
    @cython.locals(script=Script)
    cpdef Script keep(self, bytes code)
    cdef Script _compile(self, bytes code)
    @cython.locals(oldest=Script)
    cdef _used(self, Script script)
    @cython.locals(run=Run)
    cpdef eval(self, Session session, list request, Script script, bint reads_only)
    @cython.locals(run=Run)
    cpdef fcall(self, Session session, list request, bytes name, body, flags, bint reads_only)
    @cython.locals(run=Run)
    cdef Run _begin(self, Session session, list request, bytes name, body)
    @cython.locals(long_run=LongRun)
    cdef _execute(self, Run run, Session session, list request, bytes busy_text)


cpdef Scripts scripts_of(Session session)
cdef _reply(value)
