"""The connection itself: who the client is, which protocol it speaks, which database it uses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.acl import acl_of
from pocketkv.engine.arguments import c_string, canonical_integer, parse_int32
from pocketkv.engine.commands import command
from pocketkv.engine.errors import (
    DB_OUT_OF_RANGE,
    NO_PROTO,
    SYNTAX,
    CommandError,
    wrong_arity,
)
from pocketkv.engine.keyspace import DEFAULT_JOB
from pocketkv.engine.node import REDIS_VERSION
from pocketkv.resp.replies import OK, PONG, Reply, Simple

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_PROTOCOL_NOT_INTEGER: Final = b"ERR Protocol version is not an integer or out of range"
_HELLO_BEFORE_AUTH: Final = (
    b"NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO "
    b"AUTH <user> <pass> option can be used to authenticate the client and select the "
    b"RESP protocol version at the same time"
)
_NO_PASSWORD_SET: Final = (
    b"ERR AUTH <password> called without any password configured for the default user. "
    b"Are you sure your configuration is correct?"
)
_BAD_CLIENT_NAME: Final = b"ERR Client names cannot contain spaces, newlines or special characters."
_NO_CLUSTER: Final = b"ERR This instance has cluster support disabled"
_RESET_DONE: Final = Simple(b"RESET")
_BEFORE_AUTH: Final = "noscript loading stale fast no_auth allow_busy"


def check_client_name(name: bytes) -> None:
    """Refuse a name that would garble CLIENT LIST.

    Raises:
        CommandError: It has blanks or other characters than printable ASCII.
    """
    if any(c < 33 or c > 126 for c in name):
        raise CommandError(_BAD_CLIENT_NAME)


@command(
    "HELLO",
    arity=-1,
    flags=_BEFORE_AUTH,
    categories="connection",
    group="connection",
    since="6.0.0",
    complexity="O(1)",
    summary="Chooses the protocol version, may authenticate, and tells what this server is.",
    usage="[protover [AUTH username password] [SETNAME clientname]]",
)
def hello(session: Session, request: list[bytes]) -> Reply:
    """Answers a map about server and connection."""
    version = _hello_version(request)
    credentials: tuple[bytes, bytes] | None = None
    name: bytes | None = None
    i = 2
    while i < len(request):
        option = request[i].upper()
        if option == b"AUTH" and i + 2 < len(request):
            credentials = request[i + 1], request[i + 2]
            i += 3
        elif option == b"SETNAME" and i + 1 < len(request):
            name = request[i + 1]
            check_client_name(name)
            i += 2
        else:
            raise CommandError(b"ERR Syntax error in HELLO option '%b'" % c_string(request[i]))
    if credentials is not None:
        _login(session, request[0], *credentials)
    if not session.authenticated:
        raise CommandError(_HELLO_BEFORE_AUTH)
    if name is not None:
        session.name = name
    if version is not None:
        session.protocol = version
    return {
        b"server": b"redis",
        b"version": REDIS_VERSION.encode(),
        b"proto": session.protocol,
        b"id": session.id,
        b"mode": b"cluster" if session.node.clustered else b"standalone",
        b"role": b"master",
        b"modules": [],
    }


def _hello_version(request: list[bytes]) -> int | None:
    if len(request) == 1:
        return None
    version = canonical_integer(request[1])
    if version is None:
        raise CommandError(_PROTOCOL_NOT_INTEGER)
    if version not in {2, 3}:
        raise CommandError(NO_PROTO)
    return version


def _login(session: Session, asked: bytes, user: bytes, password: bytes) -> None:
    # A user that is no text is nobody's name, and stays one when it is decoded.
    name = user.decode("utf-8", "surrogateescape")
    try:
        session.login(name, password)
    except CommandError:
        acl_of(session).note(session, b"auth", asked, name)
        raise


@command(
    "AUTH",
    arity=-2,
    flags=_BEFORE_AUTH,
    categories="connection",
    group="connection",
    since="1.0.0",
    complexity="O(1)",
    summary="Enters a job with its id and token, or becomes administrator.",
    usage="[username] password",
)
def auth(session: Session, request: list[bytes]) -> Reply:
    """A job is a user and its token the password; the user ``default`` needs none."""
    if len(request) > 3:
        raise CommandError(SYNTAX)
    if len(request) == 3:
        _login(session, request[0], request[1], request[2])
        return OK
    if not session.node.require_auth and session.node.is_open:
        raise CommandError(_NO_PASSWORD_SET)
    _login(session, request[0], DEFAULT_JOB.encode(), request[1])
    return OK


@command(
    "PING",
    arity=-1,
    flags="fast",
    categories="connection",
    group="connection",
    since="1.0.0",
    complexity="O(1)",
    summary="Answers PONG, or the message that it is given.",
    usage="[message]",
    tips="request_policy:all_shards response_policy:all_succeeded",
)
def ping(session: Session, request: list[bytes]) -> Reply:
    """Tells that the connection works."""
    if len(request) > 2:
        raise wrong_arity("ping")
    if session.subscriptions and session.protocol == 2 and not session.proxied:
        # Told apart from messages by its form.
        return [b"pong", request[1] if len(request) == 2 else b""]
    return PONG if len(request) == 1 else request[1]


@command(
    "ECHO",
    arity=2,
    flags="loading stale fast",
    categories="connection",
    group="connection",
    since="1.0.0",
    complexity="O(1)",
    summary="Answers the message that it is given.",
    usage="message",
)
def echo(session: Session, request: list[bytes]) -> Reply:
    """Answers its argument."""
    return request[1]


@command(
    "QUIT",
    arity=-1,
    flags=_BEFORE_AUTH,
    categories="connection",
    group="connection",
    since="1.0.0",
    complexity="O(1)",
    summary="Closes the connection when all replies were sent.",
)
def quit_(session: Session, request: list[bytes]) -> Reply:
    """What was sent after it is not executed."""
    session.transport.close_when_sent()
    return OK


@command(
    "RESET",
    arity=1,
    flags=_BEFORE_AUTH,
    categories="connection",
    group="connection",
    since="6.2.0",
    complexity="O(1)",
    summary="Makes the connection what it was at its beginning.",
)
def reset(session: Session, request: list[bytes]) -> Reply:
    """Leaves the job too: the client may have to authenticate again."""
    session.reset()
    return _RESET_DONE


@command(
    "SELECT",
    arity=2,
    flags="loading stale fast",
    categories="connection",
    group="connection",
    since="1.0.0",
    complexity="O(1)",
    summary="Uses another of the job's numbered databases.",
    usage="index",
)
def select(session: Session, request: list[bytes]) -> Reply:
    """Databases are numbered from 0."""
    index = parse_int32(request[1])
    if not 0 <= index < limits.DATABASES:
        raise CommandError(DB_OUT_OF_RANGE)
    session.select(index)
    return OK


@command(
    "READONLY",
    arity=1,
    flags="loading stale fast",
    categories="connection",
    group="cluster",
    since="3.0.0",
    complexity="O(1)",
    summary="Accepts to read from replicas; there are none, so nothing changes.",
)
def readonly(session: Session, request: list[bytes]) -> Reply:
    """Cluster clients send it to any node that they may read from."""
    return _in_cluster(session)


@command(
    "READWRITE",
    arity=1,
    flags="loading stale fast",
    categories="connection",
    group="cluster",
    since="3.0.0",
    complexity="O(1)",
    summary="Undoes READONLY.",
)
def readwrite(session: Session, request: list[bytes]) -> Reply:
    """See READONLY."""
    return _in_cluster(session)


@command(
    "ASKING",
    arity=1,
    flags="fast",
    categories="connection",
    group="cluster",
    since="3.0.0",
    complexity="O(1)",
    summary="Announces a command that was redirected by ASK; slots move at once, so none is.",
)
def asking(session: Session, request: list[bytes]) -> Reply:
    """A slot has one owner at any time, who serves it without being asked twice."""
    return _in_cluster(session)


def _in_cluster(session: Session) -> Reply:
    if session.node.alone:
        raise CommandError(_NO_CLUSTER)
    return OK
