"""JOB, TIER and SERVER commands: what they answer, and to whom."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio

from pocketkv.controller.members import Report
from pocketkv.controller.messages import Reported
from pocketkv.controller.placements import held_slots
from pocketkv.resp.peer import Peer, RemoteError
from pocketkv.tokens import job_token
from tests.controller.builders import GIB, MIB
from tests.controller.running import LOG, SECRET, Member, Running, in_trio, plain, running

PASSWORD = "correct horse"


async def refused(peer: Peer, *command: str | int | bytes) -> str:
    with pytest.raises(RemoteError) as raised:
        await peer.call(*command)
    return str(raised.value)


async def cluster(controller: Running) -> Peer:
    """Two storage servers and a router have joined; gives a client's connection."""
    await controller.joined("a", port=7001)
    await controller.joined("b", port=7002)
    await controller.joined("r", "router", port=6379, host="router.example")
    return await controller.connect()


# --- jobs --------------------------------------------------------------------------------------


@in_trio
async def test_the_answer_to_a_registration_has_all_that_a_job_needs() -> None:
    async with running() as controller:
        client = await cluster(controller)
        reply = plain(await client.call("JOB.REGISTER", "sort", "CAPACITY", "10mb", "LEASE", 60))
        job_id, token = reply["id"], reply["token"]
        assert job_id.startswith("sort-")
        assert token == job_token(SECRET, job_id)
        assert reply["url"] == f"redis://{job_id}:{token}@router.example:6379"
        ((first, last, host, port, server_id),) = reply["placement"]
        assert (first, last, host) == (0, 16383, "127.0.0.1")
        assert (port, server_id) in {(7001, "a"), (7002, "b")}
        assert reply["epoch"] == controller.core.state.epoch
        assert reply["tiers"] == ["dram"]
        assert (reply["quota_bytes"], reply["lease_s"], reply["short"]) == (10 << 20, 60, [])


@in_trio
async def test_what_is_short_is_told_at_registration() -> None:
    async with running() as controller:
        client = await cluster(controller)
        reply = plain(await client.call("JOB.REGISTER", "sort", "CAPACITY", "4gb"))
        assert reply["short"] == ["capacity: 4gb wanted, 2gb free on dram"]
        assert reply["quota_bytes"] == 2 << 30


@in_trio
async def test_without_servers_and_routers_a_job_is_registered_all_the_same() -> None:
    async with running() as controller:
        client = await controller.connect()
        reply = plain(await client.call("JOB.REGISTER", "sort"))
        assert (reply["placement"], reply["url"]) == ([], None)
        await controller.joined("a")
        assert plain(await client.call("JOB.INFO", reply["id"]))["placement"]


@in_trio
async def test_what_is_known_of_a_job() -> None:
    async with running() as controller:
        await controller.joined("a")
        client = await controller.connect()
        hints = ("LAMBDAS", "2", "LATENCY", "tolerant", "TIERS", "dram", "nvme", "LEASE", "100")
        job_id = plain(await client.call("JOB.REGISTER", "sort", *hints))["id"]
        await controller.joined("b")
        member = await controller.joined("a")
        await member.report(**{job_id: {"used_bytes": 1000, "keys": 3, "commands": 9}})
        info = plain(await client.call("JOB.INFO", job_id))
        assert (info["name"], info["phase"]) == ("sort", "active")
        assert (info["used_bytes"], info["keys"], info["lost_keys"]) == (1000, 3, 0)
        assert info["hints"]["lambdas"] == 2
        assert info["hints"]["tiers"] == ["dram", "nvme"]
        assert info["demand"]["throughput_bytes_s"] == 150_000_000
        assert 99 < info["lease_left_s"] <= 100
        assert info["cost_usd_per_hour"] > 0
        (cost,) = info["tier_costs"]
        assert cost == {"tier": "dram", "cost_usd_per_hour": info["cost_usd_per_hour"]}
        (server,) = info["servers"]
        assert (server["id"], server["slots"], server["keys"]) == ("a", 16384, 3)
        assert "token" not in info
        # What it moves out to S3 costs it more, though it uses no more here.
        dear = {"used_bytes": 1000, "keys": 3, "commands": 9, "s3_bytes": 5 << 40}
        await member.report(**{job_id: dear})
        after = plain(await client.call("JOB.INFO", job_id))
        assert (after["used_bytes"], after["s3_bytes"]) == (1000, 5 << 40)
        on_tier, in_s3 = after["tier_costs"]
        assert (on_tier, in_s3["tier"]) == (cost, "s3")
        assert after["cost_usd_per_hour"] == pytest.approx(
            info["cost_usd_per_hour"] + in_s3["cost_usd_per_hour"]
        )
        assert in_s3["cost_usd_per_hour"] > 0.1


@in_trio
async def test_jobs_are_listed_without_their_tokens() -> None:
    async with running() as controller:
        client = await cluster(controller)
        reply = plain(await client.call("JOB.REGISTER", "sort"))
        listed = plain(await client.call("JOB.LIST"))
        assert [job["id"] for job in listed] == ["default", reply["id"]]
        assert [job["cost_usd_per_hour"] for job in listed] == [0, 0]
        assert [job["tiers"] for job in listed] == [["dram"], ["dram"]]
        shown = {(job["quota_bytes"], job["commands"], len(job["short"])) for job in listed}
        assert shown == {(None, 0, 0)}
        assert reply["token"] not in json.dumps(listed)


@in_trio
async def test_the_life_of_a_job() -> None:
    async with running() as controller:
        client = await cluster(controller)
        job_id = plain(await client.call("JOB.REGISTER", "sort", "LEASE", "50"))["id"]
        assert await client.call("JOB.RENEW", job_id) == b"OK"
        updated = plain(await client.call("JOB.UPDATE", job_id, "CAPACITY", "1mb"))
        assert updated["quota_bytes"] == 1 << 20
        assert await client.call("JOB.DEREGISTER", job_id) == b"OK"
        for command in ("JOB.DEREGISTER", "JOB.RENEW", "JOB.INFO"):
            assert await refused(client, command, job_id) == f"ERR no such job '{job_id}'"


@in_trio
async def test_a_lease_that_runs_out_ends_the_job() -> None:
    async with running() as controller:
        client = await cluster(controller)
        job_id = plain(await client.call("JOB.REGISTER", "sort", "LEASE", "1"))["id"]
        with trio.fail_after(10):
            await controller.core.wait_until(lambda: job_id not in controller.core.state.tenants)
        assert "no such job" in await refused(client, "JOB.INFO", job_id)


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (["JOB.REGISTER"], "wrong number of arguments for 'job.register' command"),
        (["JOB.REGISTER", "a b"], "a job's name is 1 to 64 of letters"),
        (["JOB.REGISTER", "default"], "the name 'default' is reserved"),
        (["JOB.REGISTER", "x", "SPEED", "3"], "unknown option 'SPEED'"),
        (["JOB.REGISTER", "x", "LAMBDAS", "-1"], "LAMBDAS must be a whole number"),
        (["JOB.REGISTER", "x", "CAPACITY", "-1"], "CAPACITY: '-1' is negative"),
        (["JOB.REGISTER", "x", "TIERS", "tape"], "TIERS: 'tape' is none of"),
        (["JOB.INFO", "nobody"], "no such job 'nobody'"),
        (["JOB.INFO", b"\xff\r\n"], "no such job"),
        (["JOB.UPDATE", "default", "LAMBDAS", "1"], "the job 'default' has no hints"),
        (["JOB.UPDATE", "nobody", "LAMBDAS", "1"], "no such job 'nobody'"),
        (["JOB.DEREGISTER", "default"], "the job 'default' never ends"),
        (["JOB.PURGE", "default"], "the job 'default' has not ended"),
        (["JOB.PURGE", "nobody"], "no such job 'nobody'"),
        (["TIER.SCALE", "tape", "1"], "no tier is called 'tape'"),
        (["TIER.SCALE", "dram", "-1"], "the number of servers must be a whole number"),
        (["TIER.SCALE", "dram", "3"], "this controller starts no servers itself"),
        (["SERVER.DRAIN", "nobody"], "no such server 'nobody'"),
        (["EVENTS.LIST", "SINCE"], "EVENTS.LIST takes [SINCE id] [COUNT count]"),
        (["EVENTS.LIST", "COUNT", "few"], "EVENTS.LIST takes [SINCE id] [COUNT count]"),
        (["JOB.NOTHING"], "unknown command 'JOB.NOTHING'"),
    ],
)
def test_what_is_wrong_is_told(command: list[str | bytes], error: str) -> None:
    @in_trio
    async def check() -> None:
        async with running() as controller:
            client = await cluster(controller)
            text = await refused(client, *command)
            assert text.startswith("ERR ")
            assert error in text
            assert await client.call("PING") == b"PONG"

    check()


# --- tiers and servers -------------------------------------------------------------------------


@in_trio
async def test_tiers_and_servers_are_listed() -> None:
    async with running() as controller:
        client = await cluster(controller)
        await client.call("JOB.REGISTER", "sort", "CAPACITY", "100mb")
        dram, nvme, *_ = plain(await client.call("TIER.LIST"))
        assert (dram["tier"], dram["servers"], dram["wanted"]) == ("dram", 2, None)
        assert (dram["capacity_bytes"], dram["committed_bytes"]) == (2 << 30, 100 << 20)
        assert dram["cost_usd_per_hour"] == pytest.approx(0.8)
        assert dram["machine_type"] == "dram-machine"
        (machine,) = dram["machine_types"]
        assert (machine["machine_type"], machine["capacity_bytes"]) == ("dram-machine", 4 << 30)
        assert machine["cost_usd_per_hour"] == pytest.approx(0.4)
        assert machine["gb_cost_usd_per_hour"] == pytest.approx(0.1)
        assert (nvme["tier"], nvme["servers"]) == ("nvme", 0)
        assert (dram["servers_min"], dram["servers_max"], dram["last_decision"]) == (
            None,
            None,
            None,
        )
        assert dram["utilisation"] == {"cpu": 0, "network": 0, "capacity": 0}
        assert (dram["requested"], dram["draining"], nvme["utilisation"]) == (0, 0, {})
        servers = plain(await client.call("SERVER.LIST"))
        assert servers[0]["cost_usd_per_hour"] == pytest.approx(0.4)
        assert [(s["id"], s["port"], s["state"]) for s in servers] == [
            ("a", 7001, "up"),
            ("b", 7002, "up"),
        ]
        assert sorted(s["committed_bytes"] for s in servers) == [0, 100 << 20]


@in_trio
async def test_reports_are_shown_with_their_rates_and_what_a_tier_uses() -> None:
    async with running() as controller:
        member = await controller.joined("a")
        core = controller.core
        for seconds, total in ((0, 0), (2, 100 * MIB)):
            now_ms = core.now_ms() + seconds * 1000
            report = Report(cpu=0.25, received_bytes=total, sent_bytes=total // 2, used_bytes=GIB)
            core.state.handle(Reported(member.id, report), now_ms)
        client = await controller.connect()
        (listed,) = plain(await client.call("SERVER.LIST"))
        assert (listed["received_bytes"], listed["sent_bytes"]) == (100 * MIB, 50 * MIB)
        assert listed["received_bytes_s"] == pytest.approx(50 * MIB, rel=0.1)
        assert listed["bandwidth_bytes_s"] == 400 * MIB
        dram, *_ = plain(await client.call("TIER.LIST"))
        assert dram["utilisation"]["network"] == pytest.approx(50 / 400, rel=0.1)
        assert (dram["utilisation"]["cpu"], dram["utilisation"]["capacity"]) == (0.25, 1)


@in_trio
async def test_events_are_listed_with_what_they_are_about() -> None:
    async with running() as controller:
        client = await cluster(controller)
        job = plain(await client.call("JOB.REGISTER", "sort", "CAPACITY", "10gb"))
        *_, short, registered = plain(await client.call("EVENTS.LIST"))
        assert (short["level"], short["kind"]) == ("warning", "job gets too little")
        assert short["fields"]["job"] == job["id"]
        assert short["fields"]["short"].startswith("capacity: 10gb wanted")
        assert (registered["level"], registered["kind"]) == ("info", "job registered")
        assert registered["fields"] == {"job": job["id"], "servers": 2}
        assert registered["id"] == short["id"] + 1
        assert abs(registered["time_ms"] - controller.core.now_ms()) < 20_000
        assert await client.call("EVENTS.LIST", "since", registered["id"]) == []
        (last,) = plain(await client.call("EVENTS.LIST", "COUNT", 1, "SINCE", short["id"]))
        assert last == registered


@in_trio
async def test_a_medium_that_fails_is_logged_once_and_listed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, LOG.name)
    async with running() as controller:
        member = await controller.joined("a", tier="nvme")
        for error in ("", "No space left", "No space left", "Input/output error", ""):
            report = json.dumps({"medium_error": error})
            await member.peer.call("MEMBER.REPORT", report)
            (listed,) = plain(await (await controller.connect()).call("SERVER.LIST"))
            assert listed["medium_error"] == error
        with pytest.raises(RemoteError, match="medium_error is not a text"):
            await member.peer.call("MEMBER.REPORT", json.dumps({"medium_error": "x" * 300}))
    told = [
        (record.levelno, getattr(record, "error", ""))
        for record in caplog.records
        if record.message.startswith("a server's medium")
    ]
    assert told == [
        (logging.WARNING, "No space left"),
        (logging.WARNING, "Input/output error"),
        (logging.INFO, ""),
    ]


def is_full_of_moves(controller: Running, count: int) -> Callable[[], bool]:
    return lambda: len(list(controller.core.state.moves())) == count


async def carry_out(controller: Running, members: dict[str, Member], count: int) -> None:
    """The members' part in moves: wait until some are ordered, and tell that they are over."""
    await controller.core.wait_until(is_full_of_moves(controller, count))
    for job_id, move in list(controller.core.state.moves()):
        text = json.dumps({"job": job_id, "move": move.id, "keys": 2, "bytes": 10})
        # Both tell of it, in whichever order.
        await members[move.target].peer.call("MEMBER.MOVED", text)
        await members[move.source].peer.call("MEMBER.MOVED", text)


@in_trio
async def test_a_drain_is_accepted_seen_and_done() -> None:
    async with running() as controller:
        members = {name: await controller.joined(name) for name in "ab"}
        await carry_out(controller, members, 1)
        client = await controller.connect()
        assert await client.call("SERVER.DRAIN", "a") == b"OK"
        assert await client.call("SERVER.DRAIN", "a") == b"OK"
        listed, other = plain(await client.call("SERVER.LIST"))
        assert (listed["state"], other["state"]) == ("draining", "up")
        assert (listed["moves_out"], other["moves_in"], other["drain"]) == (1, 1, None)
        drain = listed["drain"]
        assert (drain["slots_left"], drain["jobs_left"], drain["is_done"]) == (8192, 1, False)
        (move,) = plain(await client.call("MOVE.LIST"))
        assert (move["job"], move["source"], move["target"]) == ("default", "a", "b")
        assert move["done_bytes"] == 0
        progress = {"moves": {"default": {move["id"]: [30, 100]}}}
        await members["a"].peer.call("MEMBER.REPORT", json.dumps(progress))
        (move,) = plain(await client.call("JOB.INFO", "default"))["moves"]
        assert (move["done_bytes"], move["bytes"]) == (30, 100)
        await carry_out(controller, members, 1)
        listed, _ = plain(await client.call("SERVER.LIST"))
        assert listed["drain"]["is_done"] is True
        assert await client.call("SERVER.UNDRAIN", "a") == b"OK"
        assert "is not draining" in await refused(client, "SERVER.UNDRAIN", "a")
        await carry_out(controller, members, 1)
        slots = held_slots(controller.core.state.placements["default"])
        assert slots == {"a": 8192, "b": 8192}


@in_trio
async def test_a_drain_that_does_not_fit_is_refused_with_the_figures() -> None:
    async with running() as controller:
        members = {name: await controller.joined(name) for name in "ab"}
        client = await controller.connect()
        await client.call("JOB.REGISTER", "sort", "CAPACITY", "1792mb")
        text = await refused(client, "SERVER.DRAIN", "a")
        assert "dram: 896mb to move, 128mb free" in text
        assert not controller.core.state.fleet.draining()
        await members["b"].peer.call("MEMBER.DRAIN", json.dumps({"deadline_s": 10}))
        assert "no other server" in await refused(client, "SERVER.DRAIN", "a")
        assert "will" in await refused(client, "SERVER.UNDRAIN", "b")


@in_trio
async def test_what_members_tell_of_moves_is_checked() -> None:
    async with running() as controller:
        member = await controller.joined("a")
        router = await controller.joined("r", "router")
        for command in ("MEMBER.MOVED", "MEMBER.MOVE_FAILED"):
            for broken in ("[]", "{}", '{"job": "default"}', '{"job": "j", "move": 3}', "x"):
                await refused(member.peer, command, broken)
            told = json.dumps({"job": "nobody", "move": "1-2", "reason": "x", "code": "LOST"})
            assert await member.peer.call(command, told) == b"OK"
        for broken in ('{"moves": 3}', '{"moves": {"j": []}}', '{"moves": {"j": {"1-2": [1]}}}'):
            await refused(member.peer, "MEMBER.REPORT", broken)
        assert "only storage servers" in await refused(router.peer, "MEMBER.DRAIN", "{}")


# --- who may -----------------------------------------------------------------------------------


@in_trio
async def test_where_there_is_a_password_only_the_administrator_administers() -> None:
    async with running(admin_password=PASSWORD) as controller:
        client = await cluster(controller)
        for command in (
            ("JOB.REGISTER", "sort"),
            ("JOB.LIST",),
            ("JOB.INFO", "default-not-mine"),
            ("JOB.DEREGISTER", "x"),
            ("TIER.LIST",),
            ("TIER.SCALE", "dram", 1),
            ("SERVER.LIST",),
            ("SERVER.DRAIN", "a"),
            ("SERVER.UNDRAIN", "a"),
            ("MOVE.LIST",),
            ("EVENTS.LIST",),
        ):
            text = await refused(client, *command)
            expected = f"NOPERM User default has no permissions to run the '{command[0].lower()}'"
            assert text.startswith(expected)
        assert (await refused(client, "AUTH", "admin", "wrong")).startswith("WRONGPASS")
        assert (await refused(client, "AUTH", "admin", "")).startswith("WRONGPASS")
        assert await client.call("AUTH", "admin", PASSWORD) == b"OK"
        reply = plain(await client.call("JOB.REGISTER", "sort"))
        assert len(await client.call("JOB.LIST")) == 2

        # The job itself may look after itself, and after nobody else.
        job = await controller.connect()
        assert await job.call("AUTH", reply["id"], reply["token"]) == b"OK"
        assert plain(await job.call("JOB.INFO", reply["id"]))["name"] == "sort"
        assert await job.call("JOB.RENEW", reply["id"]) == b"OK"
        other = plain(await client.call("JOB.REGISTER", "other"))
        for command in (("JOB.INFO", other["id"]), ("JOB.DEREGISTER", other["id"]), ("JOB.LIST",)):
            assert (await refused(job, *command)).startswith("NOPERM")
        assert await job.call("JOB.DEREGISTER", reply["id"]) == b"OK"


@in_trio
async def test_a_token_is_good_at_once_and_no_longer_than_the_job() -> None:
    async with running() as controller:
        client = await cluster(controller)
        reply = await client.call("JOB.REGISTER", "sort")
        job = await controller.connect()
        assert await job.call("AUTH", reply[b"id"], reply[b"token"]) == b"OK"
        assert (await refused(job, "AUTH", reply[b"id"], "guess")).startswith("WRONGPASS")
        await client.call("JOB.DEREGISTER", reply[b"id"])
        other = await controller.connect()
        assert (await refused(other, "AUTH", reply[b"id"], reply[b"token"])).startswith("WRONGPASS")


@in_trio
async def test_routers_pass_commands_on_for_their_clients() -> None:
    async with running(admin_password=PASSWORD) as controller:
        await cluster(controller)
        router = await controller.joined("r2", "router", port=6380, host="10.0.0.2")

        async def forward(job: str, admin: bool, *command: str) -> Any:
            context = json.dumps({"job": job, "admin": admin})
            return plain(await router.peer.call("MEMBER.FORWARD", context, *command))

        reply = await forward("default", True, "JOB.REGISTER", "sort")
        # The client reaches this router, so this is where it is told to go.
        assert reply["url"].endswith("@10.0.0.2:6380")
        assert (await forward(reply["id"], False, "JOB.INFO", reply["id"]))["name"] == "sort"
        with pytest.raises(RemoteError, match="NOPERM User default"):
            await forward("default", False, "JOB.INFO", reply["id"])
        for broken in (("GET", "x"), ("JOB.INFO",), ("MEMBER.REPORT", "{}"), ("NOTHING",)):
            with pytest.raises(RemoteError, match="ERR "):
                await forward("default", True, *broken)
        with pytest.raises(RemoteError, match="not the context of a command"):
            await router.peer.call("MEMBER.FORWARD", "[]", "JOB.LIST")


@in_trio
async def test_a_router_may_ask_while_its_own_acknowledgement_is_waited_for() -> None:
    async with running() as controller:
        await cluster(controller)
        router = await controller.joined("r2", "router")
        context = json.dumps({"job": "default", "admin": False})
        names = [f"job-{number}" for number in range(20)]
        async with trio.open_nursery() as nursery:
            for name in names:
                nursery.start_soon(
                    router.peer.call, "MEMBER.FORWARD", context, "JOB.REGISTER", name
                )
        tenants = controller.core.state.tenants.values()
        assert sorted(t.job.name for t in tenants if t.job) == sorted(names)
        assert not any(link.lags for link in controller.core.links.values())
