"""LCS: the longest common subsequence of two strings.

Redis fills a table L(i, j) with the length for the first i bytes of one and the first j of the
other, which is far too slow in Python. Here a row of the table is one integer, of which bit k says
that the row does not grow at column k, and a whole row follows from the one before by one
addition and three bit operations (Hyyrö 2004). Rows are bytes of the shorter string.

Redis walks back through the table by one rule: on a match go diagonally; otherwise go up (i - 1)
if that has the greater length, else left (j - 1). Among several longest subsequences this rule
chooses, so it is followed exactly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketkv.engine.arguments import parse_int
from pocketkv.engine.commands import TWO_KEYS, command
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.values import Collection
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

# Bytes of one entry of Redis's table; the limit of LCS is the size of that table.
_ENTRY_BYTES = 4


class _Options:
    __slots__ = ("length_min", "length_only", "ranges", "with_length")

    def __init__(self, request: list[bytes]) -> None:
        self.length_only = False
        self.ranges = False
        self.with_length = False
        self.length_min = 0
        i = 3
        while i < len(request):
            option = request[i].upper()
            if option == b"IDX":
                self.ranges = True
            elif option == b"LEN":
                self.length_only = True
            elif option == b"WITHMATCHLEN":
                self.with_length = True
            elif option == b"MINMATCHLEN" and i + 1 < len(request):
                self.length_min = max(0, parse_int(request[i + 1]))
                i += 1
            else:
                raise CommandError(SYNTAX)
            i += 1
        if self.ranges and self.length_only:
            raise CommandError(b"ERR If you want both the length and indexes, please just use IDX.")


@command(
    "LCS",
    arity=-3,
    flags="readonly",
    group="string",
    since="7.0.0",
    complexity="O(N*M) where N and M are the lengths of the strings",
    summary="Returns the longest common subsequence of two strings.",
    usage="key1 key2 [LEN] [IDX] [MINMATCHLEN min-match-len] [WITHMATCHLEN]",
    keys=TWO_KEYS,
    key_flags="RO access",
    categories="string",
)
def lcs(session: Session, request: list[bytes]) -> Reply:
    """The subsequence, its length (LEN), or the ranges that make it up (IDX)."""
    a = _read(session, request[1])
    b = _read(session, request[2])
    if a is None or b is None:
        raise CommandError(b"ERR The specified keys must contain string values")
    options = _Options(request)
    if (len(a) + 1) * (len(b) + 1) * _ENTRY_BYTES > session.node.bulk_bytes_max:
        raise CommandError(
            b"ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len"
        )
    if options.length_only:
        return _length(a, b)
    runs = _matching_runs(a, b)
    if not options.ranges:
        # The runs come from the end of the strings.
        return b"".join([a[i : i + size] for i, _, size in reversed(runs)])
    matches: list[Reply] = []
    for i, j, size in runs:
        if size >= options.length_min:
            match: list[Reply] = [[i, i + size - 1], [j, j + size - 1]]
            if options.with_length:
                match.append(size)
            matches.append(match)
    reply: dict[bytes, Reply] = {
        b"matches": matches,
        b"len": sum([size for _, _, size in runs]),
    }
    return reply


def _read(session: Session, key: bytes) -> bytes | None:
    """A key's string; empty if it does not exist, ``None`` if it is of another type."""
    value = session.db.read(key)
    if isinstance(value, Collection):
        return None
    if isinstance(value, LargeString):
        value.require(0, len(value))
    return b"" if value is None else bytes(value)


def _rows(columns: bytes, rows: bytes) -> list[int]:
    """The rows of the table, the empty one first: bit k is 0 where the row grows at column k."""
    full = (1 << len(columns)) - 1
    places = {byte: _places(columns, byte) for byte in set(rows)}
    row = full
    table = [row]
    for byte in rows:
        matching = row & places[byte]
        row = (row + matching | row - matching) & full
        table.append(row)
    return table


def _places(text: bytes, byte: int) -> int:
    """An integer whose bit k is 1 where `text` has `byte` at k."""
    digits = bytearray(b"0" * 256)
    digits[byte] = 49
    # Bit 0 is the last digit.
    return int(text[::-1].translate(digits) or b"0", 2)


def _length(a: bytes, b: bytes) -> int:
    columns, rows = (a, b) if len(a) >= len(b) else (b, a)
    return len(columns) - _rows(columns, rows)[-1].bit_count()


def _matching_runs(a: bytes, b: bytes) -> list[tuple[int, int, int]]:
    """Where the subsequence is: start in `a`, start in `b` and size of each run, the last first."""
    pairs = _walk_rows_of_a(a, b) if len(a) <= len(b) else _walk_rows_of_b(a, b)
    runs: list[tuple[int, int, int]] = []
    end = 0
    while end < len(pairs):
        first = end
        i, j = pairs[first]
        while end < len(pairs) and pairs[end] == (i - (end - first), j - (end - first)):
            end += 1
        size = end - first
        runs.append((i - size + 1, j - size + 1, size))
    return runs


def _walk_rows_of_a(a: bytes, b: bytes) -> list[tuple[int, int]]:
    """The pairs of positions that match, from the end; a row for each byte of `a`."""
    table = _rows(b, a)
    pairs = []
    i = len(a)
    j = len(b)
    while i > 0 and j > 0:
        # Going left as long as there is no match and the row does not grow: so to the last
        # match, or to the last column where it grows, whichever comes first.
        match = b.rfind(a[i - 1], 0, j) + 1
        growth = (~table[i] & (1 << j) - 1).bit_length()
        if match >= growth and match > 0:
            pairs.append((i - 1, match - 1))
            j = match - 1
        elif growth > 0:
            # The row above has that length too, since it is not from a match.
            j = growth
        else:
            break
        i -= 1
    return pairs


def _walk_rows_of_b(a: bytes, b: bytes) -> list[tuple[int, int]]:
    """The same, with a row for each byte of `b`."""
    table = _rows(a, b)
    pairs = []
    i = len(a)
    j = len(b)
    while i > 0 and j > 0:
        if a[i - 1] == b[j - 1]:
            pairs.append((i - 1, j - 1))
            i -= 1
        else:
            mask = (1 << i) - 1
            # More bits are 0 in this row than in the one to the left: the length grows here.
            if (table[j] & mask).bit_count() < (table[j - 1] & mask).bit_count():
                # Going up keeps the length, until a match.
                i = a.rfind(b[j - 1], 0, i) + 1
                pairs.append((i - 1, j - 1))
                i -= 1
        j -= 1
    return pairs
