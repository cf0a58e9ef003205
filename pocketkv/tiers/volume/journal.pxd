cimport cython

from pocketkv.engine.cold cimport Cold
from pocketkv.tiers.volume.reading cimport cached_pages, read_record
from pocketkv.tiers.volume.segment cimport Segment
from pocketkv.tiers.volume.state cimport VolumeState


cdef long _CACHESTAT
cdef int _COLD_LOOKS


cdef class JobJournal:
    cdef public object folder, job_id
    cdef public long long live_bytes
    cdef public dict segments
    cdef public bint dropped
    cdef VolumeState _state
    cdef public Segment active
    cdef long long _next_number
    cdef list _closing
    cdef bint _dirty
    cdef dict _clears

    @cython.locals(segment=Segment)
    cpdef release(self, Cold cold)
    @cython.locals(segment=Segment, state=VolumeState)
    cpdef read_now(self, Cold cold)
    @cython.locals(segment=Segment, offset=cython.longlong, size=cython.longlong, begin=cython.longlong, fd=cython.int, state=VolumeState, payload=bytes)
    cpdef try_read(self, Cold cold)
    cdef bint _is_absent(self, Cold cold, int fd) except -1
    cdef _checked(self, Cold cold, record, Segment segment, long long offset)
