"""DEBUG: what programs, and the tests of clients, ask of it, as far as it harms nobody else.

What would stop, crash or reconfigure the server is unknown here. Redis's DEBUG is one command;
here it is a container, so that each subcommand says which servers it concerns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.amounts import AmountError, parse_bytes
from pocketkv.engine.arguments import parse_double, parse_int
from pocketkv.engine.blocking import block
from pocketkv.engine.cold import Cold
from pocketkv.engine.commands import (
    NO_KEYS,
    Handler,
    KeySpec,
    Merge,
    Route,
    command,
    find_command,
    not_callable,
)
from pocketkv.engine.errors import (
    NO_SUCH_KEY,
    NOT_POSITIVE,
    CommandError,
    no_permission,
    wrong_subcommand,
)
from pocketkv.engine.gate import require_memory
from pocketkv.engine.handlers.keys import encoding_of, refcount_of
from pocketkv.engine.hash_value import HashValue
from pocketkv.engine.help_text import help_lines
from pocketkv.engine.list_value import ListValue
from pocketkv.engine.scan import position_of
from pocketkv.engine.set_value import SetValue
from pocketkv.engine.sorted_set_value import SortedSetValue
from pocketkv.engine.stream_value import StreamValue
from pocketkv.engine.values import Collection, Value
from pocketkv.resp.encoder import encode_reply, format_double
from pocketkv.resp.replies import OK, Encoded, ErrorReply, Push, Reply, SetReply, Simple, Verbatim
from pocketkv.slots import key_slot

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.session import Session

_NO_TABLE: Final = (
    b"ERR The value stored at the specified key is not represented using an hash table"
)
# Nobody waits for longer, and added to the time of day this is still a time.
_SLEEP_MAX_S: Final = 1e9
# Redis's clock of 24 bits, in seconds.
_LRU_CLOCK_MAX: Final = 2**24 - 1
# DEBUG POPULATE: so many keys at most, and what one costs at least.
_POPULATED_MAX: Final = 10_000_000
_POPULATED_BYTES: Final = 150

command(
    "DEBUG",
    arity=-2,
    flags="admin noscript loading stale",
    group="server",
    since="1.0.0",
    complexity="Depends on the subcommand.",
    summary="Serves tests and curiosity.",
)(not_callable)
_BAD_RELOAD: Final = b"ERR DEBUG RELOAD only supports the MERGE, NOFLUSH and NOSAVE options."
_NOT_RELOADED: Final = b"ERR Error trying to load the RDB dump, check server logs."


def _debug(
    name: str,
    summary: str,
    usage: str = "",
    keys: KeySpec = NO_KEYS,
    route: Route | None = None,
    merge: Merge = Merge.NONE,
) -> Callable[[Handler], Handler]:
    """Declare a subcommand. Its handler counts the arguments itself, as Redis's does."""
    return command(
        f"DEBUG|{name}",
        arity=-2,
        flags="admin noscript loading stale",
        group="server",
        since="1.0.0",
        complexity="Depends on the subcommand.",
        summary=summary,
        usage=usage,
        keys=keys,
        key_flags="RO" if keys is not NO_KEYS else "",
        route=route,
        merge=merge,
    )


def _expect(request: list[bytes], count: int) -> None:
    """Refuse a request that has not just `count` arguments, the two names included."""
    if len(request) != count:
        raise wrong_subcommand("debug", request[1])


def _value_of_key(session: Session, request: list[bytes]) -> Value:
    """The value of the one key that a request names; an error if it names no key that is there."""
    _expect(request, 3)
    value = session.db.peek(request[2])
    if value is None:
        raise CommandError(NO_SUCH_KEY)
    return value


# --- keys --------------------------------------------------------------------------------------


@_debug("OBJECT", "Describes how a key's value is kept.", "key", KeySpec(2, 2, 1))
def debug_object(session: Session, request: list[bytes]) -> Reply:
    """Redis's line of figures.

    `serializedlength` of a string is its length and one: so it is in Redis for a short string
    that is no number, and programs (Lithops) reckon the size of every value that way, which in
    Redis is wrong for all others.
    """
    _expect(request, 3)
    db = session.db
    key = request[2]
    entry = db.find_stored(key)
    if entry is None:
        raise CommandError(NO_SUCH_KEY)
    # It does not expire by being looked at here.
    has_expired = not isinstance(entry, Cold) and not db.live(key, key_slot(key))
    value = db.value_of(key, entry) if has_expired else db.peek(key)
    if value is None:
        raise CommandError(NO_SUCH_KEY)
    length = value.size_bytes if isinstance(value, Collection) else len(value) + 1
    idle_s = db.idle_s(key)
    return Simple(
        # The address is made up, and the same for the same key.
        b"Value at:0x%012x refcount:%d encoding:%b serializedlength:%d lru:%d lru_seconds_idle:%d"
        % (
            position_of(key),
            refcount_of(value),
            encoding_of(value).encode(),
            length,
            (session.node.clock.now_s - idle_s) & _LRU_CLOCK_MAX,
            idle_s,
        )
    )


@_debug(
    "HTSTATS-KEY",
    "Describes the table that a key's elements are in, whose segments are its chains.",
    "key",
    KeySpec(2, 2, 1),
)
def debug_htstats_key(session: Session, request: list[bytes]) -> Reply:
    """A line for each figure."""
    value = _value_of_key(session, request)
    table = value.table() if isinstance(value, Collection) else None
    if table is None:
        raise CommandError(_NO_TABLE)
    lines = [f" {name}: {figure}\n" for name, figure in table.figures().items()]
    return Verbatim("".join(["Hash table 0 stats (main hash table):\n", *lines]).encode())


@_debug(
    "DIGEST-VALUE", "Computes Redis's digests of keys' values.", "key [key ...]", KeySpec(2, -1, 1)
)
def debug_digest_value(session: Session, request: list[bytes]) -> Reply:
    """40 hexadecimal digits for each key; zeros if it does not exist."""
    digests: list[Reply] = []
    for key in request[2:]:
        value = session.db.peek(key)
        digest = 0 if value is None else _digest_value(session.db, key, value, 0)
        digests.append(Simple(b"%040x" % digest))
    return digests


@_debug("DIGEST", "Computes Redis's digest of all keys of the job on this server.")
def debug_digest(session: Session, request: list[bytes]) -> Reply:
    """40 hexadecimal digits; zeros if there are no keys."""
    _expect(request, 2)
    digest = 0
    for index, db in sorted(session.space.databases.items()):
        if not db.size:
            continue
        digest = _mixed(digest, index.to_bytes(4, "big"))
        for slot, table in db.slot_tables():
            for key, entry in table.items():
                if db.live(key, slot):
                    value = db.value_of(key, entry)
                    of_key = _digest_value(db, key, value, _mixed(0, key))
                    digest ^= _sha1(of_key.to_bytes(20, "big"))
    return Simple(b"%040x" % digest)


def _digest_value(db: Database, key: bytes, value: Value, digest: int) -> int:
    """Redis's digest of a value and of whether it expires, on top of `digest`."""
    if not isinstance(value, Collection):
        digest = _mixed(_mixed(digest, b"\0\0\0\0"), bytes(value))
    elif isinstance(value, ListValue):
        digest = _mixed(digest, b"\0\0\0\1")
        for item in value.items():
            digest = _mixed(digest, item)
    elif isinstance(value, SetValue):
        digest = _mixed(digest, b"\0\0\0\2")
        for member in value.members():
            digest ^= _sha1(member)
    elif isinstance(value, SortedSetValue):
        digest = _mixed(digest, b"\0\0\0\3")
        for scores, members in value.chunks():
            for score, member in zip(scores, members, strict=True):
                of_pair = _mixed(_mixed(0, member), format_double(score))
                digest ^= _sha1(of_pair.to_bytes(20, "big"))
    elif isinstance(value, HashValue):
        digest = _mixed(digest, b"\0\0\0\4")
        for field, held in value.pairs().items():
            digest ^= _sha1(_mixed(_mixed(0, field), held).to_bytes(20, "big"))
    elif isinstance(value, StreamValue):
        digest = _mixed(digest, b"\0\0\0\6")
        for text in value.texts():
            digest = _mixed(digest, text)
    else:
        raise TypeError(f"no digest for the type {value.type_name}")
    if db.expiry_ms(key) is not None:
        digest ^= _sha1(b"!!expire!!")
    return digest


def _sha1(data: bytes) -> int:
    return int.from_bytes(hashlib.sha1(data, usedforsecurity=False).digest(), "big")


def _mixed(digest: int, data: bytes) -> int:
    """A digest that depends on the order of what was mixed in."""
    return _sha1((digest ^ _sha1(data)).to_bytes(20, "big"))


# --- the server --------------------------------------------------------------------------------


@_debug("SLEEP", "Lets this client wait; nobody else does.", "seconds")
def debug_sleep(session: Session, request: list[bytes]) -> Reply:
    """OK, when the time is up."""
    _expect(request, 3)
    try:
        seconds = min(parse_double(request[2]), _SLEEP_MAX_S)
    except CommandError:
        # Redis takes what is no number for 0.
        seconds = 0.0
    milliseconds = int(seconds * 1000)
    if milliseconds <= 0:
        return OK
    node, record = session.node, find_command(request)
    return block(
        session,
        timeout_ms=milliseconds,
        timeout_reply=OK,
        on_end=lambda: node.record_wait(session, record, request, milliseconds),
    ).deferred


@_debug(
    "SET-ACTIVE-EXPIRE",
    "Says whether the job's expired keys are removed before they are asked for.",
    "<0 | 1>",
    route=Route.ALL,
    merge=Merge.OK,
)
def debug_set_active_expire(session: Session, request: list[bytes]) -> Reply:
    """OK."""
    _expect(request, 3)
    session.space.expires_actively = request[2].strip() not in (b"0", b"")
    return OK


@_debug(
    "RELOAD",
    "Does nothing: no key is in a file, so none would be other than it is.",
    "[NOSAVE] [NOFLUSH] [MERGE]",
)
def debug_reload(session: Session, request: list[bytes]) -> Reply:
    """OK, unless what is there would be in the way of itself."""
    words = {word.upper() for word in request[2:]}
    if not words <= {b"NOSAVE", b"NOFLUSH", b"MERGE"}:
        raise CommandError(_BAD_RELOAD)
    if b"NOFLUSH" in words and b"MERGE" not in words:
        raise CommandError(_NOT_RELOADED)
    return OK


@_debug("SET-DISABLE-DENY-SCRIPTS", "Whether scripts may call every command, for tests.", "<0 | 1>")
def debug_deny_scripts(session: Session, request: list[bytes]) -> Reply:
    """OK."""
    _expect(request, 3)
    session.node.settings.scripts_may_all = request[2] != b"0"
    return OK


@_debug("LOADAOF", "Does nothing, as RELOAD.")
def debug_loadaof(session: Session, request: list[bytes]) -> Reply:
    """OK."""
    _expect(request, 2)
    return OK


@_debug("CHANGE-REPL-ID", "Does nothing: there is no replication.")
def debug_change_repl_id(session: Session, request: list[bytes]) -> Reply:
    """OK."""
    _expect(request, 2)
    return OK


@_debug(
    "POPULATE",
    "Sets so many keys that do not exist to strings, where their slots are on this server.",
    "count [prefix] [size]",
)
def debug_populate(session: Session, request: list[bytes]) -> Reply:
    """OK; an administrator's, since it keeps everybody waiting."""
    if not 3 <= len(request) <= 5:
        raise wrong_subcommand("debug", request[1])
    if not session.may_administer:
        raise no_permission("debug|populate")
    count = _number(request[2], _POPULATED_MAX)
    prefix = request[3] if len(request) > 3 else b"key"
    size = _number(request[4], limits.MIB) if len(request) > 4 else 0
    require_memory(session, count * (len(prefix) + max(size, _POPULATED_BYTES)))
    db = session.db
    owned = session.space.owned
    for number in range(count):
        key = b"%b:%d" % (prefix, number)
        if owned[key_slot(key)] and db.find(key) is None:
            value = b"value:%d" % number
            db.put(key, value[:size].ljust(size, b"\0") if size else value)
    return OK


def _number(text: bytes, most: int) -> int:
    number = parse_int(text, NOT_POSITIVE)
    if not 0 <= number <= most:
        raise CommandError(NOT_POSITIVE)
    return number


@_debug(
    "QUICKLIST-PACKED-THRESHOLD", "Does nothing: lists have no nodes that could be plain.", "size"
)
def debug_quicklist_packed_threshold(session: Session, request: list[bytes]) -> Reply:
    """OK, if it is a size that Redis takes."""
    _expect(request, 3)
    try:
        fits = parse_bytes(request[2].lower()) < 4 * 1024**3
    except AmountError:
        fits = False
    if not fits:
        raise CommandError(
            b"ERR argument must be a memory value bigger than 1 and smaller than 4gb"
        )
    return OK


@_debug("PAUSE-CRON", "Does nothing: there is no cron, each task has its own time.", "<0 | 1>")
def debug_pause_cron(session: Session, request: list[bytes]) -> Reply:
    """OK."""
    _expect(request, 3)
    return OK


@_debug(
    "LISTPACK",
    "Tells whether Redis would keep a key's value in a listpack.",
    "key",
    KeySpec(2, 2, 1),
)
def debug_listpack(session: Session, request: list[bytes]) -> Reply:
    """Redis's words, which prints it where nobody sees it; an error for other values."""
    value = _value_of_key(session, request)
    if encoding_of(value) != "listpack":
        raise CommandError(b"ERR Not a listpack encoded object.")
    return Simple(b"Listpack structure printed on stdout")


# --- replies -----------------------------------------------------------------------------------


@_debug("ERROR", "Returns an error with any text.", "message")
def debug_error(session: Session, request: list[bytes]) -> Reply:
    """The error."""
    _expect(request, 3)
    return ErrorReply(request[2])


_FLAGS_BY_NUMBER: Final[dict[int, Reply]] = {0: False, 1: True, 2: False}
_PROTOCOL_REPLIES: Final[dict[bytes, Reply]] = {
    b"string": b"Hello World",
    b"integer": 12345,
    b"double": 3.141,
    b"null": None,
    b"array": [0, 1, 2],
    b"set": SetReply([0, 1, 2]),
    b"map": _FLAGS_BY_NUMBER,
    b"verbatim": Verbatim(b"This is a verbatim\nstring"),
    b"true": True,
    b"false": False,
}
_BIG_NUMBER: Final = b"1234567999999999999999999999999999999"
_ATTRIBUTE: Final = b"|1\r\n$14\r\nkey-popularity\r\n*2\r\n$7\r\nkey:123\r\n:90\r\n"


@_debug("PROTOCOL", "Returns a reply of any type of the protocol.", "type")
def debug_protocol(session: Session, request: list[bytes]) -> Reply:
    """The same reply as Redis's."""
    _expect(request, 3)
    kind = request[2].lower()
    resp3 = session.protocol == 3
    if kind in _PROTOCOL_REPLIES:
        return _PROTOCOL_REPLIES[kind]
    if kind == b"bignum":
        return Encoded(b"(%b\r\n" % _BIG_NUMBER) if resp3 else _BIG_NUMBER
    if kind == b"attrib":
        text = b"Some real reply following the attribute"
        return Encoded(_ATTRIBUTE + encode_reply(text, 3)) if resp3 else text
    if kind == b"push":
        if not resp3:
            raise CommandError(b"ERR RESP2 is not supported by this command")
        session.transport.push(Push([b"server-cpu-usage", 42]))
        return b"Some real reply following the push reply"
    raise CommandError(
        b"ERR Wrong protocol type name. Please use one of the following: "
        b"string|integer|double|bignum|null|array|set|map|attrib|push|verbatim|true|false"
    )


@_debug("HELP", "Tells what subcommands there are.")
def debug_help(session: Session, request: list[bytes]) -> Reply:
    """The lines that redis-cli shows."""
    _expect(request, 2)
    return help_lines(b"debug")
