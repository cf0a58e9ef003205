from pocketkv.engine.stats cimport KeyStats


cdef class Clock:
    cdef public long long now_ms, now_s

    cpdef set(self, long long now_ms)


cdef class JobSpace:
    cdef public Clock clock
    cdef public dict databases
    cdef public long long epoch, incoming_bytes, spilled_keys, spilled_bytes
    cdef public bint expires_actively, read_only, replaying, retains
    cdef public dict adopting
    cdef public set expiring
    cdef public str job_id
    cdef public object quota_bytes
    cdef public object granted_bytes
    cdef public long long limit_bytes
    cdef public bint keeps_expired
    cdef public Keyspace keyspace
    cdef public bytearray given, owned
    cdef public object acl, observer, notifier, pubsub, scripts, tracking, waiters, watchers
    cdef public int notify_flags
    cdef public long long events
    cdef public list holds
    cdef public dict incoming
    cdef public set unclean, refused_moves
    cdef public long long flips, foreign_bytes
    cdef public bint owns_all
    cdef public KeyStats stats
    cdef public object kept, opening, order
    cdef public long long used_bytes

    cpdef account(self, long long grown_bytes)
    cpdef bint exceeds_quota(self, long long size) except -1
    cpdef bint refuses_write(self, long long request_bytes) except -1
    cpdef bint lacks_room(self, long long request_bytes) except -1


cdef class Keyspace:
    cdef object _freeing, _freeing_journal
    cdef public object capacity_bytes, eviction, spilling, store
    cdef public dict residents
    cdef public long long changes, evictions, index_bytes
    cdef public list unwritten, writings
    cdef public bint memory_is_full
    cdef public Clock clock
    cdef public list discarded, shedding
    cdef public object extents
    cdef public long long incoming_bytes, memory_bytes
    cdef public object randomness
    cdef public dict spaces
    cdef public object unfinished
    cdef public long long used_bytes

    cpdef commit(self)
