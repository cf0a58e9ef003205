"""CLIENT TRACKING as in Redis: who is told of which keys, and when."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.conversations import compare
from tests.redis_server import RedisServer, redis_server

CASES = [
    (
        "A: CLIENT TRACKING ON / A: GET a / A: SET a b / B: FLUSHALL / A: FLUSHDB / A: GET a"
        " / B: SET a c / B: SET a d / A: CLIENT TRACKINGINFO / A: CLIENT TRACKING OFF"
        " / A: GET a / B: SET a e / A: CLIENT TRACKINGINFO / A: CLIENT GETREDIR"
    ),
    (
        "A: CLIENT TRACKING ON OPTIN NOLOOP / A: CLIENT CACHING YES / A: CLIENT TRACKINGINFO"
        " / A: GET a / A: SET a 1 / A: GET b / B: SET b 2 / A: CLIENT CACHING YES"
        " / A: CLIENT GETNAME / A: GET a / B: SET a 2 / A: CLIENT CACHING NO"
        " / A: CLIENT CACHING x / A: CLIENT TRACKING ON OPTOUT"
    ),
    (
        "A: CLIENT TRACKING ON OPTOUT / A: CLIENT CACHING NO / A: CLIENT TRACKINGINFO"
        " / A: GET a / A: GET b / B: MSET a 1 b 2 / A: CLIENT CACHING YES"
    ),
    (
        "A: CLIENT TRACKING ON BCAST / A: MSET a 1 b 2 / B: MSET k 1 j 2 a 2 / B: SADD s 1"
        " / B: RENAME s t / A: CLIENT TRACKINGINFO / B: DEL t a nosuch / B: FLUSHALL"
    ),
    (
        "A: CLIENT TRACKING ON BCAST PREFIX a PREFIX b: / B: MSET a:1 1 c 2 b:2 3 b 4 a 5"
        " / A: CLIENT TRACKINGINFO / A: SET ab 1 / A: CLIENT TRACKING ON BCAST PREFIX c"
        " / A: CLIENT TRACKINGINFO / B: MSET c 1 a 2 / A: CLIENT TRACKING ON"
    ),
    ("A: CLIENT TRACKING ON BCAST NOLOOP / A: SET a 1 / B: SET a 2 / A: CLIENT TRACKINGINFO"),
    (
        "A: CLIENT TRACKING ON BCAST PREFIX ab PREFIX a"
        " / A: CLIENT TRACKING ON BCAST PREFIX x / A: CLIENT TRACKING ON BCAST PREFIX xy"
        " / A: CLIENT TRACKING ON BCAST / A: CLIENT TRACKINGINFO"
    ),
    (
        "A: CLIENT TRACKING / A: CLIENT TRACKING nosuch / A: CLIENT TRACKING ON PREFIX a"
        " / A: CLIENT TRACKING ON BCAST OPTIN / A: CLIENT TRACKING ON OPTIN OPTOUT"
        " / A: CLIENT TRACKING ON REDIRECT / A: CLIENT TRACKING ON REDIRECT x"
        " / A: CLIENT TRACKING ON REDIRECT 99999 / A: CLIENT TRACKING ON nosuch"
        " / A: CLIENT TRACKING ON REDIRECT <B> REDIRECT <B> / A: CLIENT CACHING YES"
        " / A: CLIENT TRACKING OFF PREFIX x / A: CLIENT TRACKINGINFO x / A: CLIENT GETREDIR x"
    ),
    (
        "B: SUBSCRIBE __redis__:invalidate / A: CLIENT TRACKING ON REDIRECT <C> / A: GET a"
        " / C: SET a b / C: SUBSCRIBE __redis__:invalidate / A: GET a / D: SET a c / A: GET a"
        " / A: SET a d / D: FLUSHALL / A: CLIENT GETREDIR / A: CLIENT TRACKINGINFO / C: RESET"
        " / A: GET a / D: SET a e / C: QUIT / A: GET a / D: SET a 1 / A: CLIENT TRACKINGINFO"
        " / A: CLIENT TRACKING ON / A: CLIENT TRACKINGINFO"
    ),
    (
        "A: CLIENT TRACKING ON BCAST REDIRECT <B> PREFIX x"
        " / B: SUBSCRIBE __redis__:invalidate / C: MSET x1 1 x2 2 y 3 / A: SET x1 7"
    ),
    (
        "A: CLIENT TRACKING ON / A: MGET a b / A: EXISTS c / A: TTL d / A: OBJECT ENCODING e"
        " / A: STRLEN f / A: TYPE g / B: MSET a 1 b 1 c 1 d 1 e 1 f 1 g 1 / A: SINTER s t"
        " / B: SADD s 1 / B: SADD t 1 / A: SMEMBERS t / B: EXPIRE t 100 / A: SMEMBERS t"
        " / B: PERSIST t / A: SMEMBERS t / B: DEL t"
    ),
    "A: CLIENT TRACKING ON / A: GET a / A: RESET / B: SET a 1 / A: CLIENT TRACKINGINFO",
    ("A: CLIENT TRACKING ON / A: GET a / A: CLIENT REPLY OFF / A: SET a 1 / A: GET a / B: SET a 2"),
    "A: SELECT 1 / A: CLIENT TRACKING ON / A: GET a / B: SET a 1",
    (
        "B: SET a 1 / A: CLIENT TRACKING ON / A: GET a / A: GETDEL a / A: GET a"
        " / A: SET a 1 GET / A: GET a / A: APPEND a x / A: GET a / A: INCR a / A: GET b"
        " / A: RENAME a b / A: GET b / A: COPY b c / A: GET c / A: DEL b c / A: SSUBSCRIBE x"
    ),
]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A redis-server that nobody else uses."""
    with redis_server() as running:
        yield running


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("protocol", [2, 3])
def test_it_is_as_in_redis(server: RedisServer, case: str, protocol: int) -> None:
    assert compare(case, protocol, server) == []
