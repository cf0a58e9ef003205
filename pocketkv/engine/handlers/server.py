"""The server as a whole: INFO, its time and role, and what an ephemeral server refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import canonical_integer, parse_int
from pocketkv.engine.blocking import block
from pocketkv.engine.commands import command
from pocketkv.engine.errors import NOT_INTEGER, SYNTAX, CommandError
from pocketkv.engine.handlers.clients import parse_timeout_ms
from pocketkv.engine.info import info_text
from pocketkv.engine.node import REDIS_VERSION
from pocketkv.resp.replies import OK, Reply, Simple, Verbatim

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_NO_LOCAL_FILE: Final = (
    b"ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled."
)
_NO_SHUTDOWN: Final = b"ERR this server is not stopped by its clients"
_NO_REPLICATION: Final = b"ERR there is no replication: a value has one copy"
_NO_REPLICAS: Final = b"ERR FAILOVER requires connected replicas."
_BAD_PORT: Final = b"ERR Invalid master port"
_ADMIN: Final = "admin noscript no_async_loading"
_PORT_MAX: Final = 65535


@command(
    "INFO",
    arity=-1,
    flags="loading stale",
    categories="dangerous",
    group="server",
    since="1.0.0",
    complexity="O(N) where N is the number of clients of the job",
    summary="The state of the server and of the connection's job, in sections.",
    usage="[section [section ...]]",
    tips="nondeterministic_output request_policy:all_shards response_policy:special",
)
def info(session: Session, request: list[bytes]) -> Reply:
    """Text for people, with lines that programs read."""
    return Verbatim(info_text(session, request[1:]))


@command(
    "TIME",
    arity=1,
    flags="loading stale fast",
    group="server",
    since="2.6.0",
    complexity="O(1)",
    summary="The server's time.",
    tips="nondeterministic_output",
)
def time(session: Session, request: list[bytes]) -> Reply:
    """Seconds of the Unix epoch, and microseconds, to the millisecond."""
    now_ms = session.node.clock.now_ms
    return [b"%d" % (now_ms // 1000), b"%d" % (now_ms % 1000 * 1000)]


@command(
    "ROLE",
    arity=1,
    flags="noscript loading stale fast",
    categories="admin dangerous",
    group="server",
    since="2.8.12",
    complexity="O(1)",
    summary="The server's part in replication.",
)
def role(session: Session, request: list[bytes]) -> Reply:
    """Always a master without replicas."""
    return [b"master", 0, []]


@command(
    "LASTSAVE",
    arity=1,
    flags="loading stale fast",
    categories="admin dangerous",
    group="server",
    since="1.0.0",
    complexity="O(1)",
    summary="When SAVE or BGSAVE was last asked for, or the server began; nothing is saved.",
    tips="nondeterministic_output",
)
def lastsave(session: Session, request: list[bytes]) -> Reply:
    """Seconds of the Unix epoch."""
    return session.node.saved_ms // 1000


@command(
    "LOLWUT",
    arity=-1,
    flags="readonly fast",
    group="server",
    since="5.0.0",
    complexity="O(1)",
    summary="The version, in Redis without its pictures.",
    usage="[VERSION version]",
)
def lolwut(session: Session, request: list[bytes]) -> Reply:
    """A line of text."""
    if len(request) > 2 and request[1].upper() == b"VERSION":
        parse_int(request[2])
    return Verbatim(f"Redis ver. {REDIS_VERSION}\n".encode())


# --- replication, of which there is none -------------------------------------------------------


@command(
    "WAIT",
    arity=3,
    flags="noscript",
    categories="connection",
    group="generic",
    since="3.0.0",
    complexity="O(1)",
    summary="Waits until replicas have what the connection wrote; there are none.",
    usage="numreplicas timeout",
    tips="request_policy:all_shards response_policy:agg_min",
)
def wait(session: Session, request: list[bytes]) -> Reply:
    """Answers 0; at once if that is enough, otherwise when the time is over (0: never)."""
    wanted = parse_int(request[1])
    timeout_ms = parse_timeout_ms(request[2])
    if wanted <= 0:
        return 0
    return block(session, timeout_ms=timeout_ms, timeout_reply=0).deferred


@command(
    "WAITAOF",
    arity=4,
    flags="noscript",
    categories="connection",
    group="generic",
    since="7.2.0",
    complexity="O(1)",
    summary="Waits until append-only files have what the connection wrote; there are none.",
    usage="numlocal numreplicas timeout",
    tips="request_policy:all_shards response_policy:agg_min",
)
def waitaof(session: Session, request: list[bytes]) -> Reply:
    """Answers 0 and 0; at once if that is enough, otherwise when the time is over."""
    local, wanted = parse_int(request[1]), parse_int(request[2])
    timeout_ms = parse_timeout_ms(request[3])
    if local < 0 or local > 1 or wanted < 0:
        raise CommandError(NOT_INTEGER)
    if local:
        raise CommandError(_NO_LOCAL_FILE)
    nobody: list[Reply] = [0, 0]
    if wanted == 0:
        return nobody
    return block(session, timeout_ms=timeout_ms, timeout_reply=nobody).deferred


def _replicaof(request: list[bytes]) -> Reply:
    if request[1].lower() == b"no" and request[2].lower() == b"one":
        return OK
    port = canonical_integer(request[2])
    if port is None or not 0 <= port <= _PORT_MAX:
        raise CommandError(_BAD_PORT)
    raise CommandError(_NO_REPLICATION)


@command(
    "REPLICAOF",
    arity=3,
    flags="admin noscript stale no_async_loading",
    group="server",
    since="5.0.0",
    complexity="O(1)",
    summary="Makes the server a replica; refused, but for what it is: the replica of no one.",
    usage="host port",
)
def replicaof(session: Session, request: list[bytes]) -> Reply:
    """``NO ONE`` is always in force."""
    return _replicaof(request)


@command(
    "SLAVEOF",
    arity=3,
    flags="admin noscript stale no_async_loading",
    group="server",
    since="1.0.0",
    complexity="O(1)",
    summary="The old name of REPLICAOF.",
    usage="host port",
)
def slaveof(session: Session, request: list[bytes]) -> Reply:
    """See REPLICAOF."""
    return _replicaof(request)


@command(
    "FAILOVER",
    arity=-1,
    flags="admin noscript stale",
    group="server",
    since="6.2.0",
    complexity="O(1)",
    summary="Hands over to a replica; there is none.",
    usage="[TO host port [FORCE]] [ABORT] [TIMEOUT milliseconds]",
)
def failover(session: Session, request: list[bytes]) -> Reply:
    """Refused in Redis's words."""
    raise CommandError(_NO_REPLICAS)


# --- what an ephemeral server refuses ----------------------------------------------------------


@command(
    "SAVE",
    arity=1,
    flags=f"{_ADMIN} no_multi",
    group="server",
    since="1.0.0",
    complexity="O(1)",
    summary="Answers as if all values were saved; nothing is.",
)
def save(session: Session, request: list[bytes]) -> Reply:
    """Redis's words, as a Redis says them whose disk goes when it stops. See BGSAVE."""
    session.node.saved_ms = session.node.clock.now_ms
    return OK


@command(
    "BGSAVE",
    arity=-1,
    flags=_ADMIN,
    group="server",
    since="1.0.0",
    complexity="O(1)",
    summary="Answers as if all values were being saved; nothing is.",
    usage="[SCHEDULE]",
)
def bgsave(session: Session, request: list[bytes]) -> Reply:
    """Redis's words, which promise nothing: programs go on by them, and by LASTSAVE."""
    if len(request) > 2 or (request[1:] and request[1].upper() != b"SCHEDULE"):
        raise CommandError(SYNTAX)
    session.node.saved_ms = session.node.clock.now_ms
    return Simple(b"Background saving started")


@command(
    "BGREWRITEAOF",
    arity=1,
    flags=_ADMIN,
    group="server",
    since="1.0.0",
    complexity="O(1)",
    summary="Answers as if the append-only file were rewritten; there is none.",
)
def bgrewriteaof(session: Session, request: list[bytes]) -> Reply:
    """Redis's words. See BGSAVE."""
    return Simple(b"Background append only file rewriting started")


@command(
    "SHUTDOWN",
    arity=-1,
    flags="admin noscript loading stale no_multi allow_busy",
    group="server",
    since="1.0.0",
    complexity="O(1)",
    summary="Stops the server; refused, since it serves other jobs too.",
    usage="[NOSAVE | SAVE] [NOW] [FORCE] [ABORT]",
)
def shutdown(session: Session, request: list[bytes]) -> Reply:
    """Servers are started and stopped by the controller, or by who runs them."""
    if any(word.upper() not in _SHUTDOWN_WORDS for word in request[1:]):
        raise CommandError(SYNTAX)
    raise CommandError(_NO_SHUTDOWN)


_SHUTDOWN_WORDS: Final = frozenset((b"NOSAVE", b"SAVE", b"NOW", b"FORCE", b"ABORT"))
