"""Who leads: by a lease, whatever the clocks of the replicas say."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import pytest
import trio

from pocketkv.controller.backends.kubernetes.door import Door
from pocketkv.controller.backends.kubernetes.lease import Candidate, LeaseTimes, Observer
from tests.controller.running import in_trio
from tests.kubernetes.apiserver import ApiServer, Fault
from tests.kubernetes.connecting import NAMESPACE, api_of
from tests.kubernetes.objects import Document

LOG = logging.getLogger("pocketkv.tests")
TIMES = LeaseTimes(duration_s=3, deadline_s=2.0, retry_s=0.2)
NAME = "pk-controller"


def lease(holder: str, renewed: str = "", transitions: int = 0, held_s: int = 6) -> Document:
    return {
        "spec": {
            "holderIdentity": holder,
            "renewTime": renewed,
            "leaseTransitions": transitions,
            "leaseDurationSeconds": held_s,
        }
    }


def test_a_lease_that_is_free_or_ours_may_be_taken() -> None:
    observer = Observer("a", LeaseTimes())
    assert observer.look(None, 0)
    assert observer.look(lease(""), 1)
    assert observer.look(lease("a"), 2)
    assert not observer.look(lease("b"), 3)


def test_it_may_be_taken_when_no_change_was_seen_for_as_long_as_it_is_held() -> None:
    observer = Observer("a", LeaseTimes())
    assert not observer.look(lease("b", "1"), 100)
    assert not observer.look(lease("b", "1"), 106)
    assert observer.look(lease("b", "1"), 106.1)
    assert not observer.look(lease("b", "2"), 106.2)
    assert not observer.look(lease("b", "2"), 112)


@pytest.mark.parametrize("written", ["1970-01-01T00:00:00Z", "2999-01-01T00:00:00Z", "what?"])
def test_what_the_holders_clock_says_does_not_matter(written: str) -> None:
    observer = Observer("a", LeaseTimes())
    assert not observer.look(lease("b", written), 0)
    assert not observer.look(lease("b", written), 5.9)
    assert observer.look(lease("b", written), 6.1)


def test_the_holder_says_for_how_long_it_holds_it() -> None:
    observer = Observer("a", LeaseTimes())
    assert not observer.look(lease("b", held_s=60), 0)
    assert not observer.look(lease("b", held_s=60), 59)
    assert observer.look(lease("b", held_s=60), 61)


@pytest.mark.parametrize("times", [(3, 3.0, 1.0), (3, 2.0, 2.0), (3, 1.0, 0.0)])
def test_a_holder_gives_up_before_others_take_over(times: tuple[int, float, float]) -> None:
    with pytest.raises(ValueError, match="retry < deadline < duration"):
        LeaseTimes(*times)


def met_once(fault: Fault) -> bool:
    return fault.met == 1


class Replica:
    """A candidate that says when it leads."""

    def __init__(self, server: ApiServer, identity: str) -> None:
        self.identity = identity
        self.leads = False
        self.candidate = Candidate(Door(api_of(server)), NAME, identity, TIMES, {}, LOG)
        self.scope = trio.CancelScope()

    async def work(self) -> None:
        self.leads = True
        try:
            await trio.sleep_forever()
        finally:
            self.leads = False

    async def run(self) -> None:
        with self.scope:
            while True:
                await self.candidate.lead(self.work)


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(40):
        while not condition():  # noqa: ASYNC110 - the server is in other threads
            await trio.sleep(0.02)


@in_trio
async def test_it_belongs_to_what_owns_it_once_that_is_known(server: ApiServer) -> None:
    owner = {"kind": "ConfigMap", "name": "pk-release", "uid": "of-a-test"}

    def owners() -> object:
        return server.objects.get(NAMESPACE, "leases", NAME)["metadata"].get("ownerReferences")

    async with trio.open_nursery() as nursery:
        a = Replica(server, "a")
        nursery.start_soon(a.run)
        await until(lambda: a.leads)
        assert not owners()
        a.candidate.owners = [owner]
        await until(lambda: owners() == [owner])
        assert a.leads
        nursery.cancel_scope.cancel()


@in_trio
async def test_one_leads_and_when_it_stops_the_other_does(server: ApiServer) -> None:
    async with trio.open_nursery() as nursery:
        a, b = Replica(server, "a"), Replica(server, "b")
        nursery.start_soon(a.run)
        await until(lambda: a.leads)
        nursery.start_soon(b.run)
        before_s = trio.current_time()
        await trio.sleep(TIMES.duration_s + 0.5)
        assert a.leads
        assert not b.leads, f"{trio.current_time() - before_s} s"
        a.scope.cancel()
        await until(lambda: b.leads)
        one = server.objects.get(NAMESPACE, "leases", NAME)
        assert one["spec"]["holderIdentity"] == "b"
        assert one["spec"]["leaseTransitions"] == 2
        nursery.cancel_scope.cancel()


@in_trio
async def test_a_leader_whose_requests_stall_stops_before_another_begins(
    server: ApiServer,
) -> None:
    async with trio.open_nursery() as nursery:
        a = Replica(server, "a")
        nursery.start_soon(a.run)
        await until(lambda: a.leads)
        with server.fault("leases", stall=True):
            await until(lambda: not a.leads)
            b = Replica(server, "b")
        nursery.start_soon(b.run)
        await until(lambda: a.leads != b.leads)
        nursery.cancel_scope.cancel()


@in_trio
async def test_faults_that_pass_cost_nothing(server: ApiServer) -> None:
    async with trio.open_nursery() as nursery:
        a = Replica(server, "a")
        with server.fault("leases", status=500, times=2):
            nursery.start_soon(a.run)
            await until(lambda: a.leads)
        for status in (0, 409, 429, 503):
            with server.fault("PUT .*leases", status=status, times=1) as fault:
                await until(partial(met_once, fault))
            await trio.sleep(0.5)
            assert a.leads, status
        nursery.cancel_scope.cancel()


@in_trio
async def test_a_lease_that_somebody_took_or_removed_is_lost_at_once(server: ApiServer) -> None:
    async with trio.open_nursery() as nursery:
        a = Replica(server, "a")
        nursery.start_soon(a.run)
        await until(lambda: a.leads)
        taken = {"spec": {"holderIdentity": "somebody", "leaseTransitions": 9}}
        server.objects.patch(NAMESPACE, "leases", NAME, taken)
        await until(lambda: not a.leads)
        server.objects.delete(NAMESPACE, "leases", NAME)
        await until(lambda: a.leads)
        nursery.cancel_scope.cancel()
