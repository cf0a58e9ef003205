"""DUMP and RESTORE: values in the form that Redis writes them in; MIGRATE, which is not offered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine import notifications
from pocketkv.engine.arguments import INT64_MAX, parse_int
from pocketkv.engine.commands import ONE_KEY, KeySpec, command
from pocketkv.engine.dumping import dump_value, make_value
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.gate import require_memory
from pocketkv.engine.rdb.errors import RdbError
from pocketkv.engine.rdb.loads import is_intact, load
from pocketkv.engine.values import Value, value_cost
from pocketkv.resp.replies import OK, Reply, Simple
from pocketkv.slots import key_slot

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_BUSY_KEY: Final = b"BUSYKEY Target key name already exists."
_INVALID_TTL: Final = b"ERR Invalid TTL value, must be >= 0"
_INVALID_IDLE_TIME: Final = b"ERR Invalid IDLETIME value, must be >= 0"
_INVALID_FREQUENCY: Final = b"ERR Invalid FREQ value, must be >= 0 and <= 255"
_NOT_INTACT: Final = b"ERR DUMP payload version or checksum are wrong"
_BAD_DATA: Final = b"ERR Bad data format"
_NO_MIGRATE: Final = (
    b"ERR MIGRATE is not offered: a server here opens no connection because a client asks it to. "
    b"DUMP the key and RESTORE it there"
)
_NO_KEY: Final = Simple(b"NOKEY")
_FREQUENCY_MAX: Final = 255


@command(
    "DUMP",
    arity=2,
    flags="readonly",
    group="generic",
    since="2.6.0",
    complexity="O(N) where N is the size of the value",
    summary="Returns a key's value in the form that RESTORE takes, here and in Redis.",
    usage="key",
    keys=ONE_KEY,
    key_flags="RO access",
    categories="keyspace",
    tips="nondeterministic_output",
)
def dump(session: Session, request: list[bytes]) -> Reply:
    """Bytes, or nil if the key does not exist. Its expiry is no part of them."""
    value = session.db.read(request[1])
    return None if value is None else dump_value(value, session.node.settings)


class _Options:
    """The options of RESTORE."""

    __slots__ = ("absolute", "frequency", "idle_s", "replace")

    def __init__(self, request: list[bytes]) -> None:
        self.replace = False
        self.absolute = False
        self.idle_s = -1
        self.frequency = -1
        i = 4
        while i < len(request):
            option = request[i].upper()
            has_value = i + 1 < len(request)
            if option == b"REPLACE":
                self.replace = True
            elif option == b"ABSTTL":
                self.absolute = True
            elif option == b"IDLETIME" and has_value and self.frequency < 0:
                i += 1
                self.idle_s = parse_int(request[i])
                if self.idle_s < 0:
                    raise CommandError(_INVALID_IDLE_TIME)
            elif option == b"FREQ" and has_value and self.idle_s < 0:
                i += 1
                # How often a key is used is counted here for all keys alike, so it is only read.
                self.frequency = parse_int(request[i])
                if not 0 <= self.frequency <= _FREQUENCY_MAX:
                    raise CommandError(_INVALID_FREQUENCY)
            else:
                raise CommandError(SYNTAX)
            i += 1


@command(
    "RESTORE",
    arity=-4,
    flags="write denyoom",
    group="generic",
    since="2.6.0",
    complexity="O(N) where N is the size of the value; O(N log N) for a sorted set",
    summary="Makes a key of what DUMP returned, here or in Redis.",
    usage="key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]",
    keys=ONE_KEY,
    key_flags="OW update",
    categories="keyspace dangerous",
)
@command(
    "RESTORE-ASKING",
    arity=-4,
    flags="write denyoom asking",
    group="server",
    since="3.0.0",
    complexity="O(N) where N is the size of the value; O(N log N) for a sorted set",
    summary="Makes a key of what DUMP returned, as RESTORE does.",
    usage="key ttl serialized-value [REPLACE] [ABSTTL] [IDLETIME seconds] [FREQ frequency]",
    keys=ONE_KEY,
    key_flags="OW update",
    categories="keyspace dangerous",
)
def restore(session: Session, request: list[bytes]) -> Reply:
    """OK, or an error if there is such a key, or the bytes are no dump."""
    db = session.db
    key = request[1]
    options = _Options(request)
    if not options.replace and db.find(key) is not None:
        raise CommandError(_BUSY_KEY)
    due_ms = parse_int(request[2])
    if due_ms < 0:
        raise CommandError(_INVALID_TTL)
    value = _load(session, bytes(request[3]))
    now_ms = session.node.clock.now_ms
    if due_ms and not options.absolute:
        due_ms += now_ms
    if due_ms and not now_ms < due_ms <= INT64_MAX:
        # Its time has come, or is so far away that Redis thinks so.
        if db.remove(key):
            db.notify(notifications.GENERIC, b"del", key)
        return OK
    db.put(key, value)
    if due_ms:
        db.set_expiry(key, due_ms)
    if options.idle_s > 0:
        _set_idle(session, key, options.idle_s)
    _set_frequency(session, key, options.frequency)
    db.notify(notifications.GENERIC, b"restore", key)
    return OK


def _load(session: Session, payload: bytes) -> Value:
    """The value of a dump, which the job has room for.

    Raises:
        CommandError: It is none, or too large.
    """
    if not is_intact(payload):
        raise CommandError(_NOT_INTACT)
    try:
        content = load(payload, lambda made_bytes: require_memory(session, made_bytes))
    except RdbError as error:
        raise CommandError(_BAD_DATA) from error
    keyspace = session.node.keyspace
    if not isinstance(content, bytes):
        value = make_value(content, session.node.settings)
        require_memory(session, value_cost(value))
        return value
    require_memory(session, len(content))
    if len(content) < limits.EXTENT_BYTES_MIN:
        return content
    string = keyspace.new_string(session.job_id)
    if string is None:
        return content
    string.write(0, content)
    return string


def _set_frequency(session: Session, key: bytes, frequency: int) -> None:
    """Have a key be one that was used so often, where that decides; elsewhere it means nothing."""
    uses = session.db.uses
    eviction = session.node.keyspace.eviction
    if frequency > 0 and uses is not None and eviction is not None and eviction.counts_uses:
        uses.restore(key, frequency, session.db.salt)


def _set_idle(session: Session, key: bytes, idle_s: int) -> None:
    """Have a key be unused for so long, if that is known of it alone: it is kept by slot."""
    db = session.db
    slot = key_slot(key)
    if len(db.table(slot)) == 1:
        db.accessed_s[slot] = max(0, session.node.clock.now_s - idle_s)


# --- MIGRATE -----------------------------------------------------------------------------------


def _migrated_keys(request: list[bytes]) -> list[int]:
    """Where MIGRATE has its keys: the third argument, or what follows KEYS."""
    for i in range(6, len(request)):
        if request[i].upper() == b"KEYS" and not request[3]:
            return list(range(i + 1, len(request)))
    return [3] if len(request) > 3 else []


@command(
    "MIGRATE",
    arity=-6,
    flags="write",
    group="generic",
    since="2.6.0",
    complexity="O(1)",
    summary="Would send keys to another Redis; it is refused, with what to do instead.",
    usage='host port <key | ""> destination-db timeout [COPY] [REPLACE] '
    "[AUTH password | AUTH2 username password] [KEYS key [key ...]]",
    keys=KeySpec(3, 3, 1, find=_migrated_keys),
    key_flags="RW access delete @3; RW access delete incomplete @KEYS:-2 -1",
    categories="keyspace dangerous",
)
def migrate(session: Session, request: list[bytes]) -> Reply:
    """An error, unless none of the keys exists."""
    if all(session.db.find(request[i]) is None for i in _migrated_keys(request)):
        return _NO_KEY
    raise CommandError(_NO_MIGRATE)
