cimport cython

from pocketkv.engine.commands cimport Command
from pocketkv.engine.keyspace cimport Clock, Keyspace
from pocketkv.engine.session cimport Session
from pocketkv.engine.stats cimport CommandStats, SlowLog
from pocketkv.lua.slices cimport Workers
from pocketkv.resp.replies cimport ErrorReply, ScriptErrorReply
from pocketkv.stopwatch cimport Stopwatch


cdef int _LAST_BUCKET


cdef class Node:
    cdef public Stopwatch stopwatch
    cdef object __weakref__
    cdef public object id, role, tier, topology, timer_ns, secret, admin_password, host, medium
    cdef public SlowLog slow_log
    cdef public object entropy, latency, settings, timers, idle_sweep, process, defragmenter
    cdef public object fetcher, forwarder, listening, moves, stepper, retaining, term_keeper, write_error, medium_figures, last_write_error
    cdef public object script_log
    cdef public Workers workers
    cdef public long long call_started_ns, latency_threshold_ns, saved_ms, write_errors, last_write_error_ms
    cdef public Keyspace keyspace
    cdef public Clock clock
    cdef public bint require_auth, clustered, lacks_replicas
    cdef public int port
    cdef public long long started_ms, commands_processed, connections_received
    cdef public long long connections_rejected, bulk_bytes_max, request_bytes_max, value_bytes_max, memory_bytes, blocked_clients
    cdef long long _next_session_id, _changes_seen
    cdef public list monitors, ready_waiters, unsettled
    cdef public dict sessions, command_stats, error_stats, long_runs, pauses

    @cython.locals(changes=cython.longlong)
    cpdef commit(self)
    cpdef retry_commit(self)
    @cython.locals(stats=CommandStats, bucket=cython.int, log=SlowLog)
    cpdef record_call(self, Session session, Command command, list request, long long duration_ns, reply)
