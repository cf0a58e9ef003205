"""Users and what they may do, as in Redis."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.oracle.conversations import compare
from tests.redis_server import RedisServer, redis_server

CASES = [
    (
        "A: ACL WHOAMI / A: ACL LIST / A: ACL USERS / A: ACL GETUSER default"
        " / A: ACL SETUSER alice / A: ACL LIST / A: ACL GETUSER alice"
        " / A: ACL SETUSER alice on >pw ~a* %R~b %W~c &ch* +@read (~x +get) / A: ACL LIST"
        " / A: ACL GETUSER alice / A: ACL USERS / A: ACL GETUSER nosuch"
        " / A: ACL DELUSER alice bob / A: ACL DELUSER default / A: ACL USERS"
    ),
    (
        "A: ACL CAT nosuch / A: ACL CAT / A: ACL CAT a b / A: ACL GENPASS 0"
        " / A: ACL GENPASS 4097 / A: ACL GENPASS x / A: ACL GENPASS 1 2 / A: ACL LOG x"
        " / A: ACL LOG 1 2 / A: ACL LOG RESET / A: ACL LOG / A: ACL LOAD / A: ACL SAVE"
        " / A: ACL / A: ACL nosuch / A: ACL SETUSER / A: ACL SETUSER 'a b'"
        " / A: ACL DRYRUN default get x / A: ACL DRYRUN nosuch get x"
        " / A: ACL DRYRUN default nosuch / A: ACL DRYRUN default get / A: ACL DRYRUN default"
    ),
    (
        "A: ACL SETUSER bob +@all -@write / A: ACL GETUSER bob"
        " / A: ACL SETUSER bob -@all +@all -set / A: ACL GETUSER bob"
        " / A: ACL SETUSER bob reset / A: ACL GETUSER bob"
        " / A: ACL SETUSER bob allcommands allkeys allchannels nopass / A: ACL LIST"
        " / A: ACL SETUSER bob nosuch / A: ACL SETUSER bob +nosuch"
        " / A: ACL SETUSER bob +@nosuch / A: ACL SETUSER bob <x / A: ACL SETUSER bob #abc"
        " / A: ACL SETUSER bob ~* ~a / A: ACL SETUSER bob %X~a / A: ACL SETUSER bob &* &a"
        " / A: ACL SETUSER bob ( / A: ACL SETUSER bob +config|nosuch"
        " / A: ACL SETUSER bob -config|get|x / A: ACL SETUSER bob +config|get|x"
        " / A: ACL SETUSER bob +config| / A: ACL SETUSER bob +"
        " / A: ACL SETUSER bob resetkeys %X~a / A: ACL SETUSER bob resetkeys %"
        " / A: ACL SETUSER bob resetkeys %~a / A: ACL SETUSER bob resetkeys '~a b'"
        " / A: ACL SETUSER bob resetkeys resetchannels %R~a %W~a ~b &x &x &y"
        " / A: ACL GETUSER bob / A: ACL SETUSER bob >a >b >a / A: ACL GETUSER bob"
        " / A: ACL SETUSER bob <a / A: ACL GETUSER bob / A: ACL SETUSER bob nopass"
        " / A: ACL GETUSER bob"
        " / A: ACL SETUSER bob resetpass clearselectors skip-sanitize-payload / A: ACL LIST"
        " / A: ACL DELUSER bob"
    ),
    (
        "A: ACL SETUSER al on >p ~a* &c* +get +set +publish +subscribe +psubscribe +ssubscribe"
        " +spublish +config|get +ping +select|1 +mget +copy +sunionstore +client|list %R~r %W~w"
        " / B: AUTH al x / B: AUTH al p / B: GET a / B: GET b / B: SET a 1 / B: INCR a"
        " / B: CONFIG GET nosuch / B: CONFIG SET a b / B: PUBLISH c 1 / B: PUBLISH d 1"
        " / B: GET r / B: SET r 1 / B: SET w 1 / B: GET w / B: SET w 1 GET / B: COPY r w"
        " / B: COPY w r / B: MGET a r / B: MGET a w / B: SUNIONSTORE w r a"
        " / B: SUNIONSTORE r r / B: SELECT 1 / B: SELECT 2 / B: SELECT 0 / B: SPUBLISH d 1"
        " / B: SPUBLISH c 1 / B: SSUBSCRIBE d / B: nosuch / B: GET / B: CLIENT ID"
        " / B: AUTH al p / B: SUBSCRIBE c d / B: SUBSCRIBE c / B: PSUBSCRIBE c*"
        " / B: PSUBSCRIBE c / B: UNSUBSCRIBE / B: RESET / B: ACL WHOAMI / A: ACL DELUSER al"
    ),
    (
        ""
        "A: ACL SETUSER al on >p ~a* +get (~b* +set +get) (~c +@read) &x +publish (&y* +publish)"
        " / B: AUTH al p / B: GET a / B: SET a 1 / B: SET b 1 / B: GET b / B: STRLEN c"
        " / B: SET c 1 / B: PUBLISH x 1 / B: PUBLISH yy 1 / B: PUBLISH z 1"
        " / A: ACL DRYRUN al get d / A: ACL DRYRUN al set a 1 / A: ACL DRYRUN al publish z 1"
        " / A: ACL DRYRUN al incr a / A: ACL DRYRUN al config set a b"
        " / A: ACL DRYRUN al get a / A: ACL SETUSER al resetkeys / B: GET a / B: GET b"
        " / A: ACL SETUSER al clearselectors / B: GET b / A: ACL SETUSER al off / B: GET b"
        " / C: AUTH al p / A: ACL DELUSER al / B: PING"
    ),
    (
        "A: ACL SETUSER al on >p allcommands allkeys / B: AUTH al p / B: GET a"
        " / B: SUBSCRIBE x / A: ACL SETUSER al &* / B: SUBSCRIBE x"
        " / A: ACL SETUSER al resetchannels / A: PUBLISH x 1 / B: PING / A: ACL DELUSER al"
    ),
    (
        "A: ACL SETUSER default -get / A: GET a / A: ACL LIST / A: ACL SETUSER default +@all"
        " / A: GET a / A: ACL LIST / A: ACL SETUSER default >x / B: PING / B: AUTH x"
        " / A: PING / C: AUTH default y / C: AUTH default x / A: ACL SETUSER default nopass"
        " / A: CONFIG SET requirepass foo / D: PING / D: GET a / D: AUTH x / D: AUTH foo"
        " / A: CONFIG GET requirepass / A: ACL LIST / A: CONFIG SET requirepass ''"
        " / A: ACL LIST / E: PING / E: AUTH x / A: CONFIG GET acl-pubsub-default"
    ),
]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A redis-server without users."""
    with redis_server() as running:
        yield running


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("protocol", [2, 3])
def test_it_is_as_in_redis(server: RedisServer, case: str, protocol: int) -> None:
    assert compare(case, protocol, server) == []
