from pocketkv.engine.cold cimport Cold


cdef class VolumeState:
    cdef object __weakref__
    cdef public object ballast, capacity_bytes, error, files, layout, refusal, root
    cdef public object drained, emptied, punchable, punched, removable, removed, sparse, unsynced
    cdef public object lost, synced, unindexed
    cdef public list dirty
    cdef public Cold absent
    cdef public int cold_looks, nowait_flags
    cdef public bint full, in_memory, indexed, lacks_room, passes_cache, reads_wait, trusts
    cdef public unsigned long long secret
    cdef public long long collected_bytes, commits, corrupt_records, first_number, read_bytes
    cdef public long long read_errors, reads, torn_bytes, used_bytes, waits, written_bytes
