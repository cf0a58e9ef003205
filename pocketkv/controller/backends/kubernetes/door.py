"""The API for trio: requests in threads of their own, and watches that come as events."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import trio

from pocketkv.controller.backends.kubernetes.api import Api, ApiError, Document, ExpiredError
from pocketkv.controller.backends.kubernetes.retrying import Backoff

# Requests at the same time; watches have threads beside these.
_REQUESTS_MAX: Final = 8
_WATCHES_MAX: Final = 16
# A watch that lasted so long went well, however it ended: the next pause is a short one again.
_SHORT_S: Final = 1.0


@dataclass(frozen=True)
class WatchTimes:
    """How long, in seconds.

    Attributes:
        lasts_s: For how long a watch is asked for.
        silence_s: A watch of which nothing is heard for so long has stalled. An API sends a
            bookmark about once a minute, and ends the watch in the end.
        resync_s: Everything is listed anew after so long, whatever the watch told.
    """

    lasts_s: int = 50
    silence_s: float = 60.0
    resync_s: float = 300.0


class Door:
    """Makes requests off trio's thread. One that is cancelled is left to end by itself."""

    def __init__(self, api: Api, times: WatchTimes = WatchTimes()) -> None:
        self._api = api
        self.times = times
        self.namespace = api.namespace
        self._requests = trio.CapacityLimiter(_REQUESTS_MAX)
        self._watches = trio.CapacityLimiter(_WATCHES_MAX)

    async def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Document:
        """Make a request; see `Api.request`.

        Raises:
            ApiError: It was refused, or not answered.
        """
        answer: Document = await self._run(
            partial(self._api.request, method, path, body, **options)
        )
        return answer

    async def list(self, path: str, selector: str = "") -> tuple[list[Document], str]:
        """List a collection; see `Api.list`.

        Raises:
            ApiError: It could not be listed.
        """
        found: tuple[list[Document], str] = await self._run(partial(self._api.list, path, selector))
        return found

    async def _run(self, call: Callable[[], Any]) -> Any:
        return await trio.to_thread.run_sync(call, abandon_on_cancel=True, limiter=self._requests)

    @asynccontextmanager
    async def watching(
        self, path: str, version: str, selector: str
    ) -> AsyncIterator[trio.MemoryReceiveChannel[Document]]:
        """Have the events of a watch, until it ends or the block does.

        Raises:
            ApiError: In a group: it could not be begun, or broke.
        """
        begin = partial(
            self._api.watch,
            path,
            version,
            selector=selector,
            lasts_s=self.times.lasts_s,
            silence_s=self.times.silence_s,
        )
        watch = await self._run(begin)
        sending, receiving = trio.open_memory_channel[Document](0)

        def read() -> None:
            for event in watch:
                trio.from_thread.run(sending.send, event)

        async def forward(scope: trio.CancelScope) -> None:
            with sending:
                try:
                    await trio.to_thread.run_sync(read, limiter=self._watches)
                except ApiError:
                    # Closing it, below, is an error to the thread that reads.
                    if not scope.cancel_called:
                        raise

        async def end() -> None:
            try:
                await trio.sleep_forever()
            finally:
                watch.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(end)
            nursery.start_soon(forward, nursery.cancel_scope)
            yield receiving
            nursery.cancel_scope.cancel()


class Mirror:
    """A collection as it is in the API, as far as is known.

    Args:
        door: To the API.
        path: Of the collection.
        selector: Labels of what is wanted.
        on_change: Called with each object that is new, has changed, or (with None) has gone, by
            its name; also for all that is there when it is listed anew.
        log: The process's log.

    Attributes:
        objects: By name.
        is_fresh: Whether the API was heard lately: if not, what is here may be old.
    """

    def __init__(
        self,
        door: Door,
        path: str,
        selector: str,
        on_change: Callable[[str, Document | None], None],
        log: logging.Logger,
    ) -> None:
        self._door = door
        self._path = path
        self._selector = selector
        self._on_change = on_change
        self._log = log
        self._version = ""
        # When the watch began; never, as long as there is none.
        self._began_s = math.inf
        self.objects: dict[str, Document] = {}
        self.is_fresh = False

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the collection until cancelled; started when it was listed once."""
        backoff, started, listed_s, told = Backoff(), False, 0.0, ""
        while True:
            retry_s: float | None = None
            self._began_s = math.inf
            try:
                now_s = trio.current_time()
                if not self._version or now_s - listed_s > self._door.times.resync_s:
                    await self._list()
                    listed_s = now_s
                    if not started:
                        started = True
                        task_status.started()
                await self._watch()
            except* ExpiredError:
                self._version = ""
            except* ApiError as errors:
                first = _first(errors)
                # Also when it has never been heard: rights, or a kind, may be missing.
                if self.is_fresh or str(first) != told:
                    told = str(first)
                    self._log.warning("the API is not heard", extra={"error": told})
                self.is_fresh = False
                retry_s = first.retry_after_s if isinstance(first, ApiError) else None
            if trio.current_time() - self._began_s > _SHORT_S:
                backoff.reset()
            await trio.sleep(backoff.next_s(retry_s))

    async def _list(self) -> None:
        found, version = await self._door.list(self._path, self._selector)
        listed = {str(one["metadata"]["name"]): one for one in found}
        gone = self.objects.keys() - listed.keys()
        self.objects, self._version, self.is_fresh = listed, version, True
        for name in gone:
            self._on_change(name, None)
        for name, one in listed.items():
            self._on_change(name, one)

    async def _watch(self) -> None:
        async with self._door.watching(self._path, self._version, self._selector) as events:
            self._began_s = trio.current_time()
            async for event in events:
                self.is_fresh = True
                self._take(str(event.get("type")), event["object"])

    def _take(self, kind: str, one: Document) -> None:
        metadata = one.get("metadata") or {}
        self._version = str(metadata.get("resourceVersion") or self._version)
        name = str(metadata.get("name") or "")
        if kind in {"ADDED", "MODIFIED"} and name:
            self.objects[name] = one
            self._on_change(name, one)
        elif kind == "DELETED" and self.objects.pop(name, None) is not None:
            self._on_change(name, None)


def _first(error: BaseException) -> BaseException:
    """The first plain exception of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
