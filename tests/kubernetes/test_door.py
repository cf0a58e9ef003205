"""Watches: what is mirrored is what is there, whatever becomes of them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio

from pocketkv.controller.backends.kubernetes import api as apis
from pocketkv.controller.backends.kubernetes import door, retrying
from pocketkv.controller.backends.kubernetes.api import ApiError, NotFoundError, path_of
from pocketkv.controller.backends.kubernetes.door import Door, Mirror, WatchTimes
from pocketkv.controller.backends.kubernetes.retrying import Backoff
from tests.controller.running import in_trio
from tests.kubernetes.apiserver import ApiServer
from tests.kubernetes.connecting import NAMESPACE, api_of
from tests.kubernetes.objects import Document

LOG = logging.getLogger("pocketkv.tests")
PATH = path_of("api/v1", NAMESPACE, "pods")


class Seen:
    """A mirror of the pods of one app, and what it told."""

    def __init__(self, server: ApiServer, times: WatchTimes) -> None:
        self.told: list[tuple[str, bool]] = []
        self.mirror = Mirror(Door(api_of(server), times), PATH, "app=x", self._on_change, LOG)

    def _on_change(self, name: str, one: Document | None) -> None:
        self.told.append((name, one is not None))

    async def shows(self, *names: str) -> None:
        await until(lambda: set(self.mirror.objects) == set(names))


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(40):
        while not condition():  # noqa: ASYNC110 - the server is in other threads
            await trio.sleep(0.02)


@asynccontextmanager
async def mirrored(server: ApiServer, **times: float) -> AsyncIterator[Seen]:
    seen = Seen(server, WatchTimes(**{"lasts_s": 20, "silence_s": 30.0, **times}))  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(seen.mirror.run)
        yield seen
        nursery.cancel_scope.cancel()


def pod(server: ApiServer, name: str, app: str = "x") -> None:
    metadata = {"name": name, "labels": {"app": app}}
    server.objects.create(NAMESPACE, "pods", {"metadata": metadata})


def gone(server: ApiServer, name: str) -> None:
    server.objects.delete(NAMESPACE, "pods", name, {"gracePeriodSeconds": 0})


@in_trio
async def test_what_is_there_and_what_comes_and_goes(server: ApiServer) -> None:
    pod(server, "a")
    pod(server, "other", "y")
    async with mirrored(server) as seen:
        await seen.shows("a")
        pod(server, "b")
        await seen.shows("a", "b")
        gone(server, "a")
        await seen.shows("b")
        labels = {"metadata": {"labels": {"app": "x"}}}
        server.objects.patch(NAMESPACE, "pods", "other", labels)
        await seen.shows("b", "other")
        labels["metadata"]["labels"]["app"] = "y"
        server.objects.patch(NAMESPACE, "pods", "other", labels)
        await seen.shows("b")
    assert ("a", False) in seen.told


@in_trio
async def test_long_lists_come_in_pieces(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"p{i}" for i in range(25)]
    for name in names:
        pod(server, name)
    monkeypatch.setattr(apis, "PAGE", 10)
    async with mirrored(server) as seen:
        await seen.shows(*names)
    assert server.count("continue=") == 2


@in_trio
async def test_a_watch_whose_version_has_expired_lists_again(server: ApiServer) -> None:
    pod(server, "a")
    async with mirrored(server) as seen:
        await seen.shows("a")
        lists = server.count(r"GET .*pods\?limit")
        server.objects.compact()
        pod(server, "b")
        await seen.shows("a", "b")
        await until(lambda: server.count(r"GET .*pods\?limit") > lists)


@pytest.mark.parametrize("end", ["expired", "cut"])
@in_trio
async def test_a_watch_that_went_well_is_begun_anew_at_once_however_it_ended(
    server: ApiServer, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    pauses_s: list[float] = []

    class Told(Backoff):
        def next_s(self, retry_after_s: float | None = None) -> float:
            pauses_s.append(super().next_s(retry_after_s))
            return pauses_s[-1]

    monkeypatch.setattr(door, "Backoff", Told)
    # Each watch that has begun has lasted long.
    monkeypatch.setattr(door, "_SHORT_S", 0.0)
    async with mirrored(server) as seen:
        for number in range(6):
            await seen.shows(*[f"p{i}" for i in range(number)])
            watches = server.count("watch=true")
            if end == "expired":
                server.objects.compact()
            else:
                with server.fault("WATCHING", times=1) as fault:
                    await until(lambda fault=fault: fault.met == 1)  # type: ignore[misc]
            pod(server, f"p{number}")
            await until(lambda since=watches: server.count("watch=true") > since)  # type: ignore[misc]
        await seen.shows(*[f"p{i}" for i in range(6)])
    assert len(pauses_s) >= 6
    assert max(pauses_s) <= retrying.FIRST_S


@in_trio
async def test_bookmarks_keep_the_version_fresh(server: ApiServer) -> None:
    """Other kinds change all the time; a watch that ends goes on where the store is."""
    pod(server, "a")
    async with mirrored(server, lasts_s=2) as seen:
        await seen.shows("a")
        lists = server.count(r"GET .*pods\?limit")
        for i in range(60):
            server.objects.create(NAMESPACE, "configmaps", {"metadata": {"name": f"c{i}"}})
            await trio.sleep(0.05)
        watches = server.count("watch=true")
        await until(lambda: server.count("watch=true") > watches)
        assert server.count(r"GET .*pods\?limit") == lists
        began = max(
            int(r.partition("resourceVersion=")[2].partition("&")[0])
            for r in server.requests
            if "watch=true" in r
        )
        assert began > 150


@in_trio
async def test_a_watch_that_stalls_is_made_anew(server: ApiServer) -> None:
    pod(server, "a")
    async with mirrored(server, silence_s=1.5) as seen:
        await seen.shows("a")
        server.stalled_watches.set()
        pod(server, "b")
        await until(lambda: not seen.mirror.is_fresh)
        server.stalled_watches.clear()
        await seen.shows("a", "b")
        assert seen.mirror.is_fresh


@in_trio
async def test_an_outage_ends_and_what_happened_meanwhile_is_seen(server: ApiServer) -> None:
    pod(server, "a")
    pod(server, "b")
    async with mirrored(server) as seen:
        await seen.shows("a", "b")
        with server.fault("WATCHING"), server.outage():
            await until(lambda: not seen.mirror.is_fresh)
            gone(server, "a")
            pod(server, "c")
            assert set(seen.mirror.objects) == {"a", "b"}
        await seen.shows("b", "c")
    assert ("a", False) in seen.told


@in_trio
async def test_an_api_that_is_busy_is_asked_when_it_says(server: ApiServer) -> None:
    pod(server, "a")
    headers = {"Retry-After": "2"}
    async with trio.open_nursery() as nursery:
        with server.fault("GET", status=429, headers=headers, times=1):
            seen = Seen(server, WatchTimes())
            started_s = trio.current_time()
            await nursery.start(seen.mirror.run)
            assert trio.current_time() - started_s >= 2
        await seen.shows("a")
        assert server.count(r"GET .*pods\?limit") == 2
        nursery.cancel_scope.cancel()


@in_trio
async def test_everything_is_listed_anew_now_and_then(server: ApiServer) -> None:
    pod(server, "a")
    async with mirrored(server, lasts_s=1, resync_s=0.5) as seen:
        await seen.shows("a")
        await until(lambda: server.count(r"GET .*pods\?limit") >= 3)
        await until(lambda: seen.told.count(("a", True)) >= 3)


def test_what_the_api_says_is_told(server: ApiServer) -> None:
    api = api_of(server)
    with pytest.raises(NotFoundError, match='404 pods "a" not found'):
        api.request("GET", f"{PATH}/a")
    with server.fault("GET", status=403), pytest.raises(ApiError, match="403") as refused:
        api.request("GET", f"{PATH}/a")
    assert not refused.value.is_passing
    with server.fault("GET"), pytest.raises(ApiError, match="no answer") as cut:
        api.request("GET", f"{PATH}/a")
    assert cut.value.is_passing
    with server.fault("GET", stall=True), pytest.raises(ApiError, match="no answer"):
        api.request("GET", f"{PATH}/a", timeout_s=0.5)
