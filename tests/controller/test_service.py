"""The controller over its socket: members, updates, acknowledgements, restarts."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import trio

from pocketkv.controller import core as cores
from pocketkv.controller import state as states
from pocketkv.engine.topology import Topology
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import RemoteError
from pocketkv.serving.membership import Membership
from pocketkv.slots import SLOT_COUNT
from tests.controller.builders import GIB
from tests.controller.running import LOG, SECRET, Member, in_trio, running


def slots_of(update: dict[str, Any], job_id: str = "default") -> dict[str, int]:
    counts: dict[str, int] = {}
    for placement in update["placements"]:
        if placement["job_id"] == job_id:
            for start, end, server_id in placement["ranges"]:
                counts[server_id] = counts.get(server_id, 0) + end - start + 1
    return counts


# --- joining -----------------------------------------------------------------------------------


@in_trio
async def test_a_member_that_joins_is_told_everything() -> None:
    async with running() as controller:
        first = await controller.joined("a", port=7001)
        second = await controller.join("b", port=7002)
        (update,) = second.updates
        assert update["full"] is True
        assert sorted((s["id"], s["port"]) for s in update["servers"]) == [("a", 7001), ("b", 7002)]
        assert slots_of(update) == {"a": SLOT_COUNT}
        assert slots_of(first.updates[0]) == {"a": SLOT_COUNT}


@in_trio
async def test_a_proof_is_good_for_one_connection_and_one_member() -> None:
    async with running() as controller:
        one, other = await controller.connect(), await controller.connect()
        identity, proof = await Member(one, "a").credentials("storage", {})
        await other.call("MEMBER.CHALLENGE")
        with pytest.raises(RemoteError, match="WRONGPASS"):
            await other.call("MEMBER.JOIN", identity, proof)
        # The connection is closed after such an attempt.
        with pytest.raises(PeerError):
            await other.call("PING")
        with pytest.raises(RemoteError, match="WRONGPASS"):
            await one.call("MEMBER.JOIN", identity.replace('"a"', '"b"'), proof)
        assert not controller.core.links


@in_trio
async def test_a_proof_with_another_secret_or_without_a_challenge_is_refused() -> None:
    async with running() as controller:
        peer = await controller.connect()
        wrong = await Member(peer, "a").credentials("storage", {}, bytes(32))
        with pytest.raises(RemoteError, match="WRONGPASS"):
            await peer.call("MEMBER.JOIN", *wrong)
        peer = await controller.connect()
        identity, _ = await Member(peer, "a").credentials("storage", {})
        peer = await controller.connect()
        with pytest.raises(RemoteError, match="WRONGPASS"):
            await peer.call("MEMBER.JOIN", identity, "")


@in_trio
async def test_a_challenge_is_used_once() -> None:
    async with running() as controller:
        peer = await controller.connect()
        credentials = await Member(peer, "a").credentials("storage", {})
        await peer.call("MEMBER.JOIN", *credentials)
        with pytest.raises(RemoteError, match="has joined already"):
            await peer.call("MEMBER.JOIN", *credentials)


@in_trio
async def test_members_only() -> None:
    async with running() as controller:
        peer = await controller.connect()
        for command in (
            ("MEMBER.REPORT", "{}"),
            ("MEMBER.ACK", 1),
            ("MEMBER.FORWARD", "{}", "JOB.LIST"),
        ):
            with pytest.raises(RemoteError, match="NOAUTH"):
                await peer.call(*command)
        storage = await controller.joined("a")
        with pytest.raises(RemoteError, match="NOPERM only routers"):
            await storage.peer.call("MEMBER.FORWARD", "{}", "JOB.LIST")


@in_trio
async def test_what_is_no_member_is_refused() -> None:
    async with running() as controller:
        peer = await controller.connect(protocol=2)
        credentials = await Member(peer, "a").credentials("storage", {})
        with pytest.raises(RemoteError, match="NOPROTO"):
            await peer.call("MEMBER.JOIN", *credentials)
        peer = await controller.connect()
        for broken in ("", "[]", "{", '{"id": "a", "role": "boss"}', '{"id": 1}'):
            with pytest.raises(RemoteError, match="ERR "):
                await peer.call("MEMBER.JOIN", broken, "proof")
        with pytest.raises(RemoteError, match=r"wrong number of arguments for 'member\.join'"):
            await peer.call("MEMBER.JOIN", "{}")
        member = await controller.joined("a")
        for broken in ("", "[]", '{"keys": -1}', '{"cpu": "x"}', '{"jobs": {"j": 3}}'):
            with pytest.raises(RemoteError, match="ERR "):
                await member.peer.call("MEMBER.REPORT", broken)
        with pytest.raises(RemoteError, match="the epoch is not a number"):
            await member.peer.call("MEMBER.ACK", "x")


@in_trio
async def test_a_member_that_connects_anew_takes_the_place_of_its_old_connection() -> None:
    async with running() as controller:
        old = await controller.joined("a")
        new = await controller.joined("a")
        with pytest.raises(PeerError):
            await old.peer.call("PING")
        assert controller.core.links["a"].acknowledged > 0
        assert await new.peer.call("PING") == b"PONG"


# --- updates -----------------------------------------------------------------------------------


@in_trio
async def test_a_job_is_registered_when_every_member_knows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cores, "ACKNOWLEDGE_TIMEOUT_S", 60)
    async with running() as controller:
        await controller.joined("a")
        slow = await controller.join("r", "router")
        await slow.acknowledge()
        client = await controller.connect()
        answered = trio.Event()
        replies: list[Any] = []

        async def register() -> None:
            replies.append(await client.call("JOB.REGISTER", "sort"))
            answered.set()

        controller.nursery.start_soon(register)
        update = await slow.next_update()
        (placement,) = update["placements"]
        assert await slow.peer.call("PING") == b"PONG"
        assert not answered.is_set()
        await slow.acknowledge()
        await answered.wait()
        assert replies[0][b"id"].decode() == placement["job_id"]
        assert replies[0][b"epoch"] == placement["epoch"]


@in_trio
async def test_a_member_that_lags_is_not_waited_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "ACKNOWLEDGE_TIMEOUT_S", 0.01)
    async with running() as controller:
        await controller.joined("a")
        lagging = await controller.join("r", "router")
        client = await controller.connect()
        await client.call("JOB.REGISTER", "one")
        monkeypatch.setattr(cores, "ACKNOWLEDGE_TIMEOUT_S", 60)
        await client.call("JOB.REGISTER", "two")
        assert controller.core.links["r"].lags
        while lagging.updates[-1]["epoch"] < controller.core.state.epoch:
            await lagging.next_update()
        await lagging.acknowledge()
        assert not controller.core.links["r"].lags


@in_trio
async def test_updates_come_in_the_order_of_their_epochs_and_nothing_is_missed() -> None:
    async with running() as controller:
        await controller.joined("a")
        watcher = await controller.joined("r", "router")
        clients = [await controller.connect() for _ in range(8)]
        ids: set[str] = set()

        async def churn(number: int) -> None:
            for i in range(10):
                reply = await clients[number].call("JOB.REGISTER", f"job-{number}-{i}")
                ids.add(reply[b"id"].decode())
                if i % 2:
                    await clients[number].call("JOB.DEREGISTER", reply[b"id"])
                    ids.discard(reply[b"id"].decode())

        async with trio.open_nursery() as nursery:
            for number in range(8):
                nursery.start_soon(churn, number)
        late = await controller.join("late", "router")
        epochs = [update["epoch"] for update in watcher.updates]
        assert epochs == sorted(set(epochs))
        known = {"default"}
        for update in watcher.updates:
            known |= {p["job_id"] for p in update.get("placements", ())}
            known -= set(update.get("ended", ()))
        assert known == ids | {"default"}
        assert {p["job_id"] for p in late.updates[0]["placements"]} == known


@in_trio
async def test_a_server_that_is_silent_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(states, "SILENCE_MS", 400)
    async with running() as controller:
        await controller.joined("a")
        watcher = await controller.joined("r", "router")
        talking = await controller.joined("b")
        with trio.move_on_after(10):
            while slots_of(_merged(watcher)) != {"b": SLOT_COUNT}:
                await talking.report()
                await trio.sleep(0.05)
        assert slots_of(_merged(watcher)) == {"b": SLOT_COUNT}


def _merged(member: Member) -> dict[str, Any]:
    """What a member knows of all jobs from the updates that it got."""
    known: dict[str, Any] = {}
    for update in member.updates:
        known |= {p["job_id"]: p for p in update.get("placements", ())}
    return {"placements": list(known.values())}


# --- restarts ----------------------------------------------------------------------------------


@in_trio
async def test_a_restarted_controller_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    state = tmp_path / "state.db"
    async with running(state) as controller:
        await controller.joined("a")
        client = await controller.connect()
        reply = await client.call("JOB.REGISTER", "sort", "CAPACITY", "1mb")
        epoch = controller.core.state.epoch
    async with running(state) as controller:
        router = await controller.join("r", "router", epoch=epoch)
        (update,) = router.updates
        # Before any server has come back, routers are told where everything is.
        assert update["epoch"] == epoch
        assert [s["id"] for s in update["servers"]] == ["a"]
        assert slots_of(update, reply[b"id"].decode()) == {"a": SLOT_COUNT}
        await controller.joined("a", epoch=epoch)
        assert controller.core.state.epoch == epoch
        client = await controller.connect()
        again = await client.call("JOB.REGISTER", "other")
        assert again[b"epoch"] > epoch


@in_trio
async def test_a_controller_that_forgot_everything_does_not_fall_behind_its_members() -> None:
    async with running() as controller:
        await controller.joined("a", epoch=41)
        watcher = await controller.join("r", "router", epoch=40)
        assert watcher.updates[0]["epoch"] > 41
        assert all(p["epoch"] > 41 for p in watcher.updates[0]["placements"])


@in_trio
async def test_commands_that_a_router_passes_on_do_not_wait_for_each_other() -> None:
    async with running() as controller:
        await controller.joined("a")
        membership = Membership(
            address=("127.0.0.1", controller.port),
            secret=SECRET,
            identity={"id": "r", "role": "router", "host": "127.0.0.1", "port": 6379},
            topology=Topology(),
            on_update=lambda changed, ended: None,
            report=dict,
            log=LOG,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(membership.run)
            await membership.wait_joined()
            context = '{"job": "default", "admin": false}'
            async with trio.open_nursery() as forwards:
                for number in range(20):
                    name = f"job-{number}"
                    forwards.start_soon(
                        membership.call, "MEMBER.FORWARD", context, "JOB.REGISTER", name
                    )
            # Each waited for this router's own acknowledgement, and none in vain.
            assert len(controller.core.state.tenants) == 21
            assert not any(link.lags for link in controller.core.links.values())
            nursery.cancel_scope.cancel()


@in_trio
async def test_a_member_that_asks_what_is_true_is_told_by_joining_again() -> None:
    async with running() as controller:
        await controller.joined("b")
        applied: list[list[str]] = []
        membership = Membership(
            address=("127.0.0.1", controller.port),
            secret=SECRET,
            identity={
                "id": "a",
                "role": "storage",
                "tier": "dram",
                "host": "127.0.0.1",
                "port": 7001,
                "generation": "g",
                "capacity_bytes": GIB,
            },
            topology=Topology(),
            on_update=lambda changed, ended: applied.append(changed),
            report=dict,
            log=LOG,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(membership.run)
            await membership.wait_joined()
            before = len(applied)
            for _ in range(3):
                assert await membership.confirm(20)
                assert membership.joined
            # Each time it has heard everything, as the same member.
            assert len(applied) >= before + 3
            assert set(controller.core.state.fleet.members) == {"a", "b"}
            nursery.cancel_scope.cancel()


@in_trio
async def test_a_member_that_asks_in_vain_goes_on_with_what_it_knows() -> None:
    with socket.socket() as nobody:
        # It is bound, but does not listen: connections are refused.
        nobody.bind(("127.0.0.1", 0))
        membership = Membership(
            address=("127.0.0.1", nobody.getsockname()[1]),
            secret=SECRET,
            identity={"id": "a"},
            topology=Topology(),
            on_update=lambda changed, ended: None,
            report=dict,
            log=LOG,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(membership.run)
            with trio.fail_after(20):
                assert not await membership.confirm(1_000)
            nursery.cancel_scope.cancel()
