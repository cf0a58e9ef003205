"""Commands about connection, server and sets' options: the same replies as a real redis-server's.

Each case is a few requests on a new connection of each. Only replies whose every byte is Redis's
are here; what is our own (INFO, CONFIG's values) is in ``tests/engine``.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from pocketkv import limits
from pocketkv.resp.encoder import encode_request
from tests.engine.harness import Client, Engine
from tests.oracle.targets import SocketTarget
from tests.redis_server import RedisServer, redis_server

CASES = [
    # connection
    "PING; PING hello; PING a b; ECHO x; ECHO; ECHO a b",
    "SELECT 1; SELECT 15; SELECT 16; SELECT -1; SELECT x; SELECT 99999999999; SELECT 1 2",
    "AUTH a; AUTH a b; AUTH default any; AUTH a b c; AUTH",
    "HELLO 4; HELLO 1; HELLO x; HELLO 9999999999999999999999; HELLO 2 nosuch; HELLO 3 AUTH x",
    "HELLO 3 SETNAME; HELLO 3 AUTH a b; HELLO 2 SETNAME 'a b'; HELLO nosuch; HELLO AUTH a b",
    "HELLO 3 AUTH default x SETNAME me; CLIENT GETNAME; PING; HELLO 2 SETNAME ''; CLIENT GETNAME",
    "CLIENT SETNAME me; SELECT 3; RESET; CLIENT GETNAME; RESET x",
    "HELLO 3; RESET; CLIENT GETNAME; CONFIG GET nosuch",
    "TIME x; ROLE; ROLE x; LASTSAVE x",
    # CLIENT
    "CLIENT; CLIENT nosuch; CLIENT nosuch a b; CLIENT 'no\nsuch'; CLIENT ID x",
    "CLIENT SETNAME; CLIENT SETNAME 'a b'; CLIENT SETNAME 'a\"b'; CLIENT GETNAME",
    "CLIENT GETNAME; CLIENT GETNAME x",
    "CLIENT KILL; CLIENT KILL 1.2.3.4:5; CLIENT KILL ID 999999; CLIENT KILL ID x",
    "CLIENT KILL ID 0; CLIENT KILL ID -1; CLIENT KILL TYPE nosuch; CLIENT KILL ADDR 1:2 ID",
    "CLIENT KILL nosuch x; CLIENT KILL USER nosuch; CLIENT KILL SKIPME maybe; CLIENT KILL ADDR 1:2",
    "CLIENT KILL TYPE pubsub; CLIENT KILL TYPE replica SKIPME no; CLIENT KILL LADDR 1:2 ID 7",
    "CLIENT KILL USER default SKIPME yes TYPE master",
    "CLIENT LIST nosuch; CLIENT LIST TYPE nosuch; CLIENT LIST ID; CLIENT LIST ID x",
    "CLIENT LIST ID 999999; CLIENT LIST TYPE; CLIENT LIST TYPE normal x; CLIENT LIST TYPE slave",
    "CLIENT LIST ID 1 TYPE normal; CLIENT LIST TYPE pubsub ID 3; CLIENT INFO x",
    "CLIENT PAUSE; CLIENT PAUSE x; CLIENT PAUSE -1; CLIENT PAUSE 10 nosuch; CLIENT PAUSE -1 nosuch",
    "CLIENT PAUSE 10 ALL x; CLIENT PAUSE 99999999999999999999; CLIENT UNPAUSE; CLIENT UNPAUSE x",
    "CLIENT PAUSE 100000 WRITE; CLIENT UNPAUSE; SADD a 1",
    "CLIENT PAUSE 100000 WRITE; SCRIPT LOAD x; SCRIPT FLUSH; SCRIPT EXISTS x; CLIENT UNPAUSE",
    "CLIENT NO-EVICT nosuch; CLIENT NO-EVICT on; CLIENT NO-EVICT OFF; CLIENT NO-EVICT",
    "CLIENT REPLY nosuch; CLIENT REPLY; CLIENT REPLY ON; CLIENT REPLY OFF x",
    "CLIENT REPLY SKIP; PING a; PING b; CLIENT REPLY SKIP; nosuch; PING c",
    "CLIENT REPLY OFF; PING a; nosuch; CLIENT REPLY SKIP; CLIENT REPLY ON; PING b",
    (
        "CLIENT REPLY SKIP; CLIENT REPLY ON; PING; CLIENT REPLY SKIP; CLIENT REPLY SKIP; PING a; "
        "PING b"
    ),
    "CLIENT REPLY SKIP; CLIENT REPLY nosuch; PING; CLIENT REPLY OFF; RESET; PING",
    "CLIENT TRACKING nosuch; CLIENT TRACKING off; CLIENT TRACKING off BCAST; CLIENT TRACKING",
    "CLIENT TRACKING on BCAST PREFIX; CLIENT TRACKING off nosuch; CLIENT TRACKING on nosuch",
    "CLIENT CACHING yes; CLIENT CACHING nosuch; CLIENT GETREDIR; CLIENT TRACKINGINFO",
    (
        "CLIENT UNBLOCK x; CLIENT UNBLOCK 999999; CLIENT UNBLOCK 999999 nosuch; "
        "CLIENT UNBLOCK 1 ERROR x"
    ),
    "CLIENT UNBLOCK 999999 timeout; CLIENT UNBLOCK 999999 ERROR; CLIENT UNBLOCK x nosuch",
    # CONFIG
    "CONFIG; CONFIG nosuch; CONFIG GET; CONFIG GET nosuch; CONFIG GET SAVE; CONFIG GET s[a]ve",
    "CONFIG GET hash-max-zip*es; CONFIG GET set-max-intset-entries; CONFIG GET databases DATABASES",
    "CONFIG GET appendonly; CONFIG GET timeout; CONFIG GET slave-read-only",
    "CONFIG GET proto-max-bulk-len; CONFIG GET maxmemory-policy; CONFIG GET slowlog*len",
    (
        "CONFIG SET timeout; CONFIG SET nosuch x; CONFIG SET timeout 1 nosuch x; "
        "CONFIG SET timeout 1 a"
    ),
    "CONFIG SET databases 1; CONFIG SET databases 1 nosuch x; CONFIG SET nosuch 1 databases x",
    (
        "CONFIG SET timeout x; CONFIG SET timeout -1; CONFIG SET timeout 99999999999; "
        "CONFIG SET TIMEOUT x"
    ),
    "CONFIG SET timeout 1 timeout 2; CONFIG SET timeout x databases 1; CONFIG SET timeout 010",
    "CONFIG SET maxmemory 123456789 maxmemory 123456789; CONFIG SET maxmemory 1 maxmemory 2",
    "CONFIG SET maxmemory x; CONFIG SET maxmemory -1; CONFIG SET maxmemory 1.5gb",
    "CONFIG SET set-max-intset-entries -1; CONFIG SET list-max-listpack-size 99999999999",
    "CONFIG SET hash-max-listpack-value x; CONFIG SET slowlog-max-len -1; CONFIG SET save ''",
    "CONFIG SET proto-max-bulk-len 1; CONFIG SET appendonly no save ''; CONFIG SET save '' save ''",
    "CONFIG SET zset-max-ziplist-entries 7; CONFIG GET zset-max-listpack-entries",
    "CONFIG SET stream-node-max-bytes 4kb; CONFIG GET stream-node-max-bytes; CONFIG SET timeout 0",
    "CONFIG SET slowlog-log-slower-than 1000000; CONFIG GET SLOWLOG-log-slower-than",
    "CONFIG SET HASH-MAX-ZIPLIST-ENTRIES x; CONFIG SET DATABASES 1",
    "CONFIG RESETSTAT; CONFIG RESETSTAT x; CONFIG REWRITE",
    # MEMORY, SLOWLOG, LATENCY
    "MEMORY; MEMORY nosuch; MEMORY USAGE; MEMORY USAGE nosuch; MEMORY USAGE a SAMPLES",
    "MEMORY USAGE a SAMPLES x; MEMORY USAGE a SAMPLES -1; MEMORY USAGE a nosuch 1; MEMORY PURGE",
    "MEMORY USAGE a SAMPLES 0; MEMORY MALLOC-STATS x; MEMORY DOCTOR x; MEMORY STATS x",
    (
        "SLOWLOG; SLOWLOG nosuch; SLOWLOG RESET; SLOWLOG LEN; SLOWLOG GET; SLOWLOG GET 0; "
        "SLOWLOG GET -1"
    ),
    "SLOWLOG GET -2; SLOWLOG GET x; SLOWLOG GET 1 2; SLOWLOG LEN x",
    "LATENCY; LATENCY nosuch; LATENCY LATEST; LATENCY HISTORY x; LATENCY RESET; LATENCY RESET x y",
    "LATENCY GRAPH nosuch; LATENCY HISTOGRAM nosuch; LATENCY HISTORY",
    "DEBUG POPULATE 2; GET key:0; DEBUG POPULATE 2 p 10; GET p:0; DEBUG POPULATE 3 k 3; GET k:2",
    "DEBUG POPULATE x; DEBUG POPULATE; DEBUG POPULATE 1 a b c; DEBUG CHANGE-REPL-ID",
    "LATENCY RESET; LATENCY LATEST; CONFIG GET latency-monitor-threshold; MODULE LIST",
    # the server
    "LOLWUT; LOLWUT VERSION x; LOLWUT VERSION 1; SHUTDOWN nosuch; BGSAVE nosuch; FAILOVER",
    "REPLICAOF no one; REPLICAOF NO ONE x; REPLICAOF a x; SLAVEOF NO one; SAVE x",
    "WAIT 0 0; WAIT x 0; WAIT 1 x; WAIT 1 -1; WAIT -1 5; WAIT 1; WAIT 1 1; PING",
    "INFO nosuch; TIME x; nosuch; nosuch a b c; 'no\nsuch' x; CLUSTER nosuch; COMMAND nosuch",
    # sets
    (
        "SADD a 3 1 2; SMEMBERS a; SPOP a -1; SPOP a x; SPOP a 1 2; SPOP a 0; SPOP nosuch; "
        "SPOP nosuch 1"
    ),
    "SADD a 1; SPOP a 5; EXISTS a; SRANDMEMBER nosuch; SRANDMEMBER nosuch 1; SRANDMEMBER nosuch -1",
    (
        "SRANDMEMBER a x; SRANDMEMBER a -9223372036854775808; SRANDMEMBER a 1 2; SADD b x; "
        "SRANDMEMBER b"
    ),
    "SADD b x; SRANDMEMBER b 5; SRANDMEMBER b 0; SRANDMEMBER b -2; SRANDMEMBER b",
    "SADD a 1 2 3; SADD b 2 3 4; SUNION a b; SINTER a b; SDIFF a b; SINTERCARD 2 a b LIMIT 1",
    "SET s x; SADD s 1; SADD a 1; SMOVE a s 1; SMOVE nosuch s 1; SINTER nosuch s; SMISMEMBER s 1",
    "SADD a 1 x; SSCAN a 0 COUNT 100 MATCH [0-9]; SSCAN a x; SSCAN nosuch 0 nosuch; SSCAN s 0",
    "SADD a 1; OBJECT ENCODING a; SADD a x; OBJECT ENCODING a; SREM a x; OBJECT ENCODING a",
    "SADD a 5 -3 10 9223372036854775807 -9223372036854775808; SMEMBERS a; SADD a 07; SCARD a",
]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A redis-server that nobody else uses, since some cases change its settings."""
    with redis_server() as running:
        yield running


def requests_of(case: str) -> list[list[bytes]]:
    """The requests of a case, as a client sends them."""
    return [[word.encode() for word in shlex.split(part)] for part in case.split(";")]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("protocol", [2, 3])
def test_replies_are_as_redis_s(server: RedisServer, case: str, protocol: int) -> None:
    requests = requests_of(case)
    engine = Engine()
    client = engine.connect(protocol=protocol)
    with server.connect() as sock:
        target = SocketTarget(sock)
        target.begin(protocol, 0)
        silent = [r[:2] == [b"CLIENT", b"REPLY"] for r in requests]
        if any(silent):
            theirs = [read_all(target, requests)]
            ours = [b"".join(client.raw(*request) for request in requests) + mark(client)]
        else:
            theirs = target.run(requests)
            ours = [answer(engine, client, request) for request in requests]
    assert [without_id(reply) for reply in ours] == [without_id(reply) for reply in theirs]


def answer(engine: Engine, client: Client, request: list[bytes]) -> bytes:
    """Our reply; time passes while a command blocks."""
    raw = client.raw(*request)
    if not raw:
        engine.advance(1000)
        raw = client.transport.take()
    return raw


MARK = b"$11\r\nend of case\r\n"


def mark(client: Client) -> bytes:
    """What the requests that `read_all` adds are answered with."""
    return client.raw("CLIENT", "REPLY", "ON") + MARK


def read_all(target: SocketTarget, requests: list[list[bytes]]) -> bytes:
    """Everything that is sent in reply: there are fewer replies than requests."""
    ending = [[b"CLIENT", b"REPLY", b"ON"], [b"ECHO", b"end of case"]]
    target.socket.sendall(b"".join(map(encode_request, [*requests, *ending])))
    data = b""
    while not data.endswith(MARK):
        received = target.socket.recv(1 << 16)
        assert received, "the connection was closed"
        data += received
    return data


def without_id(reply: bytes) -> bytes:
    """HELLO's reply without the connection's id."""
    before, word, after = reply.partition(b"$2\r\nid\r\n")
    return before + word + after.partition(b"\r\n")[2] if word else reply


def test_an_unauthenticated_client_is_told_what_redis_tells() -> None:
    requests = requests_of(
        "PING; GET a; HELLO; HELLO 3; HELLO 3 SETNAME x; nosuch; GET; AUTH x; AUTH a x; QUIT x"
    )
    client = Engine(require_auth=True, secret=b"s" * 32).connect()
    ours = [client.raw(*request) for request in requests]
    with redis_server() as running:
        with running.connect() as sock:
            assert SocketTarget(sock).run([[b"CONFIG", b"SET", b"requirepass", b"secret"]])
        with running.connect() as sock:
            theirs = SocketTarget(sock).run(requests)
    assert ours == theirs


def test_limits_are_redis_s() -> None:
    assert limits.DATABASES == 16
