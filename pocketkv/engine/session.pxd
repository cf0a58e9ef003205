from pocketkv.engine.database cimport Database
from pocketkv.engine.keyspace cimport JobSpace
from pocketkv.engine.node cimport Node


cdef class Session:
    cdef public object address, blocked, job_id, last_command, lib_name, lib_version
    cdef public object local_address, long_run, name, subscriptions, tracking, transaction, transport, user, user_name, watch
    cdef public bint admin, attended, authenticated, denies_blocking, guarded, in_exec, in_script, is_in_job, monitoring, no_evict, no_touch
    cdef public bint proxied, reply_off, wants_migrations
    cdef public int reply_skip
    cdef public long long created_ms, flips_seen, id, last_active_ms
    cdef public Database db
    cdef public Node node
    cdef public JobSpace space
