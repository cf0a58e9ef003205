cimport cython

from pocketkv.engine.commands cimport Command
from pocketkv.engine.database cimport Database
from pocketkv.engine.gate cimport admit, run
from pocketkv.engine.node cimport Node
from pocketkv.engine.session cimport Session
from pocketkv.resp.client_connection cimport ClientConnection
from pocketkv.router.counters cimport RouterCounters
from pocketkv.router.exchange cimport Asker, Exchange, Forward
from pocketkv.router.upstream cimport Binding
from pocketkv.router.wire cimport request_cost

cdef long long _LARGE_BYTES, _SMALL_REPLY_BYTES


cdef class RouterHandler(Asker):
    cdef Exchange _barrier
    cdef ClientConnection _connection
    cdef Database _database
    cdef long long _finished_ns, _reply_bytes, _unchecked_bytes
    cdef int _bulky_for, _holds, _protocol
    cdef bint _is_on_bulky_lane, _is_scripting
    cdef bytes _caching
    cdef object _own
    cdef public Binding binding
    cdef public Node node
    cdef RouterCounters _counters

    cpdef execute(self, list request)
    @cython.locals(command=Command, exchange=Exchange)
    cdef _execute(self, list request, bytes frame)
    cdef Exchange _exchange(self, Command command, list request)
    @cython.locals(session=Session, node=Node)
    cdef _begin(self, Exchange exchange)
    cdef _start(self, Exchange exchange)
    @cython.locals(node=Node, now_ns=cython.longlong, began_ns=cython.longlong)
    cpdef finished(self, Exchange exchange, reply, long long size_bytes)
    cpdef Py_ssize_t relay(self, Exchange reply, piece) except -1
    cpdef hold(self)
    cpdef release(self)
    cdef _open_window(self)
    cdef _on_large_reply(self, long long size_bytes)
    cpdef on_piece(self, long long size_bytes)
