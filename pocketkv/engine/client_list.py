"""Clients as CLIENT LIST shows them, and which of them a client may see.

A job's clients see each other and no other job's; the administrator sees all. Our own routers'
connections are not shown to a job: they carry many clients, or stand for one that the router shows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import c_string, canonical_integer
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.jobs import DEFAULT_JOB_ID
from pocketkv.resp.encoder import encode_request

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

# Whom ``AUTH`` makes administrator. No job has this id: a job's ends in a random part.
ADMIN_USER: Final = "admin"
# What a connection takes that has nothing to send or to execute, roughly.
_SESSION_BYTES: Final = 4096
# Redis's names of kinds of clients; replicas do not exist.
_TYPES: Final = frozenset((b"normal", b"replica", b"slave", b"pubsub", b"master"))
_INVALID_ID: Final = b"ERR client-id should be greater than 0"

Filter = Callable[["Session"], bool]


def visible_sessions(session: Session) -> list[Session]:
    """The clients that this one may look at, pause and close, the oldest first."""
    sessions = session.node.sessions.values()
    if session.admin:
        return list(sessions)
    job_id = session.job_id
    if session.proxied:
        # A router ends what its clients wait for.
        return [s for s in sessions if s.job_id == job_id]
    return [s for s in sessions if s.job_id == job_id and not s.proxied]


def user_of(session: Session) -> str:
    """Whom the client has authenticated as: with its job, unless that is the job `default`."""
    if session.admin:
        return ADMIN_USER
    if session.user_name == DEFAULT_JOB_ID:
        return session.job_id
    if session.job_id == DEFAULT_JOB_ID:
        return session.user_name
    return f"{session.job_id}/{session.user_name}"


def describe(session: Session, request: list[bytes] | None = None) -> bytes:
    """One line of CLIENT LIST, without its end; `request` is what the client asks just now."""
    now_ms = session.node.clock.now_ms
    unsent_bytes = session.transport.outbox.pending_bytes
    argument_bytes = sum(map(len, request)) if request else 0
    input_bytes = session.transport.input_bytes + (len(encode_request(request)) if request else 0)
    transaction = session.transaction
    fields = {
        "id": session.id,
        "addr": session.address,
        "laddr": session.local_address,
        "fd": session.transport.fd,
        "name": session.name.decode("ascii"),
        "age": max(0, now_ms - session.created_ms) // 1000,
        "idle": max(0, now_ms - session.last_active_ms) // 1000,
        "flags": _flags(session),
        "db": session.db.index,
        **_subscribed(session),
        "multi": -1 if transaction is None else len(transaction),
        "qbuf": input_bytes,
        "qbuf-free": 0,
        "argv-mem": argument_bytes,
        "multi-mem": 0 if transaction is None else transaction.size_bytes,
        "rbs": 0,
        "rbp": 0,
        "obl": unsent_bytes,
        "oll": 0,
        "omem": unsent_bytes,
        "tot-mem": _SESSION_BYTES + input_bytes + unsent_bytes,
        "events": "rw" if unsent_bytes else "r",
        "cmd": session.last_command or "NULL",
        "user": user_of(session),
        "redir": -1 if session.tracking is None else session.tracking.redirect,
        "resp": session.protocol,
        "watch": 0 if session.watch is None else len(session.watch.keys),
        "lib-name": session.lib_name.decode("ascii"),
        "lib-ver": session.lib_version.decode("ascii"),
    }
    return " ".join(f"{name}={value}" for name, value in fields.items()).encode()


def _subscribed(session: Session) -> dict[str, int]:
    names = ({}, {}, {}) if session.subscriptions is None else session.subscriptions.names
    return {word: len(kind) for word, kind in zip(("sub", "psub", "ssub"), names, strict=True)}


def _flags(session: Session) -> str:
    """Redis's letters for what is special about a client."""
    flags = "O" if session.monitoring else ""
    flags += "P" if is_subscriber(session) else ""
    # Nothing is in a transaction any more once that is executed.
    flags += "x" if session.transaction is not None and not session.in_exec else ""
    flags += "b" if session.blocked is not None else ""
    flags += "t" if session.tracking is not None else ""
    flags += "R" if session.tracking is not None and session.tracking.is_broken else ""
    flags += "B" if session.tracking is not None and session.tracking.broadcast else ""
    flags += "d" if session.watch is not None and session.watch.is_broken else ""
    flags += "e" if session.no_evict else ""
    flags += "T" if session.no_touch else ""
    return flags or "N"


def is_subscriber(session: Session) -> bool:
    """Whether a client is told of messages: in Redis, a kind of its own."""
    return bool(session.subscriptions)


def check_type(name: bytes) -> Filter:
    """The filter ``TYPE name``.

    Raises:
        CommandError: There is no such type.
    """
    kind = name.lower()
    if kind not in _TYPES:
        raise CommandError(b"ERR Unknown client type '%b'" % c_string(name))
    if kind == b"normal":
        return lambda session: not is_subscriber(session)
    return lambda session: kind == b"pubsub" and is_subscriber(session)


def parse_id(text: bytes, error: bytes) -> int:
    """A client's id, which is above 0.

    Raises:
        CommandError: `error`, if it is none.
    """
    number = canonical_integer(text)
    if number is None or number < 1:
        raise CommandError(error)
    return number


class KillOptions:
    """The options of CLIENT KILL: who is closed, and whether the caller is spared.

    Raises:
        CommandError: Unknown, without a value, or of a bad value.
    """

    def __init__(self, session: Session, request: list[bytes]) -> None:
        self.skip_me = True
        self._filters: list[Filter] = []
        for i in range(2, len(request), 2):
            if i + 1 == len(request):
                raise CommandError(SYNTAX)
            self._add(session, request[i].upper(), request[i + 1])

    def _add(self, session: Session, option: bytes, value: bytes) -> None:
        if option == b"ID":
            wanted_id = parse_id(value, _INVALID_ID)
            self._filters.append(lambda s: s.id == wanted_id)
        elif option == b"TYPE":
            self._filters.append(check_type(value))
        elif option == b"ADDR":
            self._filters.append(lambda s: s.address.encode() == value)
        elif option == b"LADDR":
            self._filters.append(lambda s: s.local_address.encode() == value)
        elif option == b"USER":
            user = value.decode("utf-8", "surrogateescape")
            # Another job's id must look as one that does not exist.
            if not any(user_of(s) == user for s in visible_sessions(session)):
                raise CommandError(b"ERR No such user '%b'" % c_string(value))
            self._filters.append(lambda s: user_of(s) == user)
        elif option == b"SKIPME" and value.lower() in {b"yes", b"no"}:
            self.skip_me = value.lower() == b"yes"
        else:
            raise CommandError(SYNTAX)

    def matches(self, session: Session) -> bool:
        """Whether all filters fit a client."""
        return all(fits(session) for fits in self._filters)
