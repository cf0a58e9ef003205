"""What is a function of two arguments, against Redis in bulk: patterns, floats, subsequences."""

from __future__ import annotations

import os
import random
from collections.abc import Iterable

import pytest

from pocketkv.engine.arguments import Glob, glob_matches
from pocketkv.engine.errors import CommandError
from pocketkv.engine.long_double import (
    add_long_doubles,
    format_long_double,
    parse_long_double,
)
from tests.oracle.targets import EngineTarget, SocketTarget
from tests.replies import Error, decode

# How much more than usual to try.
TIMES = max(1, int(os.environ.get("POCKETKV_ORACLE_EXAMPLES", "250")) // 250)
BATCH = 500


def run(target: SocketTarget, requests: Iterable[list[bytes]]) -> list[object]:
    """The decoded replies."""
    return [decode(reply) for reply in target.run(list(requests))]


@pytest.fixture
def redis(redis_target: SocketTarget) -> SocketTarget:
    """Redis without keys."""
    redis_target.begin(2, 0)
    return redis_target


# --- patterns ----------------------------------------------------------------------------------


def random_bytes(dice: random.Random, alphabet: bytes, length_max: int) -> bytes:
    return bytes(dice.choice(alphabet) for _ in range(dice.randrange(length_max + 1)))


def test_patterns_match_what_they_match_in_redis(redis: SocketTarget) -> None:
    dice = random.Random(1)
    for _ in range(30 * TIMES):
        keys = [random_bytes(dice, b"ab-]^\xff\x80[\\", 4) for _ in range(20)]
        patterns = [random_bytes(dice, b"aab-]^[[**?\\\xff\x80\0", 8) for _ in range(50)]
        requests = [[b"FLUSHALL"], [b"MSET", *[part for key in keys for part in (key, b"")]]]
        replies = run(redis, [*requests, *[[b"KEYS", pattern] for pattern in patterns]])
        for pattern, theirs in zip(patterns, replies[2:], strict=True):
            glob = Glob(pattern)
            assert isinstance(theirs, list)
            assert {key for key in keys if glob.matches(key)} == set(theirs), pattern
            # The empty key fits a star in KEYS only because KEYS does not ask.
            ours = {k for k in keys if glob_matches(pattern, k) or pattern == b"*"}
            assert ours == set(theirs), pattern


# --- floats ------------------------------------------------------------------------------------

TELLING_NUMBERS = b"""
    0 -0 -0.0 +5 .5 5. . 1e 1e+5 1e-17 5e-18 15e-18 25e-18 nan inf -inf infinity INF 1_0 1e1_0 --1
    1e--1 0x10 0x 0x.8p1 0x1p-3 -0x1.8p4 0x1p 1e4932 1.1e4932 -1e4932 1.189731495357231765e+4932
    1.18973149535723176502e+4932 1.1897314953572317651e+4932 1e-4950 1e-4951 3e-4951 1e-4960
    1e99999999999999999999 0e99999999999999 1e-99999999999999999999 0x1p16383 0x1p16384 0x1p-16445
    0x1p-16446 0x1.8p-16446 0x1.00000000000000008p0 0x1.00000000000000018p0 0x1.fffffffffffffffep0
    18446744073709551615 18446744073709551616 9223372036854775807.5
""".split()
LONG_NUMBERS = [
    b"",
    b" 1",
    b"1 ",
    b"1\x00",
    "٣".encode(),
    b"0" * 5118 + b"1",
    b"0" * 5119 + b"1",
    b"1" * 4932,
    b"1" * 4933,
    b"9" * 5000 + b"e-4990",
    b"0." + b"0" * 5000 + b"123e+5000",
    b"1e" + b"0" * 5000 + b"5",
    b"0x" + b"f" * 5000,
    b"0x" + b"f" * 5000 + b"p-19990",
    b"0x." + b"0" * 5000 + b"1p20000",
    b"." + b"0" * 5000 + b"1",
]


def random_number(dice: random.Random) -> bytes:
    kind = dice.randrange(10)
    if kind == 0:
        return dice.choice(TELLING_NUMBERS)
    if kind == 1:
        return dice.choice(LONG_NUMBERS)
    if kind < 5:
        return repr(dice.uniform(-100, 100)).encode()
    if kind < 6:
        digits = dice.randrange(1, 30)
        return b"%d" % dice.randrange(-(10**digits), 10**digits)
    if kind < 8:
        whole, fraction = (dice.randrange(10 ** dice.randrange(1, 25)) for _ in range(2))
        return b"%d.%d" % (whole, fraction)
    return b"%.*e" % (dice.randrange(25), dice.uniform(-1, 1) * 10.0 ** dice.randrange(-30, 30))


def our_sum(a: bytes, b: bytes) -> object:
    try:
        return format_long_double(add_long_doubles(parse_long_double(a), parse_long_double(b)))
    except CommandError as error:
        return Error(error.text.decode())


def test_float_sums_have_redis_s_digits(redis: SocketTarget) -> None:
    dice = random.Random(2)
    for _ in range(10 * TIMES):
        pairs = [(random_number(dice), random_number(dice)) for _ in range(BATCH)]
        sums = [[b"INCRBYFLOAT", b"key", b] for _, b in pairs]
        sets = [[b"SET", b"key", a] for a, _ in pairs]
        replies = run(redis, [request for two in zip(sets, sums, strict=True) for request in two])
        for (a, b), theirs in zip(pairs, replies[1::2], strict=True):
            assert our_sum(a, b) == theirs, (a, b)


# --- subsequences ------------------------------------------------------------------------------


LCS_OPTIONS = [[], [b"LEN"], [b"IDX", b"WITHMATCHLEN"], [b"IDX", b"MINMATCHLEN", b"2"]]


def test_subsequences_are_redis_s(redis: SocketTarget) -> None:
    dice = random.Random(3)
    ours = EngineTarget()
    ours.begin(2, 0)
    for _ in range(2 * TIMES):
        requests: list[list[bytes]] = []
        for _ in range(BATCH):
            letters = dice.choice([b"ab", b"abcd", bytes(range(256))])
            longest = dice.choice([3, 12, 90])
            one, other = (random_bytes(dice, letters, longest) for _ in range(2))
            requests.append([b"MSET", b"{k}1", one, b"{k}2", other])
            requests += [[b"LCS", b"{k}1", b"{k}2", *options] for options in LCS_OPTIONS]
        pairs = zip(requests, ours.run(requests), redis.run(requests), strict=True)
        for number, (request, our_reply, their_reply) in enumerate(pairs):
            assert our_reply == their_reply, (requests[number - number % 5], request)
