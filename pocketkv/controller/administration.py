"""JOB, TIER, SERVER, MOVE and EVENTS: who may send them, what they do, and what they answer.

Where an administrator's password is set, only the administrator may send them; but a job may look
at itself, renew, update and end itself. Without a password, everybody may administer.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from pocketkv.catalog import TIER_NAMES, CatalogError
from pocketkv.controller import listings
from pocketkv.controller.core import Core
from pocketkv.controller.errors import RefusedError
from pocketkv.controller.members import MemberError
from pocketkv.controller.messages import (
    DrainCancelled,
    JobDeregistered,
    JobPurged,
    JobRegistered,
    JobRenewed,
    JobUpdated,
    ServerDrained,
    TierScaled,
)
from pocketkv.engine.errors import CommandError
from pocketkv.jobs import JOB_ID_RANDOM_BYTES, Hints, Job, JobError, parse_hints
from pocketkv.resp.replies import OK, Reply
from pocketkv.tokens import job_token

EVENTS_SHOWN: Final = 100
"""So many events are listed if no number is given."""

_ID_DIGITS_MAX: Final = 18
_NO_PERMISSION: Final = "NOPERM User {} has no permissions to run the '{}' command"


class Right(Enum):
    """Who may send a command where an administrator's password is set."""

    ADMINISTRATOR = "administrator"
    JOB = "the job that it names, too"


@dataclass(frozen=True)
class Caller:
    """Who sends a command: a client in a job, maybe administrator, maybe through a router."""

    job_id: str
    is_admin: bool
    router_id: str | None

    @classmethod
    def forwarded(cls, context: bytes, router_id: str) -> Caller:
        """Return the caller that a router tells of, as ``{"job": id, "admin": bool}``.

        Raises:
            MemberError: It tells something else.
        """
        try:
            fields = json.loads(context)
            return cls(str(fields["job"]), fields["admin"] is True, router_id)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MemberError(f"not the context of a command: {error}") from error


class Administration:
    """Executes the commands.

    Args:
        core: The controller's core.
        secret: The cluster's secret, for tokens.
        is_closed: Whether there is an administrator's password.
    """

    def __init__(self, core: Core, secret: bytes, *, is_closed: bool) -> None:
        self._core = core
        self._secret = secret
        self._is_closed = is_closed

    async def perform(self, name: str, request: list[bytes], caller: Caller) -> Reply:
        """Execute a command whose name and number of arguments are right.

        Raises:
            CommandError: It is refused.
        """
        right, handler = _COMMANDS[name]
        if not self._may(right, request, caller):
            raise CommandError(_NO_PERMISSION.format(caller.job_id, name).encode())
        try:
            return await handler(self, request, caller)
        except (RefusedError, JobError, CatalogError) as error:
            raise CommandError(f"ERR {error}".encode()) from error

    def _may(self, right: Right, request: list[bytes], caller: Caller) -> bool:
        if caller.is_admin or not self._is_closed:
            return True
        return right is Right.JOB and _text(request[1]) == caller.job_id

    # --- jobs ----------------------------------------------------------------------------------

    async def _register(self, request: list[bytes], caller: Caller) -> Reply:
        hints = parse_hints(request[2:])
        core = self._core
        random_bytes = secrets.token_bytes(JOB_ID_RANDOM_BYTES)
        job = Job.registered(_text(request[1]), hints, core.now_ms(), random_bytes)
        epoch = await core.tell(JobRegistered(job))
        await core.wait_acknowledged(epoch)
        token = job_token(self._secret, job.id)
        placed = listings.placed(core.state, job.id)
        url = listings.url(core.state, caller.router_id, job.id, token)
        return {b"id": job.id.encode(), b"token": token.encode(), b"url": url, **placed}

    async def _update(self, request: list[bytes], caller: Caller) -> Reply:
        job_id, hints = _text(request[1]), parse_hints(request[2:])
        if hints == Hints():
            raise RefusedError("there is no hint to change")
        epoch = await self._core.tell(JobUpdated(job_id, hints))
        await self._core.wait_acknowledged(epoch)
        return {b"id": job_id.encode(), **listings.placed(self._core.state, job_id)}

    async def _deregister(self, request: list[bytes], caller: Caller) -> Reply:
        epoch = await self._core.tell(JobDeregistered(_text(request[1])))
        await self._core.wait_acknowledged(epoch)
        return OK

    async def _renew(self, request: list[bytes], caller: Caller) -> Reply:
        await self._core.tell(JobRenewed(_text(request[1])))
        return OK

    async def _info(self, request: list[bytes], caller: Caller) -> Reply:
        return listings.job(self._core.state, _text(request[1]), self._core.now_ms())

    async def _list(self, request: list[bytes], caller: Caller) -> Reply:
        return listings.jobs(self._core.state, self._core.now_ms())

    async def _purge(self, request: list[bytes], caller: Caller) -> Reply:
        epoch = await self._core.tell(JobPurged(_text(request[1])))
        await self._core.wait_acknowledged(epoch)
        return OK

    # --- tiers and servers ---------------------------------------------------------------------

    async def _tiers(self, request: list[bytes], caller: Caller) -> Reply:
        return listings.tiers(self._core.state)

    async def _scale(self, request: list[bytes], caller: Caller) -> Reply:
        tier, count = _text(request[1]).lower(), _count(request[2])
        core = self._core
        if tier not in TIER_NAMES:
            raise RefusedError(f"no tier is called '{tier}', only {', '.join(TIER_NAMES)}")
        most = count if core.backend is None else core.backend.servers_max(tier)
        if count > most:
            raise RefusedError(f"{tier} has at most {most} servers here")
        core.state.check_scale(tier, count)
        epoch = await core.tell(TierScaled(tier, count))
        await core.wait_acknowledged(epoch)
        return listings.tier(core.state, tier)

    async def _servers(self, request: list[bytes], caller: Caller) -> Reply:
        return listings.servers(self._core.state, self._core.now_ms())

    async def _drain(self, request: list[bytes], caller: Caller) -> Reply:
        """Accepted: how far it is, SERVER.LIST shows."""
        epoch = await self._core.tell(ServerDrained(_text(request[1])))
        await self._core.wait_acknowledged(epoch)
        return OK

    async def _undrain(self, request: list[bytes], caller: Caller) -> Reply:
        epoch = await self._core.tell(DrainCancelled(_text(request[1])))
        await self._core.wait_acknowledged(epoch)
        return OK

    async def _moves(self, request: list[bytes], caller: Caller) -> Reply:
        return listings.moves(self._core.state, self._core.now_ms())

    async def _events(self, request: list[bytes], caller: Caller) -> Reply:
        since, count = _events_options(request[1:])
        return listings.events(self._core.state.events.since(since, count))


def _events_options(arguments: list[bytes]) -> tuple[int | None, int]:
    """Return SINCE (None if it is not given) and COUNT.

    Raises:
        RefusedError: They are something else.
    """
    values = {b"SINCE": -1, b"COUNT": EVENTS_SHOWN}
    for i in range(0, len(arguments), 2):
        name, value = arguments[i].upper(), arguments[i + 1] if i + 1 < len(arguments) else b""
        if name not in values or not value.isdigit() or len(value) > _ID_DIGITS_MAX:
            raise RefusedError(
                "EVENTS.LIST takes [SINCE id] [COUNT count], whole numbers from 0 on"
            )
        values[name] = int(value)
    return (None if values[b"SINCE"] < 0 else values[b"SINCE"]), values[b"COUNT"]


def _text(argument: bytes) -> str:
    return argument.decode("utf-8", "replace")


def _count(argument: bytes) -> int:
    if not argument.isdigit() or len(argument) > 9:
        raise RefusedError("the number of servers must be a whole number from 0 on")
    return int(argument)


_Handler: TypeAlias = Callable[[Administration, list[bytes], Caller], Awaitable[Reply]]

_COMMANDS: Final[dict[str, tuple[Right, _Handler]]] = {
    "job.register": (Right.ADMINISTRATOR, Administration._register),
    "job.update": (Right.JOB, Administration._update),
    "job.deregister": (Right.JOB, Administration._deregister),
    "job.renew": (Right.JOB, Administration._renew),
    "job.info": (Right.JOB, Administration._info),
    "job.list": (Right.ADMINISTRATOR, Administration._list),
    "job.purge": (Right.JOB, Administration._purge),
    "tier.list": (Right.ADMINISTRATOR, Administration._tiers),
    "tier.scale": (Right.ADMINISTRATOR, Administration._scale),
    "server.list": (Right.ADMINISTRATOR, Administration._servers),
    "server.drain": (Right.ADMINISTRATOR, Administration._drain),
    "server.undrain": (Right.ADMINISTRATOR, Administration._undrain),
    "move.list": (Right.ADMINISTRATOR, Administration._moves),
    "events.list": (Right.ADMINISTRATOR, Administration._events),
}
