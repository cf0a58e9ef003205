"""Users of jobs: how they log in, what is kept apart, what ACL LOG tells; and MONITOR."""

from __future__ import annotations

import re

import pytest

from pocketkv.tokens import job_token
from tests.engine.harness import BLOCKED, Client, Engine
from tests.replies import Error, decode, split_replies

SECRET = bytes(range(32))
JOB = "sort-0123456789abcdef"


@pytest.fixture
def cluster() -> Engine:
    """A server of a cluster that has a job beside `default`."""
    engine = Engine(secret=SECRET)
    engine.node.clustered = True
    engine.own_only([(0, 16383)], JOB)
    return engine


def of_job(engine: Engine) -> Client:
    """Who has the job's token."""
    client = engine.connect()
    assert client("AUTH", JOB, job_token(SECRET, JOB)) == "OK"
    return client


def test_a_jobs_user_logs_in_with_the_jobs_id(cluster: Engine) -> None:
    owner = of_job(cluster)
    assert owner("ACL", "WHOAMI") == b"default"
    assert owner("ACL", "SETUSER", "alice", "on", ">pw", "~a*", "+get") == "OK"
    client = cluster.connect()
    assert client("AUTH", "alice", "pw").text.startswith("WRONGPASS")
    assert client("AUTH", f"{JOB}/alice", "wrong").text.startswith("WRONGPASS")
    assert client("AUTH", f"{JOB}/alice", "pw") == "OK"
    owner("SET", "a", "1")
    assert client("GET", "a") == b"1"
    assert client("SET", "a", "2").text.startswith("NOPERM")
    assert client("GET", "b").text.startswith("NOPERM")
    assert b"user=%b/alice " % JOB.encode() in owner("CLIENT", "LIST")
    assert owner("CLIENT", "KILL", "USER", f"{JOB}/alice") == 1
    assert client.transport.closed


def test_a_failed_login_opens_no_door() -> None:
    engine = Engine(secret=SECRET, require_auth=True)
    engine.own_only([(0, 16383)], JOB)
    client = engine.connect()
    for name in ("default", "nosuch", f"{JOB}/default", "/default", f"{JOB}/"):
        for _ in range(2):
            assert client("AUTH", name, "x").text.startswith("WRONGPASS")
    assert client("PING").text.startswith("NOAUTH")


def test_users_of_one_job_are_none_of_another(cluster: Engine) -> None:
    of_job(cluster)("ACL", "SETUSER", "alice", "on", ">pw")
    other = cluster.connect()
    assert other("ACL", "USERS") == [b"default"]
    assert other("ACL", "GETUSER", "alice") is None
    assert other("ACL", "DELUSER", "alice") == 0


def test_in_a_cluster_the_owner_of_a_job_stays_it(cluster: Engine) -> None:
    owner = of_job(cluster)
    assert "has the job's token" in owner("ACL", "SETUSER", "default", "off").text
    assert "tokens of jobs" in owner("CONFIG", "SET", "requirepass", "x").text
    assert owner("CONFIG", "SET", "requirepass", "") == "OK"


def test_rights_that_change_count_at_once(cluster: Engine) -> None:
    owner, client = of_job(cluster), cluster.connect()
    owner("ACL", "SETUSER", "alice", "on", ">pw", "allkeys", "allcommands", "allchannels")
    client("AUTH", f"{JOB}/alice", "pw")
    assert not client.session.guarded
    assert client("SET", "a", "1") == "OK"
    owner("ACL", "SETUSER", "alice", "-set")
    assert client("SET", "a", "1").text.startswith("NOPERM")
    owner("ACL", "SETUSER", "alice", "+set")
    assert client("SET", "a", "1") == "OK"
    owner("ACL", "DELUSER", "alice")
    assert client.transport.closed


def test_the_log_counts_what_is_repeated_and_forgets_the_oldest(engine: Engine) -> None:
    owner, client = engine.connect(protocol=3), engine.connect()
    owner("CONFIG", "SET", "acllog-max-len", "2")
    owner("ACL", "SETUSER", "alice", "on", "nopass", "+get", "~a")
    client("AUTH", "alice", "any")
    for request in (["GET", "b"], ["GET", "b"], ["SET", "a", "1"]):
        client(*request)
    engine.advance(1500)
    first, second = owner("ACL", "LOG")
    assert (first[b"reason"], first[b"object"], first[b"count"]) == (b"command", b"set", 1)
    assert (second[b"reason"], second[b"object"], second[b"count"]) == (b"key", b"b", 2)
    assert second[b"age-seconds"] == 1.5
    assert second[b"username"] == b"alice"
    assert b"user=alice " in second[b"client-info"]
    owner("AUTH", "bob", "x")
    assert [entry[b"object"] for entry in owner("ACL", "LOG")] == [b"AUTH", b"set"]
    engine.advance(61_000)
    client("SET", "a", "1")
    assert [entry[b"count"] for entry in owner("ACL", "LOG")] == [1, 1]


def test_passwords_are_shown_as_hashes_only(engine: Engine) -> None:
    owner = engine.connect()
    owner("ACL", "SETUSER", "alice", ">secret")
    assert b"secret" not in owner("ACL", "LIST")[0]
    assert len(owner("ACL", "GENPASS")) == 64
    assert owner("ACL", "GENPASS") != owner("ACL", "GENPASS")
    assert len(owner("ACL", "GENPASS", 9)) == 3


# --- MONITOR -----------------------------------------------------------------------------------


def test_a_monitor_is_shown_its_job_and_an_administrator_all(cluster: Engine) -> None:
    cluster.node.admin_password = b"pw"
    mine, stranger, admin = of_job(cluster), cluster.connect(), cluster.connect()
    admin("AUTH", "admin", "pw")
    cluster.space.own_everything()
    assert mine("MONITOR") == "OK"
    assert admin("MONITOR") == "OK"
    stranger("SET", 'a"\\\n\x01', "1")
    of_job(cluster)("GET", "b")
    stranger("CONFIG", "GET", "timeout")
    (seen,) = lines(mine)
    assert re.fullmatch(r'\d+\.\d{6} \[0 127\.0\.0\.1:50000\] "GET" "b"', seen)
    first, auth, second = lines(admin)
    assert auth.endswith('"AUTH" "(redacted)" "(redacted)"')
    assert first.endswith(r'"SET" "a\"\\\n\x01" "1"')
    assert second.endswith('"GET" "b"')
    assert mine.raw("MONITOR") == b""
    mine("RESET")
    assert mine("PING") == "PONG"
    of_job(cluster)("GET", "b")
    assert lines(mine) == []


def lines(client: Client) -> list[str]:
    return [decode(raw) for raw in split_replies(client.transport.take())]


def test_who_is_gone_is_shown_nothing(engine: Engine) -> None:
    client = engine.connect()
    client("MONITOR")
    client.disconnect()
    assert engine.node.monitors == []
    assert engine.connect()("PING") not in (BLOCKED, Error(""))


def test_a_transaction_is_shown_as_it_is_executed(engine: Engine) -> None:
    monitor, client = engine.connect(), engine.connect()
    monitor("MONITOR")
    client("MULTI")
    client("SET", "a", "1")
    client("EXEC")
    assert [line.split('"')[1] for line in lines(monitor)] == ["MULTI", "SET", "EXEC"]


def test_sort_reads_keys_by_patterns_only_for_who_may_read_all(engine: Engine) -> None:
    client, one = engine.connect(), engine.connect()
    client("SET", "v1", 1)
    client("RPUSH", "mylist", 1)
    client("ACL", "SETUSER", "one", "on", "nopass", "+eval", "(+sort ~mylist)")
    assert one("AUTH", "one", "x") == "OK"
    refused = "ERR %s option of SORT denied due to insufficient ACL permissions."
    for rules in ((), ("(+sort ~mylist ~v*)",), ("(+sort ~mylist %W~*)",)):
        client("ACL", "SETUSER", "one", *rules)
        assert one("SORT", "mylist", "BY", "v*") == Error(refused % "BY")
        assert one("SORT", "mylist", "LIMIT", 0, 1, "GET", "v*") == Error(refused % "GET")
        assert one("SORT", "mylist", "BY", "nosort") == [b"1"]
    client("ACL", "SETUSER", "one", "(+sort ~mylist %R~*)")
    assert one("SORT", "mylist", "BY", "v*", "GET", "v*") == [b"1"]


def test_what_a_script_is_refused_is_in_the_log(engine: Engine) -> None:
    client, one = engine.connect(), engine.connect()
    client("ACL", "SETUSER", "one", "on", "nopass", "+eval")
    assert one("AUTH", "one", "x") == "OK"
    assert isinstance(one("EVAL", "return redis.call('incr', 'foo')", 0), Error)
    (entry,) = client("ACL", "LOG")
    shown = dict(zip(entry[::2], entry[1::2], strict=True))
    assert (shown[b"context"], shown[b"object"]) == (b"lua", b"incr")
    assert shown[b"username"] == b"one"
