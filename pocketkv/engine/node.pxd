cimport cython

from pocketkv.engine.commands cimport Command
from pocketkv.engine.keyspace cimport Clock, Keyspace
from pocketkv.engine.stats cimport CommandStats


cdef class Node:
    cdef object __weakref__
    cdef public object id, role, tier, topology, timer_ns, secret, admin_password, host, medium
    cdef public object slow_log, settings, timers, idle_sweep, process
    cdef public Keyspace keyspace
    cdef public Clock clock
    cdef public bint require_auth, clustered
    cdef public int port
    cdef public long long started_ms, commands_processed, connections_received
    cdef public long long connections_rejected, bulk_bytes_max, memory_bytes, blocked_clients
    cdef long long _next_session_id
    cdef public dict sessions, command_stats, error_stats, pauses

    @cython.locals(stats=CommandStats, bucket=Py_ssize_t, buckets=list)
    cpdef record_call(self, session, Command command, list request, long long duration_ns, reply)
