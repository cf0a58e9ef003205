cimport cython

from pocketkv.engine.cold cimport Cold
from pocketkv.tiers.volume.async_reads cimport AsyncReads
from pocketkv.tiers.volume.eras cimport Eras
from pocketkv.tiers.volume.reading cimport cached_pages, record_at
from pocketkv.tiers.volume.segment cimport Segment
from pocketkv.tiers.volume.state cimport VolumeState


cdef long _CACHESTAT
cdef long long _BATCH, _BUFFER_BYTES, _PAGE_BYTES, _REFUSALS_MAX


cdef class _Buffer:
    cdef unsigned long long address
    cdef long long first, index, offset
    cdef object context
    cdef Cold cold
    cdef Segment segment


cdef class RecordReads:
    cdef AsyncReads _reads
    cdef VolumeState _state
    cdef Eras _eras
    cdef object _map
    cdef long long _block_bytes
    cdef list _buffers, _free
    cdef bint _is_used
    cdef Py_ssize_t _begun, _refusals
    cdef readonly Py_ssize_t under_way

    @cython.locals(state=VolumeState, absent=Cold, segment=Segment, offset=cython.longlong, first=cython.longlong, end=cython.longlong, size=cython.longlong, fd=cython.int, buffer=_Buffer)
    cpdef bint begin(self, Cold cold, context) except -1
    cdef bint _is_passed_by(self, Cold cold, Cold absent, Segment segment, long long end) except -1
    cpdef submit(self)
    @cython.locals(buffer=_Buffer)
    cpdef list take(self, Py_ssize_t count)
    @cython.locals(state=VolumeState, cold=Cold, segment=Segment, offset=cython.longlong, skip=cython.longlong)
    cdef _payload(self, _Buffer buffer, long long read_bytes)
    cdef _refused(self, Segment segment, long long error)
