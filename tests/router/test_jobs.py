"""Jobs at a router: each sees its own keys, proves who it is, and ends."""

from __future__ import annotations

import trio
import trio.lowlevel
from trio.testing import trio_test

from pocketkv.tokens import job_token, member_proof
from tests.engine.harness import Engine
from tests.replies import Error
from tests.router.support import SECRET, run_cluster

JOB_A = "alpha-0000000000000001"
JOB_B = "beta-0000000000000002"


@trio_test
async def test_jobs_with_the_same_keys_do_not_meet() -> None:
    async with run_cluster(3) as cluster:
        cluster.place({0: 1.0, 1: 1.0}, JOB_A)
        cluster.place({1: 1.0, 2: 1.0}, JOB_B)
        clients = {job: await cluster.login(job) for job in (JOB_A, JOB_B)}
        clients["default"] = await cluster.connect()
        keys = [f"k{n}" for n in range(30)]
        for job, client in clients.items():
            assert await client.call("MSET", *[w for k in keys for w in (k, job)]) == "OK"
        assert await clients[JOB_A].call("SET", "own", 1) == "OK"
        for job, client in clients.items():
            assert await client.call("MGET", *keys) == [job.encode()] * len(keys)
            assert await client.call("DBSIZE") == len(keys) + (job == JOB_A)
            assert len(await client.call("KEYS", "*")) == len(keys) + (job == JOB_A)
            text = await client.call("INFO", "keyspace")
            assert b"keys=%d," % (len(keys) + (job == JOB_A)) in text
        assert await clients[JOB_B].call("FLUSHALL") == "OK"
        assert await clients[JOB_B].call("RANDOMKEY") is None
        assert await clients[JOB_A].call("DBSIZE") == len(keys) + 1
        assert await clients["default"].call("DBSIZE") == len(keys)


@trio_test
async def test_a_token_is_not_wrong_because_the_router_has_no_map_yet() -> None:
    async with run_cluster(1, is_placed=False) as cluster:
        client = await cluster.connect()
        no_map = "CLUSTERDOWN The router has no map yet: it has not reached the controller"
        assert await client.call("AUTH", JOB_A, job_token(SECRET, JOB_A)) == Error(no_map)
        wrong = Error("WRONGPASS invalid username-password pair or user is disabled.")
        assert await client.call("AUTH", JOB_A, job_token(SECRET, JOB_B)) == wrong
        cluster.place({0: 1.0}, JOB_A)
        assert await client.call("AUTH", JOB_B, job_token(SECRET, JOB_B)) == wrong
        assert await client.call("AUTH", JOB_A, job_token(SECRET, JOB_A)) == "OK"


@trio_test
async def test_a_wrong_token_opens_nothing() -> None:
    async with run_cluster(2, require_auth=True) as cluster:
        cluster.place({0: 1.0, 1: 1.0}, JOB_A)
        client = await cluster.connect()
        assert await client.call("GET", "k") == Error("NOAUTH Authentication required.")
        assert await client.call("JOB.LIST") == Error("NOAUTH Authentication required.")
        for job, token in (
            (JOB_A, "guess"),
            (JOB_A, job_token(SECRET, JOB_B)),
            (JOB_B, job_token(SECRET, JOB_B)),
        ):
            reply = await client.call("AUTH", job, token)
            assert reply == Error("WRONGPASS invalid username-password pair or user is disabled.")
        assert await client.call("AUTH", JOB_A, job_token(SECRET, JOB_A)) == "OK"
        assert await client.call("SET", "k", "v") == "OK"
        default = await cluster.connect()
        assert await default.call("AUTH", "default", job_token(SECRET, "default")) == "OK"
        assert await default.call("GET", "k") is None


@trio_test
async def test_a_client_that_changes_its_job_changes_its_keys() -> None:
    async with run_cluster(2) as cluster:
        cluster.place({0: 1.0, 1: 1.0}, JOB_A)
        client = await cluster.connect()
        replies = await client.call_all(
            [
                ["SET", "k", "default"],
                ["AUTH", JOB_A, job_token(SECRET, JOB_A)],
                ["GET", "k"],
                ["SET", "k", "alpha"],
                ["RESET"],
                ["GET", "k"],
            ]
        )
        assert replies == ["OK", "OK", None, "OK", "RESET", b"default"]


@trio_test
async def test_when_a_job_ends_its_clients_and_lanes_do() -> None:
    async with run_cluster(2) as cluster:
        cluster.place({0: 1.0, 1: 1.0}, JOB_A)
        client, other = await cluster.login(JOB_A), await cluster.connect()
        keys = [f"k{n}" for n in range(20)]
        await client.call("MSET", *[w for k in keys for w in (k, "v")])
        await other.call("MSET", *[w for k in keys for w in (k, "v")])
        cluster.epoch += 1
        cluster.router.node.topology.end_job(JOB_A, cluster.epoch)
        cluster.server.apply([], [JOB_A])
        assert await client.receive_raw() == b""
        for upstream in cluster.router.upstreams.values():
            assert {key[0] for key in upstream.lanes} == {"default"}
        assert await other.call("MGET", *keys) == [b"v"] * len(keys)
        late = await cluster.connect()
        reply = await late.call("AUTH", JOB_A, job_token(SECRET, JOB_A))
        assert reply == Error("WRONGPASS invalid username-password pair or user is disabled.")


@trio_test
async def test_a_server_that_has_not_heard_of_the_job_is_asked_again() -> None:
    async with run_cluster(2) as cluster:
        placement = cluster.plan({0: 1.0, 1: 1.0}, JOB_A)
        cluster.tell_router(placement)
        client = await cluster.login(JOB_A)
        await client.send("SET", "k", "v")
        await client.send("GET", "k")
        with trio.fail_after(5):
            while not cluster.router.counters.retries:
                await trio.lowlevel.checkpoint()
        cluster.tell_storage(placement)
        assert [await client.receive(), await client.receive()] == ["OK", b"v"]


# --- the proof of being a router ---------------------------------------------------------------


def test_only_who_has_the_secret_becomes_a_proxy() -> None:
    engine = Engine(secret=SECRET)
    client = engine.connect()
    challenge = client("POCKETKV.PROXY")
    assert not client.session.proxied
    assert client("POCKETKV.PROXY", "router", "guess") == Error(
        "NOPERM the proof is not one of this cluster"
    )
    wrong = member_proof(bytes(32), "router", challenge)
    assert isinstance(client("POCKETKV.PROXY", "router", wrong), Error)
    proof = member_proof(SECRET, "router", challenge)
    assert isinstance(client("POCKETKV.PROXY", "another", proof), Error)
    assert not client.session.proxied
    assert client("POCKETKV.PROXY", "router", proof) == "OK"
    assert client.session.proxied


def test_a_proof_is_worth_nothing_on_another_connection() -> None:
    engine = Engine(secret=SECRET)
    first, second = engine.connect(), engine.connect()
    proof = member_proof(SECRET, "router", first("POCKETKV.PROXY"))
    assert isinstance(second("POCKETKV.PROXY", "router", proof), Error)
    assert first("POCKETKV.PROXY") != second("POCKETKV.PROXY")


def test_without_a_secret_nobody_becomes_a_proxy() -> None:
    client = Engine().connect()
    reply = Error("ERR this server is in no cluster that has a secret")
    assert client("POCKETKV.PROXY") == reply
    assert client("POCKETKV.PROXY", "router", "") == reply
    assert not client.session.proxied


def test_a_proxy_takes_an_id_and_a_proof() -> None:
    client = Engine(secret=SECRET).connect()
    for arguments in (["a"], ["a", "b", "c"]):
        assert client("POCKETKV.PROXY", *arguments) == Error(
            "ERR wrong number of arguments for 'pocketkv.proxy' command"
        )
