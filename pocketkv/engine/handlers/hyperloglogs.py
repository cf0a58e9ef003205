"""HyperLogLog commands: strings that tell about how many different elements were added to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine import hyperloglog
from pocketkv.engine.commands import ALL_KEYS, NO_KEYS, ONE_KEY, KeySpec, command
from pocketkv.engine.errors import CommandError
from pocketkv.engine.gate import require_memory
from pocketkv.engine.handlers.strings_ranges import changeable_string, keep
from pocketkv.engine.hyperloglog import CorruptedError
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.notifications import STRING
from pocketkv.engine.values import String, value_cost
from pocketkv.resp.replies import OK, Reply, Simple

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_NONE: Final = b"WRONGTYPE Key is not a valid HyperLogLog string value."
_CORRUPTED: Final = b"INVALIDOBJ Corrupted HLL object detected"
_NO_KEY: Final = b"ERR The specified key does not exist"
_NOT_SPARSE: Final = b"ERR HLL encoding is not sparse"


def _checked(value: String) -> bytes | bytearray:
    """A string that is a HyperLogLog; a large one is longer than any."""
    if isinstance(value, LargeString) or not hyperloglog.is_valid(value):
        raise CommandError(_NONE)
    return value


@command(
    "PFADD",
    arity=-2,
    flags="write denyoom fast",
    group="hyperloglog",
    since="2.8.9",
    complexity="O(1) for each element",
    summary="Adds elements to a HyperLogLog, which is created if it does not exist.",
    usage="key [element [element ...]]",
    keys=ONE_KEY,
    key_flags="RW insert",
)
def pfadd(session: Session, request: list[bytes]) -> Reply:
    """Whether the estimate may have changed."""
    db = session.db
    key = request[1]
    value = db.lookup_string(key)
    sparse_bytes_max = session.node.settings.hll_sparse_max_bytes
    changed = value is None
    if value is None:
        data = hyperloglog.empty()
        cost_bytes = 0
    else:
        data = changeable_string(db, key, _checked(value))
        cost_bytes = value_cost(data)
    try:
        for i in range(2, len(request)):
            if hyperloglog.add(data, request[i], sparse_bytes_max):
                changed = True
    except CorruptedError:
        keep(db, key, data, cost_bytes)
        raise CommandError(_CORRUPTED) from None
    if changed:
        hyperloglog.outdate(data)
        keep(db, key, data, cost_bytes)
        db.notify(STRING, b"pfadd", key)
    return 1 if changed else 0


@command(
    "PFCOUNT",
    arity=-2,
    flags="readonly",
    group="hyperloglog",
    since="2.8.9",
    complexity="O(1), if the key did not change; O(N) for N keys otherwise",
    summary="Estimates how many different elements were added to one or several HyperLogLogs.",
    usage="key [key ...]",
    keys=ALL_KEYS,
    key_flags="RW access",
)
def pfcount(session: Session, request: list[bytes]) -> Reply:
    """The estimate for all together."""
    try:
        if len(request) > 2:
            return hyperloglog.estimate(_merged(session, request[1:])[0])
        return _count(session, request[1])
    except CorruptedError:
        raise CommandError(_CORRUPTED) from None


def _merged(session: Session, keys: list[bytes]) -> tuple[bytearray, bool]:
    """The highest of all registers, and whether any of the HyperLogLogs is dense."""
    highest = bytearray(hyperloglog.REGISTERS)
    is_dense = False
    for key in keys:
        value = session.db.read_string(key)
        if value is not None:
            data = _checked(value)
            is_dense = is_dense or not hyperloglog.is_sparse(data)
            hyperloglog.merge_into(highest, data)
    return highest, is_dense


def _count(session: Session, key: bytes) -> int:
    """The estimate for one; it is kept with the registers, so that it is not made again."""
    db = session.db
    value = db.read_string(key)
    if value is None:
        return 0
    data = _checked(value)
    estimated = hyperloglog.cached_cardinality(data)
    if estimated >= 0:
        return estimated
    estimated = hyperloglog.estimate(hyperloglog.registers(data))
    if not session.space.read_only:
        kept = changeable_string(db, key, data)
        cost_bytes = value_cost(kept)
        hyperloglog.cache_cardinality(kept, estimated)
        keep(db, key, kept, cost_bytes)
    return estimated


@command(
    "PFMERGE",
    arity=-2,
    flags="write denyoom",
    group="hyperloglog",
    since="2.8.9",
    complexity="O(N) for N keys",
    summary="Makes a HyperLogLog of all elements that were added to several.",
    usage="destkey [sourcekey [sourcekey ...]]",
    keys=ALL_KEYS,
    key_flags="RW access insert @1; RO access @2 -1 1",
)
def pfmerge(session: Session, request: list[bytes]) -> Reply:
    """OK."""
    db = session.db
    key = request[1]
    try:
        highest, is_dense = _merged(session, request[1:])
        value = db.lookup_string(key)
        data = hyperloglog.empty() if value is None else bytearray(_checked(value))
        if is_dense:
            require_memory(session, max(0, hyperloglog.DENSE_BYTES - len(data)))
            hyperloglog.to_dense(data)
        sparse_bytes_max = session.node.settings.hll_sparse_max_bytes
        for index in range(hyperloglog.REGISTERS):
            if highest[index]:
                hyperloglog.raise_register(data, index, highest[index], sparse_bytes_max)
    except CorruptedError:
        raise CommandError(_CORRUPTED) from None
    hyperloglog.outdate(data)
    db.put_keeping_expiry(key, data)
    db.notify(STRING, b"pfadd", key)
    return OK


# --- for tests ---------------------------------------------------------------------------------


@command(
    "PFDEBUG",
    arity=3,
    flags="write denyoom admin",
    group="hyperloglog",
    since="2.8.9",
    complexity="N/A",
    summary="Shows how a HyperLogLog is kept.",
    usage="subcommand key",
    keys=KeySpec(2, 2, 1),
    key_flags="RW access",
)
def pfdebug(session: Session, request: list[bytes]) -> Reply:
    """What the subcommand says: GETREG, DECODE, ENCODING or TODENSE."""
    value = session.db.lookup_string(request[2])
    if value is None:
        raise CommandError(_NO_KEY)
    data = _checked(value)
    subcommand = request[1].upper()
    if subcommand == b"ENCODING":
        return Simple(b"sparse" if hyperloglog.is_sparse(data) else b"dense")
    try:
        if subcommand == b"DECODE":
            if not hyperloglog.is_sparse(data):
                raise CommandError(_NOT_SPARSE)
            return hyperloglog.describe(data)
        if subcommand == b"TODENSE":
            return _to_dense(session, request[2], data)
        if subcommand == b"GETREG":
            _to_dense(session, request[2], data)
            return list(hyperloglog.registers(data))
    except CorruptedError:
        raise CommandError(_CORRUPTED) from None
    raise CommandError(b"ERR Unknown PFDEBUG subcommand '%b'" % request[1])


def _to_dense(session: Session, key: bytes, data: bytes | bytearray) -> int:
    """Make a HyperLogLog dense; 0 if it is."""
    if not hyperloglog.is_sparse(data):
        return 0
    dense = bytearray(data)
    hyperloglog.to_dense(dense)
    session.db.put_keeping_expiry(key, dense)
    return 1


_TESTED_ELEMENTS: Final = 1000
_TESTED_SPARSE_BYTES: Final = 3000
# Of the estimate: its standard error is 1.04 / sqrt(registers).
_ERRORS_MAX: Final = 6 * 1.04 / 128


@command(
    "PFSELFTEST",
    arity=1,
    flags="admin",
    group="hyperloglog",
    since="2.8.9",
    complexity="N/A",
    summary="Tries whether HyperLogLogs count as they should.",
    usage="",
    keys=NO_KEYS,
)
def pfselftest(session: Session, request: list[bytes]) -> Reply:
    """OK."""
    sparse = hyperloglog.empty()
    dense = hyperloglog.empty()
    hyperloglog.to_dense(dense)
    seed = session.node.keyspace.randomness.randrange(1 << 62)
    checked = 1
    for number in range(1, _TESTED_ELEMENTS + 1):
        element = b"%d:%d" % (seed, number)
        changed = hyperloglog.add(dense, element, 0)
        if hyperloglog.add(sparse, element, _TESTED_SPARSE_BYTES) != changed:
            raise CommandError(b"TESTFAILED dense/sparse disagree")
        if number == checked:
            checked *= 10
            registers = hyperloglog.registers(dense)
            if hyperloglog.registers(sparse) != registers:
                raise CommandError(b"TESTFAILED dense/sparse disagree")
            error = abs(hyperloglog.estimate(registers) - number)
            if error > 1 + number * _ERRORS_MAX:
                raise CommandError(b"TESTFAILED Too big error. card:%d abserr:%d" % (number, error))
    return OK
