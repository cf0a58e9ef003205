"""BITFIELD: integers of any number of bits, anywhere in a string."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.arguments import UINT64_MAX, canonical_integer, parse_int
from pocketkv.engine.commands import ONE_KEY, command
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.handlers.bitmaps import parse_offset, read_part
from pocketkv.engine.handlers.strings_ranges import overwrite
from pocketkv.engine.notifications import STRING
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session
    from pocketkv.engine.values import String

_BAD_TYPE: Final = (
    b"ERR Invalid bitfield type. Use something like i16 u8. "
    b"Note that u64 is not supported but i64 is."
)
_BAD_OVERFLOW: Final = b"ERR Invalid OVERFLOW type specified"
_READ_ONLY: Final = b"ERR BITFIELD_RO only supports the GET subcommand"
# Arguments of an operation, with its name.
_OPERATIONS: Final = {b"GET": 3, b"SET": 4, b"INCRBY": 4}
_OVERFLOWS: Final = (b"WRAP", b"SAT", b"FAIL")


class _Operation:
    """One operation on one field.

    Attributes:
        name: GET, SET or INCRBY.
        first, bits: Where the field is, and how long.
        low, high: The numbers that fit it.
        number: What it is set to, or what is added.
        overflow: What happens to other numbers: WRAP, SAT or FAIL.
    """

    __slots__ = ("bits", "first", "high", "low", "name", "number", "overflow")

    def __init__(self, session: Session, name: bytes, arguments: list[bytes], overflow: bytes):
        self.name = name
        self.overflow = overflow
        signed = arguments[0][:1] == b"i"
        bits = canonical_integer(arguments[0][1:])
        if arguments[0][:1] not in (b"i", b"u") or bits is None or not 1 <= bits <= 63 + signed:
            raise CommandError(_BAD_TYPE)
        self.bits = bits
        self.low = -(1 << bits - 1) if signed else 0
        self.high = (1 << bits - signed) - 1
        text = arguments[1]
        if text[:1] == b"#":
            self.first = parse_offset(session, text[1:], bits)
        else:
            self.first = parse_offset(session, text)
        self.number = 0
        if name != b"GET":
            self.number = parse_int(arguments[2])
            if name == b"SET" and not signed:
                # Redis takes a negative number for the large one that has its bits.
                self.number &= UINT64_MAX

    def fitting(self, number: int) -> int | None:
        """The number, or what takes its place because it does not fit; ``None``: nothing does."""
        if self.low <= number <= self.high:
            return number
        if self.overflow == b"FAIL":
            return None
        if self.overflow == b"SAT":
            return self.high if number > self.high else self.low
        return self.signed(number & (1 << self.bits) - 1)

    def signed(self, number: int) -> int:
        """The number that a field's bits are."""
        return number - (1 << self.bits) if number > self.high else number


class _Patched:
    """A string, and what is to be written to it."""

    __slots__ = ("patches", "value")

    def __init__(self, value: String | None) -> None:
        self.value = value
        # By position.
        self.patches: dict[int, int] = {}

    def _window(self, operation: _Operation) -> tuple[int, int, int]:
        """The bytes that a field is in, as a number; their position, and the bits behind it."""
        start = operation.first >> 3
        last = operation.first + operation.bits
        stop = last + 7 >> 3
        window = bytearray(read_part(self.value, start, stop))
        window += bytes(stop - start - len(window))
        for position in range(start, stop):
            if position in self.patches:
                window[position - start] = self.patches[position]
        return int.from_bytes(window, "big"), start, (stop << 3) - last

    def read(self, operation: _Operation) -> int:
        """The number in a field."""
        number, _, behind = self._window(operation)
        return operation.signed(number >> behind & (1 << operation.bits) - 1)

    def write(self, operation: _Operation, number: int) -> None:
        """Put a number into a field."""
        window, start, behind = self._window(operation)
        mask = (1 << operation.bits) - 1
        window = window & ~(mask << behind) | (number & mask) << behind
        size = (operation.first + operation.bits + 7 >> 3) - start
        for i, byte in enumerate(window.to_bytes(size, "big")):
            self.patches[start + i] = byte

    def runs(self, *, is_large: bool) -> list[tuple[int, bytearray]]:
        """What is to be written: of a large string in pieces, the last one first, else in one."""
        if self.patches and not is_large:
            start, last = min(self.patches), max(self.patches)
            run = bytearray(read_part(self.value, start, last + 1))
            run += bytes(last + 1 - start - len(run))
            for position, byte in self.patches.items():
                run[position - start] = byte
            return [(start, run)]
        runs: list[tuple[int, bytearray]] = []
        for position in sorted(self.patches):
            if runs and runs[-1][0] + len(runs[-1][1]) == position:
                runs[-1][1].append(self.patches[position])
            else:
                runs.append((position, bytearray((self.patches[position],))))
        return runs[::-1]


def _parse(session: Session, request: list[bytes]) -> list[_Operation]:
    operations: list[_Operation] = []
    overflow = b"WRAP"
    i = 2
    while i < len(request):
        name = request[i].upper()
        size = 2 if name == b"OVERFLOW" else _OPERATIONS.get(name, 0)
        if not size or i + size > len(request):
            raise CommandError(SYNTAX)
        if name == b"OVERFLOW":
            overflow = request[i + 1].upper()
            if overflow not in _OVERFLOWS:
                raise CommandError(_BAD_OVERFLOW)
        else:
            operations.append(_Operation(session, name, request[i + 1 : i + size], overflow))
        i += size
    return operations


@command(
    "BITFIELD_RO",
    arity=-2,
    flags="readonly fast",
    group="bitmap",
    since="6.0.0",
    complexity="O(1) for each field",
    summary="Returns integers of any number of bits of a string.",
    usage="key [GET encoding offset [GET encoding offset ...]]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def bitfield_ro(session: Session, request: list[bytes]) -> Reply:
    """An integer for each."""
    operations = _parse(session, request)
    if any(operation.name != b"GET" for operation in operations):
        raise CommandError(_READ_ONLY)
    return _read(session, request[1], operations)


def _read(session: Session, key: bytes, operations: list[_Operation]) -> Reply:
    string = _Patched(session.db.read_string(key))
    return [string.read(operation) for operation in operations]


@command(
    "BITFIELD",
    arity=-2,
    flags="write denyoom",
    group="bitmap",
    since="3.2.0",
    complexity="O(1) for each field",
    summary="Returns, sets and adds to integers of any number of bits of a string.",
    usage=(
        "key [GET encoding offset | [OVERFLOW <WRAP | SAT | FAIL>] "
        "<SET encoding offset value | INCRBY encoding offset increment> "
        "[GET encoding offset | [OVERFLOW <WRAP | SAT | FAIL>] "
        "<SET encoding offset value | INCRBY encoding offset increment> ...]]"
    ),
    keys=ONE_KEY,
    key_flags="RW access update variable_flags",
)
def bitfield(session: Session, request: list[bytes]) -> Reply:
    """For each operation the integer, before it was set or after it was added to, or null."""
    operations = _parse(session, request)
    db = session.db
    key = request[1]
    written = [op.first + op.bits + 7 >> 3 for op in operations if op.name != b"GET"]
    if not written:
        return _read(session, key, operations)
    value = db.lookup_string(key)
    size = max(written)
    grows = value is None or size > len(value)
    string = _Patched(value)
    if grows:
        # Even if nothing is written there in the end.
        string.patches[size - 1] = 0
    replies: list[Reply] = []
    changes = 0
    for operation in operations:
        before = string.read(operation)
        if operation.name == b"GET":
            replies.append(before)
            continue
        adds = operation.name == b"INCRBY"
        number = operation.fitting(before + operation.number if adds else operation.number)
        if number is None:
            replies.append(None)
            continue
        replies.append(number if adds else before)
        if grows or number != before:
            string.write(operation, number)
            changes += 1
    keeps_large = session.node.keyspace.keeps_large
    longest = max(size, 0 if value is None else len(value))
    is_large = keeps_large and longest >= limits.EXTENT_BYTES_MIN
    for position, part in string.runs(is_large=is_large):
        overwrite(session, key, db.lookup_string(key), position, bytes(part))
    if changes:
        db.notify(STRING, b"setbit", key)
    return replies
