"""Who a client is, which clients it sees, pauses, replies. Error texts: see ``tests/oracle``."""

from __future__ import annotations

import pytest

from pocketkv.placement import PlacementMap, SlotRange
from pocketkv.slots import SLOT_COUNT
from pocketkv.tokens import job_token
from tests.engine.harness import BLOCKED, NODE_ID, Client, Engine
from tests.replies import Error

SECRET = b"s" * 32
JOB = "sort-0123456789abcdef"
WRONG_PASS = Error("WRONGPASS invalid username-password pair or user is disabled.")
NO_AUTH = Error("NOAUTH Authentication required.")


def with_job(*, require_auth: bool = False, admin_password: bytes = b"") -> Engine:
    """A server that knows one job beside `default`."""
    engine = Engine(secret=SECRET, require_auth=require_auth)
    engine.node.admin_password = admin_password
    engine.topology.set_placement(
        PlacementMap(
            job_id=JOB,
            epoch=2,
            ranges=(SlotRange(0, SLOT_COUNT - 1, NODE_ID),),
            quotas={NODE_ID: None},
            weights={NODE_ID: 1.0},
        )
    )
    engine.keyspace.open(JOB).own_everything()
    return engine


# --- HELLO and AUTH ----------------------------------------------------------------------------


def test_hello_tells_what_clients_decide_by(client: Client) -> None:
    assert client("HELLO", "3") == {
        b"server": b"redis",
        b"version": b"7.0.15",
        b"proto": 3,
        b"id": client.session.id,
        b"mode": b"standalone",
        b"role": b"master",
        b"modules": [],
    }
    client.engine.node.clustered = True
    assert client("HELLO")[b"mode"] == b"cluster"


def test_a_job_is_entered_with_its_token() -> None:
    engine = with_job()
    client, other = engine.connect(), engine.connect()
    other("SET", "k", "of default")
    assert client("AUTH", JOB, job_token(SECRET, JOB)) == "OK"
    assert client("GET", "k") is None
    client("SET", "k", "of the job")
    assert other("GET", "k") == b"of default"
    assert client("DBSIZE") == other("DBSIZE") == 1


@pytest.mark.parametrize(
    ("user", "token"),
    [
        (JOB, "x"),
        (JOB, ""),
        (JOB, job_token(SECRET, "other-0123456789abcdef")),
        ("unknown-0123456789abcdef", job_token(SECRET, "unknown-0123456789abcdef")),
        (b"\xff\xfe", "x"),
        ("admin", "x"),
        ("", ""),
    ],
)
def test_a_wrong_token_changes_nothing(user: str | bytes, token: str) -> None:
    client = with_job().connect()
    client("SET", "k", "1")
    assert client("AUTH", user, token) == WRONG_PASS
    assert client("HELLO", "3", "AUTH", user, token, "SETNAME", "x") == WRONG_PASS
    assert client("GET", "k") == b"1"
    assert client("CLIENT", "GETNAME") is None


def test_hello_authenticates_names_and_chooses_the_protocol() -> None:
    client = with_job(require_auth=True).connect()
    assert client("HELLO", 3).text.startswith("NOAUTH HELLO must be called with the client already")
    reply = client("HELLO", 3, "AUTH", JOB, job_token(SECRET, JOB), "SETNAME", "me")
    assert reply[b"proto"] == 3
    assert client("CLIENT", "GETNAME") == b"me"
    assert client.session.job_id == JOB


def test_a_job_is_registered_without_a_token() -> None:
    client = with_job(require_auth=True).connect()
    for request in (("GET", "k"), ("JOB.LIST",), ("JOB.RETAIN", "k"), ("JOB.DEREGISTER", "x")):
        assert client(*request) == Error("NOAUTH Authentication required.")
    # Let in, though it is the controller and not this server that executes it.
    assert client("JOB.REGISTER", "x").text.startswith("ERR jobs are administered at a router")


def is_restricted(client: Client) -> bool:
    return client.transport.restricted


def test_limits_are_tighter_before_authentication() -> None:
    engine = with_job(require_auth=True)
    client = engine.connect()
    assert is_restricted(client)
    assert client("GET", "k") == NO_AUTH
    assert client("AUTH", "default", "x") == WRONG_PASS
    assert client("AUTH", "x") == WRONG_PASS
    assert is_restricted(client)
    client("AUTH", JOB, job_token(SECRET, JOB))
    assert not is_restricted(client)
    assert client("RESET") == "RESET"
    assert is_restricted(client)
    assert client("GET", "k") == NO_AUTH


def test_reset_makes_a_new_connection_of_it() -> None:
    client = with_job().connect()
    client("HELLO", 3, "AUTH", JOB, job_token(SECRET, JOB), "SETNAME", "me")
    client("SELECT", 5)
    client("CLIENT", "NO-EVICT", "ON")
    assert client("RESET") == "RESET"
    assert client.session.job_id == "default"
    assert client.session.protocol == 2
    assert client.db.index == 0
    assert client("CLIENT", "GETNAME") is None
    assert b"flags=N " in client("CLIENT", "INFO")


def test_quit_answers_and_closes(client: Client) -> None:
    assert client("QUIT") == "OK"
    assert client.transport.closing


@pytest.mark.parametrize("line", [b"POST / HTTP/1.1\r\n", b"host: here\r\n", b"Host: x\r\n"])
def test_an_http_request_is_told_so_and_closed(line: bytes) -> None:
    client = Engine(require_auth=True).connect()
    assert client.send(line).startswith(b"-ERR this port speaks the Redis protocol, not HTTP")
    assert client.transport.closing


# --- the administrator -------------------------------------------------------------------------


def test_without_a_password_everybody_may_administer() -> None:
    client = with_job().connect()
    assert client("CONFIG", "SET", "timeout", 0) == "OK"
    assert client("AUTH", "admin", "") == WRONG_PASS


def test_with_a_password_only_the_administrator_may() -> None:
    engine = with_job(require_auth=True, admin_password=b"p\xe4ss")
    client, admin = engine.connect(), engine.connect()
    client("AUTH", JOB, job_token(SECRET, JOB))
    refusal = Error("NOPERM this user has no permissions to run the 'config|set' command")
    assert client("CONFIG", "SET", "timeout", 0) == refusal
    assert client("CONFIG", "RESETSTAT").text.startswith("NOPERM")
    assert client("CONFIG", "GET", "timeout") == [b"timeout", b"0"]
    assert admin("AUTH", "admin", b"pass") == WRONG_PASS
    assert admin("AUTH", "admin", b"p\xe4ss") == "OK"
    assert admin("CONFIG", "SET", "timeout", 0) == "OK"
    assert admin("CONFIG", "RESETSTAT") == "OK"
    assert admin("AUTH", JOB, job_token(SECRET, JOB)) == "OK"
    assert admin("CONFIG", "SET", "timeout", 0) == refusal


# --- who is there ------------------------------------------------------------------------------


def listed(client: Client) -> set[int]:
    lines = client("CLIENT", "LIST").decode().splitlines()
    return {int(line.split(" ")[0].removeprefix("id=")) for line in lines}


def test_a_job_sees_its_own_clients_only() -> None:
    engine = with_job(admin_password=b"secret")
    mine, yours, theirs = (
        engine.connect(),
        engine.connect(job_id=JOB),
        engine.connect(job_id=JOB, proxied=True),
    )
    assert listed(mine) == {mine.session.id}
    assert listed(yours) == {yours.session.id}
    admin = engine.connect()
    admin("AUTH", "admin", "secret")
    everybody = {c.session.id for c in (mine, yours, theirs, admin)}
    assert listed(admin) == everybody


def test_a_job_closes_its_own_clients_only() -> None:
    engine = with_job()
    mine, yours, second = engine.connect(), engine.connect(job_id=JOB), engine.connect()
    assert mine("CLIENT", "KILL", "ID", yours.session.id) == 0
    assert mine("CLIENT", "KILL", "USER", JOB) == Error(f"ERR No such user '{JOB}'")
    assert mine("CLIENT", "KILL", "TYPE", "normal") == 1
    assert second.transport.closed
    assert not yours.transport.closed
    assert not mine.transport.closing
    assert mine("CLIENT", "KILL", "USER", "default", "SKIPME", "no", "ID", mine.session.id) == 1
    assert mine.transport.closing


def test_a_client_is_closed_by_its_address(engine: Engine) -> None:
    client = engine.connect()
    client.session.address = "10.0.0.1:77"
    killer = engine.connect()
    killer.session.address = "10.0.0.1:78"
    assert killer("CLIENT", "KILL", "10.0.0.1:77") == "OK"
    assert client.transport.closed
    assert killer("CLIENT", "KILL", "ADDR", "10.0.0.1:78", "SKIPME", "no") == 1
    assert killer.transport.closing


def test_a_line_has_redis_s_fields(engine: Engine) -> None:
    client = engine.connect()
    client("CLIENT", "SETNAME", "me")
    client("CLIENT", "SETINFO", "LIB-NAME", "redis-py")
    client("CLIENT", "SETINFO", "lib-ver", "8.0")
    client("SELECT", 3)
    client("HELLO", 3)
    engine.advance(5000)
    text = client("CLIENT", "INFO").text
    assert text.endswith(b"\n")
    fields = dict(pair.split("=", 1) for pair in text.decode().strip().split(" "))
    assert (
        fields
        | {
            "addr": "127.0.0.1:50000",
            "laddr": "127.0.0.1:7000",
            "name": "me",
            "age": "5",
            "idle": "5",
            "flags": "N",
            "db": "3",
            "cmd": "client|info",
            "user": "default",
            "resp": "3",
            "lib-name": "redis-py",
            "lib-ver": "8.0",
        }
        == fields
    )
    assert list(fields)[:4] == ["id", "addr", "laddr", "fd"]


@pytest.mark.parametrize("value", ["a b", "a\nb", "\x00", "é"])
def test_what_would_garble_the_list_is_refused(client: Client, value: str) -> None:
    assert isinstance(client("CLIENT", "SETINFO", "lib-name", value), Error)
    assert isinstance(client("CLIENT", "SETNAME", value), Error)
    assert client("CLIENT", "SETINFO", "nosuch", "x") == Error("ERR Unrecognized option 'nosuch'")


def test_maintenance_notifications_are_refused_cleanly(client: Client) -> None:
    reply = client("CLIENT", "MAINT_NOTIFICATIONS", "ON", "moving-endpoint-type", "internal-ip")
    assert reply == Error("ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP.")


# --- pauses ------------------------------------------------------------------------------------


def test_a_pause_holds_commands_until_its_time_is_over(engine: Engine) -> None:
    client, second = engine.connect(), engine.connect()
    assert client("CLIENT", "PAUSE", 500) == "OK"
    assert second("SET", "k", 1) is BLOCKED
    assert client("GET", "k") is BLOCKED
    engine.advance(499)
    assert second.result() is BLOCKED
    engine.advance(1)
    assert second.result() == "OK"
    # In the order in which they were sent.
    assert client.result() == b"1"
    assert second("GET", "k") == b"1"


def test_a_pause_of_writes_lets_reads_go_on(engine: Engine) -> None:
    client, second = engine.connect(), engine.connect()
    client("CLIENT", "PAUSE", 100_000, "WRITE")
    assert second("GET", "k") is None
    assert second("SET", "k", 1) is BLOCKED
    assert client("CLIENT", "UNPAUSE") == "OK"
    assert second.result() == "OK"
    assert not engine.node.pauses
    assert engine.node.timers.next_ms() is None


@pytest.mark.parametrize(
    ("queued", "waits"),
    [
        (["GET", "k"], False),
        (["SET", "k", 1], True),
        (["PUBLISH", "channel", "text"], True),
        (["EVAL", "return 12", 0], True),
        (["EVAL", "#!lua\nreturn 12", 0], True),
        (["EVAL", "#!lua flags=no-writes\nreturn 12", 0], False),
        (["EVAL_RO", "return 12", 0], False),
    ],
    ids=lambda value: " ".join(map(str, value[:2])) if isinstance(value, list) else "",
)
def test_a_pause_of_writes_holds_a_transaction_that_may_write(
    engine: Engine, queued: list[object], waits: bool
) -> None:
    client, second = engine.connect(), engine.connect()
    second("MULTI")
    assert second(*queued) == "QUEUED"
    client("CLIENT", "PAUSE", 100_000, "WRITE")
    assert (second("EXEC") is BLOCKED) == waits
    assert client("CLIENT", "UNPAUSE") == "OK"
    if waits:
        assert len(second.result()) == 1


def test_no_key_is_removed_by_its_time_while_clients_are_paused(engine: Engine) -> None:
    client = engine.connect()
    client("SET", "soon", "v", "PX", 10)
    client("SET", "later", "v", "PX", 10)
    client("CLIENT", "PAUSE", 100_000, "WRITE")
    engine.advance(20)
    assert client("GET", "soon") is None
    assert not engine.node.keyspace.expire_some()
    assert (client("DBSIZE"), engine.space.stats.expired) == (2, 0)
    assert client("CLIENT", "UNPAUSE") == "OK"
    assert client("GET", "soon") is None
    engine.node.keyspace.expire_some()
    assert (client("DBSIZE"), engine.space.stats.expired) == (0, 2)


def test_a_second_pause_makes_the_first_only_stricter(engine: Engine) -> None:
    client, second = engine.connect(), engine.connect()
    client("CLIENT", "PAUSE", 1000, "WRITE")
    client("CLIENT", "PAUSE", 10, "ALL")
    assert second("GET", "k") is BLOCKED
    engine.advance(999)
    assert second.result() is BLOCKED
    engine.advance(1)
    assert second.result() is None


def test_a_pause_is_of_one_job() -> None:
    engine = with_job()
    client, yours = engine.connect(), engine.connect(job_id=JOB)
    client("CLIENT", "PAUSE", 1000)
    assert yours("SET", "k", 1) == "OK"
    assert yours("CLIENT", "UNPAUSE") == "OK"
    assert client("PING") is BLOCKED
    engine.advance(1000)
    assert client.result() == "PONG"


def test_a_client_that_goes_away_executes_nothing(engine: Engine) -> None:
    client, second = engine.connect(), engine.connect()
    client("CLIENT", "PAUSE", 1000)
    assert second("SET", "k", 1) is BLOCKED
    second.disconnect()
    engine.advance(1000)
    assert client("EXISTS", "k") == 0


def test_a_held_command_may_pause_again(engine: Engine) -> None:
    client, second, third = engine.connect(), engine.connect(), engine.connect()
    client("CLIENT", "PAUSE", 100)
    assert second("CLIENT", "PAUSE", 200) is BLOCKED
    assert third("PING") is BLOCKED
    engine.advance(100)
    assert second.result() == "OK"
    assert third.result() is BLOCKED
    engine.advance(200)
    assert third.result() == "PONG"


def test_a_held_command_keeps_its_silence(engine: Engine) -> None:
    client, second = engine.connect(), engine.connect()
    second("CLIENT", "REPLY", "OFF")
    client("CLIENT", "PAUSE", 100)
    assert second.raw("SET", "k", 1) == b""
    engine.advance(100)
    assert second.transport.take() == b""
    assert client("GET", "k") == b"1"


# --- blocked clients ---------------------------------------------------------------------------


def test_wait_waits_for_replicas_that_there_are_not(engine: Engine) -> None:
    client = engine.connect()
    assert client("WAIT", 0, 1000) == 0
    assert client("WAIT", 1, 1000) is BLOCKED
    assert engine.node.blocked_clients == 1
    engine.advance(1000)
    assert client.result() == 0
    assert engine.node.blocked_clients == 0
    assert engine.node.timers.next_ms() is None


@pytest.mark.parametrize(
    ("reason", "reply"),
    [
        ([], 0),
        (["TIMEOUT"], 0),
        (["error"], Error("UNBLOCKED client unblocked via CLIENT UNBLOCK")),
    ],
)
def test_a_blocked_client_is_unblocked(engine: Engine, reason: list[str], reply: object) -> None:
    client, second = engine.connect(), engine.connect()
    assert client("WAIT", 1, 0) is BLOCKED
    assert b"flags=b " in second("CLIENT", "LIST", "ID", client.session.id)
    assert second("CLIENT", "UNBLOCK", client.session.id, *reason) == 1
    assert client.result() == reply
    assert second("CLIENT", "UNBLOCK", client.session.id, *reason) == 0


def test_a_client_of_another_job_is_not_unblocked() -> None:
    engine = with_job()
    client, yours = engine.connect(), engine.connect(job_id=JOB)
    assert client("WAIT", 1, 0) is BLOCKED
    assert yours("CLIENT", "UNBLOCK", client.session.id) == 0
    client.disconnect()
    assert engine.node.blocked_clients == 0


def test_what_a_pause_holds_is_not_unblocked(engine: Engine) -> None:
    client, second = engine.connect(), engine.connect()
    client("CLIENT", "PAUSE", 1000, "WRITE")
    assert second("SET", "k", 1) is BLOCKED
    assert client("CLIENT", "UNBLOCK", second.session.id) == 0


# --- not touching ------------------------------------------------------------------------------


def test_no_touch_leaves_keys_as_unused_as_they_were(engine: Engine) -> None:
    client = engine.connect()
    client("SET", "k", 1)
    client("CLIENT", "NO-TOUCH", "ON")
    engine.advance(60_000)
    client("GET", "k")
    assert client("OBJECT", "IDLETIME", "k") == 60
    client("TOUCH", "k")
    assert client("OBJECT", "IDLETIME", "k") == 0
    engine.advance(60_000)
    client("CLIENT", "NO-TOUCH", "OFF")
    client("GET", "k")
    assert client("OBJECT", "IDLETIME", "k") == 0
