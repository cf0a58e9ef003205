"""Asks a cluster what `pocketkv top` shows, over RESP like any client.

A command that the cluster does not know (it may be older) is not asked again; one that it refuses
for another reason, or no answer, is an error of the whole round.
"""

from __future__ import annotations

import time
from typing import Any, Final

import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from pocketkv.top.figures import Answers

_TIMEOUT_S: Final = 5.0
_EVENTS_MAX: Final = 200
_UNKNOWN: Final = "unknown command"

# What is asked in each round, by the field of `Answers` that it fills.
_QUESTIONS: Final = {
    "tiers": ("TIER.LIST",),
    "servers": ("SERVER.LIST",),
    "jobs": ("JOB.LIST",),
    "moves": ("MOVE.LIST",),
    "events": ("EVENTS.LIST", "COUNT", _EVENTS_MAX),
}


class SourceError(Exception):
    """The cluster does not answer, or refuses; the message is one line."""


class Source:
    """A connection to a router.

    Args:
        url: The router's.
        password: That of the administrator; None where administration is open.

    Raises:
        SourceError: that is no URL.
    """

    def __init__(self, url: str, password: str | None) -> None:
        try:
            self._client = redis.asyncio.Redis.from_url(
                url,
                decode_responses=True,
                protocol=3,
                socket_timeout=_TIMEOUT_S,
                socket_connect_timeout=_TIMEOUT_S,
                username="admin" if password else None,
                password=password or None,
            )
        except ValueError as error:
            raise SourceError(str(error)) from error
        self._unknown: set[str] = set()

    async def ask(self) -> Answers:
        """Return what the cluster answers now.

        Raises:
            SourceError: it does not.
        """
        answers: dict[str, Any] = {}
        try:
            for name, question in _QUESTIONS.items():
                if name not in self._unknown:
                    answers[name] = await self._answer(name, question)
        except (RedisError, OSError) as error:
            raise SourceError(str(error) or type(error).__name__) from error
        return Answers(time.monotonic(), **answers)

    async def _answer(self, name: str, question: tuple[str | int, ...]) -> list[Any]:
        try:
            reply = await self._client.execute_command(*question)  # type: ignore[no-untyped-call]
        except ResponseError as error:
            if _UNKNOWN not in str(error):
                raise
            self._unknown.add(name)
            return []
        return list(reply)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._client.aclose()
