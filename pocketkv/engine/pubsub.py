"""Channels: who has subscribed, and what reaches them.

A job has its own channels, of three kinds: plain ones, patterns of those, and sharded ones, which
are their slot's. A client of a job that is spread over several servers is told of what is
published on any of them:

- A server that is asked to publish tells its own clients, the routers that listen to it, and the
  job's other servers, which tell their clients and no router. So everybody is told once.
- A router with subscribers listens at every server of the job (``POCKETKV.LISTEN``), and says for
  how many, since PUBLISH answers how many were told.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import TYPE_CHECKING, Final, Protocol

from pocketkv.engine.arguments import Glob
from pocketkv.engine.notifications import KEYEVENT, KEYSPACE
from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.replies import Deferred, Encoded, Push, Reply
from pocketkv.slots import key_slot

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.session import Session


class Kind(IntEnum):
    """What a name is that clients subscribe to."""

    CHANNEL = 0
    PATTERN = 1
    SHARD = 2


# What a message is called that reaches a subscriber.
_MESSAGE_WORDS: Final = (b"message", b"pmessage", b"smessage")


class Forwarder(Protocol):
    """Takes what is published to the other servers of the job; a server's plane is one."""

    def forward(self, space: JobSpace, channel: bytes, message: bytes) -> Deferred | None:
        """How many clients there were told, once that is known; ``None``: there is nobody else."""
        ...


class Listening(Protocol):
    """Listens at other servers for whoever subscribes here; a router's plane is one."""

    def changed(self, space: JobSpace, kind: Kind, name: bytes, count: int) -> Deferred | None:
        """So many clients have subscribed here to a name; completed once that is in force."""
        ...


class Subscriptions:
    """What one client has subscribed to: the names of each kind, in order."""

    __slots__ = ("names",)

    def __init__(self) -> None:
        self.names: tuple[dict[bytes, None], ...] = ({}, {}, {})

    def count(self, kind: Kind) -> int:
        """How many Redis tells: channels and patterns together, or sharded channels."""
        channels, patterns, shards = self.names
        return len(shards) if kind == Kind.SHARD else len(channels) + len(patterns)

    def __bool__(self) -> bool:
        return any(self.names)


class PubSub:
    """The channels of one job on one node.

    Attributes:
        subscribers: Of each kind and name those who have subscribed, in order; with how many
            clients a router listens for, and 0 for a client itself.
    """

    __slots__ = ("_globs", "listening", "space", "subscribers")

    def __init__(self, space: JobSpace, listening: Listening | None) -> None:
        self.space = space
        self.listening = listening
        self.subscribers: tuple[dict[bytes, dict[Session, int]], ...] = ({}, {}, {})
        self._globs: dict[bytes, Glob] = {}

    # --- who is there --------------------------------------------------------------------------

    def subscribe(self, session: Session, kind: Kind, name: bytes) -> Deferred | None:
        """A client wants to be told; twice is once. Completed once it surely will be."""
        subscriptions = session.subscriptions
        if subscriptions is None:
            subscriptions = session.subscriptions = Subscriptions()
            session.limit_pushes()
        names = subscriptions.names[kind]
        if name in names:
            return None
        names[name] = None
        session.update_guard()
        return self._add(session, kind, name, 0)

    def unsubscribe(self, session: Session, kind: Kind, name: bytes) -> None:
        """A client does not want to be told any more."""
        subscriptions = session.subscriptions
        if subscriptions is None or name not in subscriptions.names[kind]:
            return
        del subscriptions.names[kind][name]
        session.update_guard()
        self._remove(session, kind, name)

    def listen(self, session: Session, kind: Kind, name: bytes, count: int) -> None:
        """A router wants to be told for so many of its clients; 0: not any more."""
        if count:
            if session.subscriptions is None:
                session.subscriptions = Subscriptions()
            session.subscriptions.names[kind][name] = None
            self._add(session, kind, name, count)
        elif session.subscriptions is not None and name in session.subscriptions.names[kind]:
            del session.subscriptions.names[kind][name]
            self._remove(session, kind, name)

    def leave(self, session: Session) -> None:
        """A client has subscribed to nothing any more."""
        subscriptions = session.subscriptions
        if subscriptions is None:
            return
        session.subscriptions = None
        session.update_guard()
        for kind in Kind:
            for name in subscriptions.names[kind]:
                self._remove(session, kind, name)

    def _add(self, session: Session, kind: Kind, name: bytes, count: int) -> Deferred | None:
        of_kind = self.subscribers[kind]
        of_name = of_kind.get(name)
        if of_name is None:
            of_name = of_kind[name] = {}
            if kind == Kind.PATTERN:
                self._globs[name] = Glob(name)
        of_name[session] = count
        return self._tell(kind, name, len(of_name))

    def _remove(self, session: Session, kind: Kind, name: bytes) -> None:
        of_kind = self.subscribers[kind]
        of_name = of_kind[name]
        del of_name[session]
        if not of_name:
            del of_kind[name]
            self._globs.pop(name, None)
        self._tell(kind, name, len(of_name))

    def _tell(self, kind: Kind, name: bytes, count: int) -> Deferred | None:
        if self.listening is None:
            return None
        return self.listening.changed(self.space, kind, name, count)

    def counts(self, kind: Kind, name: bytes) -> tuple[int, int]:
        """How many clients have subscribed to a name, and for how many routers listen."""
        of_name = self.subscribers[kind].get(name)
        if of_name is None:
            return 0, 0
        listened = sum(of_name.values())
        return sum(1 for count in of_name.values() if not count), listened

    # --- what is published ---------------------------------------------------------------------

    def publish(self, channel: bytes, message: bytes, *, listeners: bool = True) -> int:
        """Tell a channel's subscribers, and those of patterns that it fits; how many that were.

        Args:
            channel: Its name.
            message: What they are told.
            listeners: Whether routers are told that listen here.
        """
        told = self._send(Kind.CHANNEL, channel, channel, message, listeners)
        if self._globs:
            for pattern, glob in self._globs.items():
                if glob.matches(channel) and (channel or not pattern):
                    told += self._send(Kind.PATTERN, pattern, channel, message, listeners)
        return told

    def publish_shard(self, channel: bytes, message: bytes) -> int:
        """Tell a sharded channel's subscribers; how many that were."""
        return self._send(Kind.SHARD, channel, channel, message, True)

    def deliver(self, kind: Kind, name: bytes, channel: bytes, message: bytes) -> int:
        """Tell those who have subscribed here to a name what was published elsewhere."""
        return self._send(kind, name, channel, message, True)

    def _send(
        self, kind: Kind, name: bytes, channel: bytes, message: bytes, listeners: bool
    ) -> int:
        of_name = self.subscribers[kind].get(name)
        if of_name is None:
            return 0
        items: list[Reply] = [_MESSAGE_WORDS[kind], channel, message]
        if kind == Kind.PATTERN:
            items.insert(1, name)
        return _push_to_all(of_name, items, listeners)

    def notify(self, database: Database, kind: int, event: bytes, key: bytes) -> None:
        """Publish what happened to a key, as `notifications.Notifier`."""
        flags = self.space.notify_flags
        if flags & KEYSPACE:
            self.publish(b"__keyspace@%d__:%b" % (database.index, key), event)
        if flags & KEYEVENT:
            self.publish(b"__keyevent@%d__:%b" % (database.index, event), key)

    # --- slots and servers ---------------------------------------------------------------------

    def drop_foreign(self) -> None:
        """Tell who has subscribed to channels of slots that are not this server's any more."""
        given = self.space.given
        for channel in [c for c in self.subscribers[Kind.SHARD] if not given[key_slot(c)]]:
            for session in list(self.subscribers[Kind.SHARD].get(channel, ())):
                assert session.subscriptions is not None  # It has subscribed.
                names = session.subscriptions.names[Kind.SHARD]
                del names[channel]
                session.update_guard()
                self._remove(session, Kind.SHARD, channel)
                session.transport.push(Push([b"sunsubscribe", channel, len(names)]))

    def dismiss(self) -> None:
        """Close who has subscribed: nothing is published here any more, but elsewhere."""
        of_kinds = self.subscribers[Kind.CHANNEL], self.subscribers[Kind.PATTERN]
        sessions = {s: None for names in of_kinds for of_name in names.values() for s in of_name}
        for session in sessions:
            session.transport.close_when_sent()


def _push_to_all(sessions: dict[Session, int], items: list[Reply], listeners: bool) -> int:
    """Send a message to many clients, encoded once for each version of the protocol."""
    encoded: list[Encoded | None] = [None, None]
    told = 0
    for session, count in sessions.items():
        if count and not listeners:
            continue
        third = session.protocol == 3
        message = encoded[third]
        if message is None:
            message = encoded[third] = Encoded(encode_reply(Push(items), 3 if third else 2))
        session.transport.push(message)
        told += count or 1
    return told


def pubsub_of(session: Session) -> PubSub:
    """The channels of a client's job, made when they are first needed."""
    return pubsub_in(session.space, session.node.listening)


def pubsub_in(space: JobSpace, listening: Listening | None = None) -> PubSub:
    """The channels of a job; `listening` listens elsewhere for who subscribes here."""
    pubsub = space.pubsub
    if pubsub is None:
        pubsub = space.pubsub = PubSub(space, listening)
    return pubsub


def all_of(waits: Iterable[Deferred | None], reply: Reply) -> Reply:
    """`reply`, once all of these are complete."""
    pending = [wait for wait in waits if wait is not None and not wait.done]
    if not pending:
        return reply
    left = len(pending)
    answer = Deferred(exclusive=True)

    def on_complete() -> None:
        nonlocal left
        left -= 1
        if not left:
            answer.complete(reply)

    for wait in pending:
        wait.listen(on_complete)
    return answer
