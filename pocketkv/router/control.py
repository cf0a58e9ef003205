"""Commands that the controller executes: passed on in a task, since they are rare and may take.

A client's next command waits until the controller has answered, so that a job's registration is
over before the job is used.
"""

from __future__ import annotations

import json
from typing import Any

from pocketkv import limits
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import RemoteError
from pocketkv.resp.replies import OK, ErrorReply, Reply
from pocketkv.router.exchange import Exchange


class ControlExchange(Exchange):
    """JOB, TIER, SERVER and EVENTS: one command on its way to the controller and back."""

    __slots__ = ()

    def start(self) -> None:
        """Ask in a task."""
        nursery = self.client.router.nursery
        if nursery is None:
            self.finish(_away("the router is not joined to it"), 0)
            return
        self.client.hold()
        nursery.start_soon(self._ask)

    async def _ask(self) -> None:
        reply = await self._reply()
        self.client.release()
        self.finish(reply, 0)

    async def _reply(self) -> Reply:
        session = self.client.session
        membership = self.client.router.membership
        if membership is None:
            return _away("the router is not joined to it")
        context = json.dumps({"job": session.job_id, "admin": session.admin})
        try:
            answer = await membership.call(
                "MEMBER.FORWARD", context, *self.request, timeout_s=limits.CONTROL_TIMEOUT_S
            )
            return as_reply(answer)
        except RemoteError as error:
            return ErrorReply(str(error).encode())
        except PeerError as error:
            self.client.router.counters.upstream_errors += 1
            return _away(str(error))


def _away(reason: str) -> ErrorReply:
    return ErrorReply(f"CLUSTERDOWN The controller does not answer: {reason}".encode())


def as_reply(answer: Any) -> Reply:
    """A decoded answer of the controller as a reply that can be encoded for any client.

    Raises:
        PeerError: It has something in it that no controller answers.
    """
    if answer is None or isinstance(answer, bool | int | float):
        return answer
    if isinstance(answer, bytes):
        # A decoded answer does not tell a simple string from a bulk.
        return OK if answer == b"OK" else answer
    if isinstance(answer, str):
        return answer.encode()
    if isinstance(answer, RemoteError):
        return ErrorReply(str(answer).encode())
    if isinstance(answer, list | tuple):
        return [as_reply(item) for item in answer]
    if isinstance(answer, dict):
        return {_as_key(key): as_reply(value) for key, value in answer.items()}
    if isinstance(answer, set | frozenset):
        return {_as_key(member) for member in answer}
    raise PeerError("the controller's answer cannot be passed on")


def _as_key(key: Any) -> bytes:
    if isinstance(key, bytes):
        return key
    return str(key).encode()
