"""CLIENT TRACKING: clients keep copies of what they read, and are told when one is out of date.

A job has a table of the keys that its tracking clients have read, or, for those in BCAST mode, the
prefixes of the keys that they want to hear of. It learns what changes as an observer of the job
(see `changes`), which it is only while somebody tracks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.errors import CommandError
from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.replies import NO_REPLY, Deferred, Encoded, Push, Reply, Several
from pocketkv.slots import key_slot

if TYPE_CHECKING:
    from pocketkv.engine.commands import Command
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.node import Node
    from pocketkv.engine.session import Session

# Where a RESP2 client that invalidations are redirected to has to have subscribed.
CHANNEL: Final = b"__redis__:invalidate"
# Of more keys than that nobody looks which are in slots that go: all are told to be forgotten.
_KEYS_LOOKED_AT: Final = 2000
# What one entry of the table takes beside the key's name, roughly.
_ENTRY_BYTES: Final = 300


class TrackingClient:
    """What one client is told.

    Attributes:
        broadcast: Whether it hears of all keys of its prefixes, read or not.
        opt_in, opt_out: Which keys are tracked: those of commands after CLIENT CACHING YES, or
            all but those after CLIENT CACHING NO.
        no_loop: Whether it is not told of what it changes itself.
        redirect: Id of the client that is told instead; 0: itself.
        caching: Whether CLIENT CACHING came before the next command.
        is_broken: Whether the client is gone that should be told.
    """

    __slots__ = (
        "_outermost",
        "_pending",
        "broadcast",
        "caching",
        "is_broken",
        "no_loop",
        "opt_in",
        "opt_out",
        "prefixes",
        "redirect",
        "session",
        "tracking",
    )

    def __init__(self, tracking: Tracking, session: Session) -> None:
        self.tracking = tracking
        self.session = session
        self.broadcast = self.opt_in = self.opt_out = self.no_loop = False
        self.redirect = 0
        self.caching = False
        self.is_broken = False
        self.prefixes: dict[bytes, None] = {}
        # What it has asked that is under way.
        self._outermost: tuple[Command, list[bytes]] | None = None
        # What it changed itself, and is told of after the reply to the command that did so.
        self._pending: list[list[bytes] | None] = []

    def call(self, command: Command, request: list[bytes]) -> Reply:
        """Execute a command of this client; it is told after its reply of what it changed."""
        tracking = self.tracking
        # A script or a transaction may have others executed, for the same client.
        outer, tracking.current = tracking.current, self
        if outer is not self:
            self._outermost = command, request
        try:
            reply = command.handler(self.session, request)
        except CommandError:
            if self._pending and outer is not self:
                self._with_pushes(NO_REPLY)
            raise
        finally:
            tracking.current = outer
        if outer is not self:
            self._outermost = None
        self.remember(command, request)
        if not command.name.startswith("client|"):
            self.caching = False
        if outer is self:
            return reply
        if self.broadcast:
            self._pending += tracking.broadcast(self)
        return self._with_pushes(reply) if self._pending else reply

    def remember(self, command: Command, request: list[bytes]) -> None:
        """Note what a command has read."""
        if "readonly" not in command.flags or self.broadcast or "pubsub" in command.flags:
            return
        if command.group == "scripting":
            # What it executes counts.
            return
        if self.caching if self.opt_out else self.opt_in and not self.caching:
            return
        self._note(command, request)
        outermost = self._outermost
        if outermost is not None and outermost[0].group == "scripting":
            # As Redis 7.0: what a script that reads has declared.
            self._note(*outermost)

    def _note(self, command: Command, request: list[bytes]) -> None:
        for position in command.keys.positions(request):
            self.tracking.note(self, request[position])

    def _with_pushes(self, reply: Reply) -> Reply:
        pending, self._pending = self._pending, []
        messages = []
        for keys in pending:
            message, receiver = self.message(keys)
            if receiver is self.session and message is not None:
                messages.append(message)
            elif receiver is not None and message is not None:
                receiver.transport.push(message)
        if not messages:
            return reply
        silent = self.session.reply_off or self.session.reply_skip
        if silent or reply is NO_REPLY or isinstance(reply, Deferred):
            for message in messages:
                self.session.transport.push(message)
            return reply
        return Several([reply, *messages])

    def tell(self, keys: list[bytes] | None) -> None:
        """Tell that copies of keys are out of date; ``None``: all are."""
        message, receiver = self.message(keys)
        if receiver is not None and message is not None:
            receiver.transport.push(message)

    def tell_changed(self, key: bytes | None) -> None:
        """The same of one key, after the reply if it is the client's own command that did it."""
        if self.tracking.current is not self:
            self.tell(None if key is None else [key])
        elif key is not None:
            self._pending.append([key])
        elif None not in self._pending:
            self._pending.append(None)

    def message(self, keys: list[bytes] | None) -> tuple[Reply, Session | None]:
        """What is to be sent, and to whom."""
        session: Session = self.session
        shown: Reply = list(keys) if keys is not None else None
        if session.proxied:
            # A router tells a message from a reply, whatever protocol its client speaks.
            return Encoded(encode_reply(Push([b"invalidate", shown]), 3)), session
        if self.redirect:
            other = session.node.sessions.get(self.redirect)
            if other is None or other.space is not session.space:
                self.is_broken = True
                broken = Push([b"tracking-redir-broken", self.redirect])
                return (broken, session) if session.protocol == 3 else (None, None)
            session = other
        if session.protocol == 3:
            return Push([b"invalidate", shown]), session
        if not self.redirect or not session.subscriptions:
            return None, None
        return Push([b"message", CHANNEL, shown]), session

    def stop(self) -> None:
        """The client keeps no copies any more."""
        self.session.tracking = None
        self.session.update_guard()
        self.tracking.remove(self)


class Tracking:
    """The copies that clients of one job may keep of keys of this server.

    Attributes:
        clients: Those who track.
        table: Of each key those who have read it and were not told yet that it has changed.
        prefixes: Of each prefix those who want to hear of its keys.
        current: Whose command is under way, if it is one of `clients`.
    """

    __slots__ = (
        "_changed",
        "_name_bytes",
        "clients",
        "current",
        "node",
        "prefixes",
        "space",
        "table",
    )

    def __init__(self, node: Node, space: JobSpace) -> None:
        self.node = node
        self.space = space
        self.clients: dict[TrackingClient, None] = {}
        self.table: dict[bytes, dict[TrackingClient, None]] = {}
        self.prefixes: dict[bytes, dict[TrackingClient, None]] = {}
        self.current: TrackingClient | None = None
        # Keys that the command under way has changed, with who changed each first.
        self._changed: dict[bytes, TrackingClient | None] = {}
        self._name_bytes = 0
        space.observe(self)

    @property
    def items(self) -> int:
        """How many copies are known, of all clients together."""
        return sum(map(len, self.table.values()))

    # --- clients -------------------------------------------------------------------------------

    def add(self, client: TrackingClient) -> None:
        """Somebody tracks."""
        self.clients[client] = None

    def add_prefix(self, client: TrackingClient, prefix: bytes) -> None:
        """Somebody wants to hear of all keys that begin so."""
        client.prefixes[prefix] = None
        self.prefixes.setdefault(prefix, {})[client] = None

    def remove(self, client: TrackingClient) -> None:
        """Somebody does not track any more; what was noted for it is forgotten by and by."""
        self.clients.pop(client, None)
        for prefix in client.prefixes:
            members = self.prefixes[prefix]
            del members[client]
            if not members:
                del self.prefixes[prefix]
        if not self.clients:
            self.space.unobserve(self)
            self.space.tracking = None

    def note(self, client: TrackingClient, key: bytes) -> None:
        """A client has read a key."""
        readers = self.table.get(key)
        if readers is None:
            readers = self.table[key] = {}
            self._name_bytes += len(key)
            self._limit()
        readers[client] = None

    def _limit(self) -> None:
        """Have the oldest keys told to be forgotten, if there are too many."""
        most = self.node.settings.tracking_table_max_keys
        table = self.table
        while len(table) > 1 and (
            (most and len(table) > most)
            or self._name_bytes + len(table) * _ENTRY_BYTES > limits.TRACKING_TABLE_BYTES_MAX
        ):
            self._invalidate(next(iter(table)))

    # --- what changes --------------------------------------------------------------------------

    def changed(self, database: Database, key: bytes, slot: int) -> None:
        """As `Observer.changed`."""
        if key in self.table:
            self._invalidate(key)
        if self.prefixes and key not in self._changed:
            self._changed[key] = self.current
            if len(self._changed) == 1:
                self._call_back()

    def noted(self, database: Database, key: bytes, slot: int) -> None:
        """As `Observer.noted`: nobody can have read it."""

    def expiry_changed(self, database: Database, key: bytes, slot: int) -> None:
        """As `Observer.expiry_changed`."""
        self.changed(database, key, slot)

    def cleared(self, database: Database) -> None:
        """As `Observer.cleared`: `flushed` tells of it, once for all databases."""

    def left(self, space: JobSpace, start: int, end: int) -> None:
        """As `Observer.left`: nobody will hear from here any more of what changes."""
        if len(self.table) > _KEYS_LOOKED_AT:
            self.flushed()
            return
        for key in [key for key in self.table if start <= key_slot(key) <= end]:
            self._invalidate(key)
        for client in list(self.clients):
            if client.broadcast:
                client.tell_changed(None)

    def flushed(self) -> None:
        """All keys of a database were removed: whatever a client has may be out of date."""
        self.table.clear()
        self._name_bytes = 0
        for client in list(self.clients):
            client.tell_changed(None)

    def _invalidate(self, key: bytes) -> None:
        readers = self.table.pop(key)
        self._name_bytes -= len(key)
        for client in readers:
            if client not in self.clients or client.broadcast:
                continue
            if not (client.no_loop and client is self.current):
                client.tell_changed(key)

    def _call_back(self) -> None:
        """Have it told after the command under way; of what changes otherwise, very soon."""
        node = self.node
        if self not in node.ready_waiters:
            node.ready_waiters.append(self)
            node.timers.at(node.clock.now_ms, node.serve_waiters)

    def serve(self) -> None:
        """Tell of all keys that a command has changed, by prefix."""
        self.broadcast(None)

    def broadcast(self, own: TrackingClient | None) -> list[list[bytes]]:
        """The same, but for one client: what it is to be told is returned."""
        changed, self._changed = self._changed, {}
        of_own = []
        for prefix, clients in list(self.prefixes.items()):
            keys = sorted(key for key in changed if key.startswith(prefix))
            if not keys:
                continue
            for client in list(clients):
                told = [k for k in keys if changed[k] is not client] if client.no_loop else keys
                if told and client is own:
                    of_own.append(told)
                elif told:
                    client.tell(told)
        return of_own


def tracking_of(session: Session) -> Tracking:
    """The table of a client's job, made when it is first needed."""
    tracking = session.space.tracking
    if tracking is None:
        tracking = session.space.tracking = Tracking(session.node, session.space)
    return tracking
