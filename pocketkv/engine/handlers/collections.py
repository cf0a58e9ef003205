"""What commands of several types of collections share."""

from __future__ import annotations

from typing import Final

from pocketkv import limits
from pocketkv.engine.arguments import INT64_MAX, Glob, parse_int
from pocketkv.engine.errors import SYNTAX, CommandError

COUNT_OUT_OF_RANGE: Final = b"ERR value is out of range, value must between -%d and %d" % (
    INT64_MAX,
    INT64_MAX,
)
TOO_MANY_DRAWS: Final = b"ERR value is out of range, at most %d members with repetition" % (
    limits.RANDOM_MEMBERS_MAX
)
_SCAN_COUNT: Final = 10


def scan_options(request: list[bytes]) -> tuple[Glob | None, int]:
    """MATCH and COUNT of SSCAN, HSCAN or ZSCAN.

    Returns:
        A pattern that does not match everything, or ``None``; and how many to look at.

    Raises:
        CommandError: An option is unknown, has no value, or a wrong one.
    """
    pattern = None
    count = _SCAN_COUNT
    for i in range(3, len(request), 2):
        option = request[i].upper()
        if i + 1 == len(request) or option not in {b"COUNT", b"MATCH"}:
            raise CommandError(SYNTAX)
        if option == b"MATCH":
            pattern = Glob(request[i + 1])
            continue
        count = parse_int(request[i + 1])
        if count < 1:
            raise CommandError(SYNTAX)
    return None if pattern is None or pattern.matches_all else pattern, count
