"""Clients of one job that wait for keys: BLPOP, BZPOPMIN, XREAD BLOCK and their like.

A handler tries each of its keys; if none has what it wants, it calls `wait_for_keys`, with a
function that tries one key. Whenever such a key changes, its waiters try it in the order in which
they came, after the command (or transaction, or script) that changed it. While nobody waits,
nobody is told of changes, so blocked clients of other jobs, or none, cost a write nothing; those
that wait for other keys cost it one look.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from pocketkv.engine.blocking import Blocked, block
from pocketkv.engine.cold import NotResident
from pocketkv.engine.errors import CommandError
from pocketkv.engine.gate import run
from pocketkv.engine.pauses import complete_with
from pocketkv.resp.replies import PENDING, ErrorReply, Marker, Reply
from pocketkv.slots import key_slot

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.node import Node
    from pocketkv.engine.session import Session
    from pocketkv.engine.values import Collection

# Tries one key: the reply, or `PENDING` if it does not have what the client wants.
Attempt: TypeAlias = "Callable[[bytes], Reply | Marker]"


class KeyWaiter:
    """One client, the keys that it waits for, and what it does when one of them changes.

    Attributes:
        blocked: Its reply and time-out.
        keys: Each once, in the command's order.
        attempt: Tries one key.
        request: What it asked, to be executed anew once the keys are another server's.
        takes: The type of values that it takes something from; ``None``: it takes nothing away.
    """

    __slots__ = ("attempt", "blocked", "database", "keys", "request", "session", "takes")

    def __init__(
        self,
        session: Session,
        request: list[bytes],
        keys: list[bytes],
        attempt: Attempt,
        takes: type[Collection] | None,
    ) -> None:
        self.session = session
        self.database = session.db
        self.request = request
        self.keys = list(dict.fromkeys(keys))
        self.attempt = attempt
        self.takes = takes
        self.blocked: Blocked

    def try_key(self, key: bytes) -> bool:
        """Try one key that may have what it waits for; whether the client waits no more."""
        if self.takes is not None and self.session.transport.is_left():
            # It would be given what nobody receives.
            self.blocked.detach()
            self.session.transport.close()
            return True
        node = self.session.node
        started_ns = node.stopwatch.now_ns()
        try:
            reply = self.attempt(key)
        except CommandError as error:
            reply = ErrorReply(error.text)
        if reply is PENDING:
            return False
        if type(reply) is ErrorReply:
            node.record_late_error(self.session, reply)
        node.answer(self.blocked, reply)
        node.record_slow(self.session, self.request, node.stopwatch.now_ns() - started_ns)
        return True


# Of one key: those that take from the same type of values, in the order in which they came.
_Queues: TypeAlias = "dict[type[Collection] | None, OrderedDict[KeyWaiter, None]]"


class Waiters:
    """Those of one job on this node; told of every change while there is one (see `changes`).

    Attributes:
        ready: Keys that have changed since their waiters last tried them, in the order in which
            they came to be; and whether they are there.
        left_waiters: Those whose keys have gone to another server.
    """

    __slots__ = ("_by_key", "left_waiters", "node", "ready", "space")

    def __init__(self, node: Node, space: JobSpace) -> None:
        self.node = node
        self.space = space
        self._by_key: dict[Database, dict[bytes, _Queues]] = {}
        self.ready: dict[tuple[Database, bytes], bool] = {}
        self.left_waiters: dict[KeyWaiter, None] = {}

    def __len__(self) -> int:
        return sum(map(len, self._by_key.values()))

    def add(self, waiter: KeyWaiter) -> None:
        """Have a client try its keys when they change, until `remove`."""
        if not self._by_key:
            self.space.observe(self)
        waiting = self._by_key.setdefault(waiter.database, {})
        for key in waiter.keys:
            queues = waiting.setdefault(key, {})
            queue = queues.get(waiter.takes)
            if queue is None:
                # The first one of a plain dict, whose first ones were removed, is far to find.
                queue = queues[waiter.takes] = OrderedDict()
            queue[waiter] = None

    def remove(self, waiter: KeyWaiter) -> None:
        """The client waits no more."""
        self.left_waiters.pop(waiter, None)
        waiting = self._by_key[waiter.database]
        for key in waiter.keys:
            queues = waiting[key]
            queue = queues[waiter.takes]
            del queue[waiter]
            if not queue:
                del queues[waiter.takes]
                if not queues:
                    del waiting[key]
        if not waiting:
            del self._by_key[waiter.database]
            if not self._by_key:
                self.space.unobserve(self)

    # --- what changes --------------------------------------------------------------------------

    def changed(self, database: Database, key: bytes, slot: int) -> None:
        """As `Observer.changed`."""
        waiting = self._by_key.get(database)
        if waiting is not None and key in waiting:
            self._note(database, key)

    def noted(self, database: Database, key: bytes, slot: int) -> None:
        """As `Observer.noted`: a group may be gone that somebody waits for."""
        self.changed(database, key, slot)

    def expiry_changed(self, database: Database, key: bytes, slot: int) -> None:
        """As `Observer.expiry_changed`: nobody waits for that."""

    def cleared(self, database: Database) -> None:
        """As `Observer.cleared`."""
        for key in self._by_key.get(database, ()):
            self._note(database, key)

    def left(self, space: JobSpace, start: int, end: int) -> None:
        """As `Observer.left`."""
        for waiting in self._by_key.values():
            for key, queues in waiting.items():
                if start <= key_slot(key) <= end:
                    for queue in queues.values():
                        self.left_waiters.update(queue)
        if self.left_waiters:
            self._call_back()

    def _note(self, database: Database, key: bytes) -> None:
        if not self.ready and not self.left_waiters:
            self._call_back()
        place = (database, key)
        is_there = database.find_stored(key) is not None
        if is_there and self.ready.get(place) is False:
            # As in Redis, its turn comes by when it was made.
            del self.ready[place]
        self.ready[place] = is_there

    def _call_back(self) -> None:
        """Have this served after the command under way, or soon if there is none."""
        if self not in self.node.ready_waiters:
            self.node.ready_waiters.append(self)

    # --- serving -------------------------------------------------------------------------------

    def serve(self) -> None:
        """Let those who wait try the keys that changed, until no key is left to try."""
        while self.ready or self.left_waiters:
            left, self.left_waiters = self.left_waiters, {}
            for waiter in left:
                self._send_on(waiter)
            ready, self.ready = self.ready, {}
            for database, key in ready:
                self._serve_key(database, key)

    def _serve_key(self, database: Database, key: bytes) -> None:
        queues = self._by_key.get(database, {}).get(key, {})
        try:
            for takes, queue in list(queues.items()):
                if takes is None:
                    for waiter in list(queue):
                        # One of those before it may have closed this one's connection.
                        if waiter in queue:
                            waiter.try_key(key)
                    continue
                # Where one finds nothing, those behind it need not look.
                while queue and next(iter(queue)).try_key(key):
                    pass
        except NotResident as missing:
            self._fetch(database, key, missing)

    def _fetch(self, database: Database, key: bytes, missing: NotResident) -> None:
        """Have values read that a key's waiters need, and then let them try again."""
        fetcher = self.node.fetcher
        assert fetcher is not None  # Nothing is cold without one.
        reads = missing.reads

        def on_read(results: list[bytes | CommandError]) -> None:
            for read, result in zip(reads, results, strict=True):
                read.keep(result)
                for _ in read.prepare():
                    pass
            if key in self._by_key.get(database, {}):
                self._note(database, key)
                self.node.settle_waiters()
            for read in reads:
                read.forget()

        fetcher(reads, on_read)

    def _send_on(self, waiter: KeyWaiter) -> None:
        """Answer a client whose keys went to another server as if it asked only now."""
        deferred = waiter.blocked.deferred
        if deferred.done:
            return
        reply = waiter.blocked.detach()
        answer = run(waiter.session, waiter.request)
        complete_with(reply, answer)


def wait_for_keys(
    session: Session,
    request: list[bytes],
    keys: list[bytes],
    attempt: Attempt,
    *,
    takes: type[Collection] | None = None,
    timeout_ms: int,
    timeout_reply: Reply,
) -> Reply:
    """Have a client wait until `attempt` answers for one of the keys, none of which did so far.

    In a transaction or a script nobody waits: the answer is `timeout_reply` at once.

    Args:
        session: The client.
        request: What it asked.
        keys: What it waits for, in the order in which they are tried.
        attempt: Tries one of them: the reply, or `PENDING`; may raise `CommandError`, which
            answers the client too.
        takes: The type of values that it takes something from: where it finds nothing, others of
            the same type would not either. ``None``: it takes nothing away (XREAD).
        timeout_ms: How long it waits at most; 0: for ever.
        timeout_reply: What it is told then.
    """
    if session.denies_blocking:
        return timeout_reply
    waiters = session.space.waiters
    if waiters is None:
        waiters = session.space.waiters = Waiters(session.node, session.space)
    waiter = KeyWaiter(session, request, keys, attempt, takes)
    of_job = waiters
    waiter.blocked = block(
        session,
        timeout_ms=timeout_ms,
        timeout_reply=timeout_reply,
        on_end=lambda: of_job.remove(waiter),
    )
    waiters.add(waiter)
    return waiter.blocked.deferred
