cimport cython

from pocketkv.engine.shelf cimport StoredRead
from pocketkv.tiers.volume.record_reads cimport RecordReads


cdef Py_ssize_t _RECORDS_PER_POLL


cdef class _Batch:
    cdef list results
    cdef Py_ssize_t left
    cdef object done


cdef class _Coming:
    cdef _Batch batch
    cdef Py_ssize_t index
    cdef object read
    cdef double since_s


cdef class _Record:
    # Without its type, so that its method is found as one of an object.
    cdef object read, done
    cdef _Batch batch
    cdef Py_ssize_t index


cdef class Readers:
    cdef object _log, _queue, _finished, _token, _coming, _direct, _wake
    cdef RecordReads _records
    cdef list _threads
    cdef bint _polls
    cdef Py_ssize_t _depth, _waiting
    cdef public long long given, given_direct

    cpdef read(self, list reads, done)
    @cython.locals(is_idle=cython.bint)
    cpdef fetch(self, list reads, done)
    cdef _fetch_record(self, StoredRead read, done)
    @cython.locals(records=RecordReads)
    cdef bint _begin_record(self, StoredRead read, _Record record) except -1
    @cython.locals(batch=_Batch, index=Py_ssize_t)
    cdef _fetch_each(self, list reads, done)
    cdef _fetch_cached(self, _Batch batch, Py_ssize_t index, read)
    cdef bint _is_looking(self) except -1
    cdef bint _begin_direct(self, _Batch batch, Py_ssize_t index, read) except -1
    @cython.locals(is_more=cython.bint)
    cpdef bint poll(self) except -1
    @cython.locals(first=_Coming, now_s=cython.double, commands=cython.int)
    cdef bint _poll_coming(self) except -1
    @cython.locals(records=RecordReads, record=_Record, batch=_Batch, taken=list)
    cdef bint _poll_records(self) except -1
    @cython.locals(batch=_Batch, index=Py_ssize_t)
    cdef bint _poll_direct(self) except -1
    cdef _give(self, item)
    cdef bint _take(self, _Batch batch, Py_ssize_t index, result) except -1
