"""What the controller does with the requests of one connection.

Members prove themselves, join, report and acknowledge with MEMBER commands; routers pass their
clients' JOB, TIER, SERVER and EVENTS commands on with ``MEMBER.FORWARD``; clients may send those
directly as well. Everything else is answered by the engine, which has no slots here.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from pocketkv.controller.administration import Administration, Caller
from pocketkv.controller.core import UPDATE_PUSH, Core, Link
from pocketkv.controller.errors import RefusedError
from pocketkv.controller.members import (
    ROUTER,
    STORAGE,
    Joining,
    MemberError,
    MoveOutcome,
    Report,
    Retirement,
)
from pocketkv.controller.messages import (
    Ended,
    Event,
    JobConfigured,
    JobRetains,
    JobRetired,
    JobRetireRefused,
    Joined,
    MoveFailed,
    Reported,
    ServerDrained,
    SlotsMoved,
    StorePurged,
    UserSet,
    UsersRemoved,
)
from pocketkv.engine import gate
from pocketkv.engine.commands import Command, Route, find_command
from pocketkv.engine.errors import NO_AUTH, NO_PROTO, WRONG_PASS, CommandError, wrong_arity
from pocketkv.engine.session import Session
from pocketkv.placement import PlacementError
from pocketkv.resp.handler import RequestHandler
from pocketkv.resp.replies import OK, Deferred, ErrorReply, Push, Reply
from pocketkv.serving.shell import StartError
from pocketkv.tokens import MEMBER_NONCE_BYTES, verify_member_proof

_T = TypeVar("_T")

_NOT_JOINED: Final = b"ERR join first: MEMBER.CHALLENGE, then MEMBER.JOIN"
_DEFECT: Final = b"ERR internal error of the controller, which has logged it"
_STOPPING: Final = b"ERR the controller is starting or stopping"
_ONLY_ROUTERS: Final = b"NOPERM only routers pass commands on"
_ONLY_STORAGE: Final = b"NOPERM only storage servers are drained"


class ControllerHandler(RequestHandler):
    """One connection to the controller.

    Args:
        session: Its state, as the engine's commands see it.
        core: The controller's core.
        administration: Executes JOB, TIER, SERVER and EVENTS commands.
    """

    __slots__ = (
        "_administration",
        "_core",
        "_is_closed",
        "_joining",
        "_link",
        "_nonce",
        "session",
    )

    def __init__(self, session: Session, core: Core, administration: Administration) -> None:
        self.session = session
        self._core = core
        self._administration = administration
        self._nonce = b""
        self._joining: Joining | None = None
        self._link: Link | None = None
        self._is_closed = False

    def execute(self, request: list[bytes]) -> Reply:
        """Answer one request."""
        member_command = _MEMBER_COMMANDS.get(request[0].upper())
        try:
            if member_command is not None:
                arity, handler = member_command
                if len(request) < abs(arity) or (arity > 0 and len(request) != arity):
                    raise wrong_arity(request[0].lower().decode("ascii"))
                return handler(self, request)
            command = find_command(request)
            if command.route is Route.CONTROL:
                return self._administer(gate.admit(self.session, request), request)
        except CommandError as error:
            return gate.refuse(self.session, request, None, error)
        return gate.run(self.session, request)

    def on_close(self) -> None:
        """The connection is gone."""
        self._is_closed = True
        self.session.node.close_session(self.session)
        if self._link is not None:
            self._core.disconnect(self._link)

    # --- for the core --------------------------------------------------------------------------

    def send_update(self, text: bytes) -> None:
        """Push an update."""
        self.session.transport.push(Push([UPDATE_PUSH, text]))

    def drop(self) -> None:
        """Close: this member has connected anew."""
        self._link = None
        self.session.transport.close()

    # --- commands of members -------------------------------------------------------------------

    def _challenge(self, request: list[bytes]) -> Reply:
        self._nonce = secrets.token_hex(MEMBER_NONCE_BYTES).encode()
        return self._nonce

    def _join(self, request: list[bytes]) -> Reply:
        nonce, self._nonce = self._nonce, b""
        if self._joining is not None:
            raise CommandError(b"ERR this connection has joined already")
        if self.session.protocol != 3:
            raise CommandError(NO_PROTO)
        joining = _checked(Joining.from_json, request[1])
        secret = self.session.node.secret
        # An empty nonce is none: a proof must be made for this very connection.
        if not nonce or not verify_member_proof(secret, joining.id, nonce, request[2]):
            self._core.log.warning("proof refused", extra={"client": self.session.address})
            self.session.transport.close_when_sent()
            raise CommandError(WRONG_PASS)
        self._joining = joining
        return self._answer_later(lambda reply: self._join_core(joining, reply), exclusive=True)

    async def _join_core(self, joining: Joining, reply: Deferred) -> None:
        def connect() -> None:
            # Before the next event, so that no update is missed and none comes before this one.
            link = Link(joining.id, self)
            reply.complete(self._core.connect(link))
            if self._is_closed:
                self._core.disconnect(link)
            else:
                self._link = link

        try:
            await self._core.tell(Joined(joining), connect)
        except PlacementError as error:
            raise RefusedError(str(error)) from error

    def _acknowledge(self, request: list[bytes]) -> Reply:
        link = self._joined()
        if not request[1].isdigit() or len(request[1]) > 19:
            raise CommandError(b"ERR the epoch is not a number")
        self._core.acknowledge(link, int(request[1]))
        return OK

    def _report(self, request: list[bytes]) -> Reply:
        link = self._joined()
        self._core.report(Reported(link.member_id, _checked(Report.from_json, request[1])))
        return OK

    def _forward(self, request: list[bytes]) -> Reply:
        link = self._joined()
        assert self._joining is not None
        if self._joining.role != ROUTER:
            raise CommandError(_ONLY_ROUTERS)
        command = find_command(request[2:])
        if command.route is not Route.CONTROL:
            raise CommandError(b"ERR '%b' is not for the controller" % request[2][:64])
        caller = _checked(lambda text: Caller.forwarded(text, link.member_id), request[1])
        # Not exclusive: the answer may wait for this router's own acknowledgement.
        return self._perform(command, request[2:], caller, exclusive=False)

    def _retain(self, request: list[bytes]) -> Reply:
        """Keys of a job are about to be marked: remember that before they are."""
        self._joined()
        return self._tell(JobRetains(request[1].decode("utf-8", "replace")))

    def _retired(self, request: list[bytes]) -> Reply:
        """A server has handed over what a job left behind, or it was not taken."""
        link = self._joined()
        told = _checked(Retirement.from_json, request[1])
        if told.reason:
            return self._tell(JobRetireRefused(told.job_id, told.target, told.reason))
        return self._tell(
            JobRetired(told.job_id, link.member_id, told.target, told.keys, told.lost_keys)
        )

    def _moved(self, request: list[bytes]) -> Reply:
        """Source or target of a move has seen it carried out."""
        link = self._joined()
        told = _checked(MoveOutcome.from_json, request[1])
        return self._tell(
            SlotsMoved(link.member_id, told.job_id, told.move_id, told.keys, told.moved_bytes)
        )

    def _move_failed(self, request: list[bytes]) -> Reply:
        """A move was not carried out."""
        link = self._joined()
        told = _checked(MoveOutcome.from_json, request[1])
        reason = told.reason or "no reason was given"
        return self._tell(
            MoveFailed(link.member_id, told.job_id, told.move_id, reason, told.code, told.keys)
        )

    def _drain(self, request: list[bytes]) -> Reply:
        """A storage server was told to end, and wants to be rid of what it has before."""
        link = self._joined()
        if self._joining is None or self._joining.role != STORAGE:
            raise CommandError(_ONLY_STORAGE)
        if link.member_id not in self._core.state.fleet.members:
            return OK  # It has nothing.
        return self._tell(ServerDrained(link.member_id, "it was told to end", leaves=True))

    def _ends(self, request: list[bytes]) -> Reply:
        """A storage server that drained has no more time, and tells what it still has."""
        link = self._joined()
        return self._tell(Ended(link.member_id, _checked(Report.from_json, request[1])))

    def _purges(self, request: list[bytes]) -> Reply:
        """Jobs whose keys this member is to delete from the store that it has."""
        link = self._joined()
        return [job_id.encode() for job_id in self._core.state.purges_of(link.member_id)]

    def _purged(self, request: list[bytes]) -> Reply:
        """They are deleted."""
        self._joined()
        return self._tell(StorePurged(request[1].decode("utf-8", "replace")))

    def _set_user(self, request: list[bytes]) -> Reply:
        """A job makes or changes a user: its name, what a new one may hear, and the rules."""
        _, job_id, name, fresh, *rules = request
        return self._tell_all(UserSet(_text(job_id), _text(name), tuple(rules), fresh))

    def _remove_users(self, request: list[bytes]) -> Reply:
        """A job removes users."""
        return self._tell_all(UsersRemoved(_text(request[1]), tuple(map(_text, request[2:]))))

    def _configure(self, request: list[bytes]) -> Reply:
        """A job changes settings that are its own."""
        if len(request) % 2:
            raise wrong_arity("member.configure")
        words = list(map(_text, request[2:]))
        settings = dict(zip(words[::2], words[1::2], strict=True))
        return self._tell_all(JobConfigured(_text(request[1]), settings))

    def _tell_all(self, event: Event) -> Deferred:
        """Take an event, and answer when all members know what follows from it."""
        self._joined()

        async def tell(reply: Deferred) -> None:
            epoch = await self._core.tell(event)
            await self._core.wait_acknowledged(epoch)
            reply.complete(OK)

        return self._answer_later(tell, exclusive=False)

    def _tell(self, event: Event) -> Deferred:
        async def tell(reply: Deferred) -> None:
            await self._core.tell(event)
            reply.complete(OK)

        return self._answer_later(tell, exclusive=False)

    def _joined(self) -> Link:
        if self._link is None:
            raise CommandError(NO_AUTH if self._joining is None else _NOT_JOINED)
        return self._link

    # --- commands of clients -------------------------------------------------------------------

    def _administer(self, command: Command, request: list[bytes]) -> Reply:
        session = self.session
        caller = Caller(session.job_id, session.admin, None)
        return self._perform(command, request, caller, exclusive=True)

    def _perform(
        self, command: Command, request: list[bytes], caller: Caller, *, exclusive: bool
    ) -> Reply:
        node = self.session.node
        started_ns = node.timer_ns()

        async def perform(reply: Deferred) -> None:
            answer: Reply
            try:
                answer = await self._administration.perform(command.name, request, caller)
            except CommandError as error:
                answer = ErrorReply(error.text)
            except StartError:
                raise  # The controller ends, and the connection with it.
            except Exception:
                self._core.log.exception("defect: a command was not executed")
                answer = ErrorReply(_DEFECT)
            duration_ns = node.timer_ns() - started_ns
            node.record_call(self.session, command, request, duration_ns, answer)
            reply.complete(answer)

        return self._answer_later(perform, exclusive=exclusive)

    def _answer_later(
        self, task: Callable[[Deferred], Awaitable[None]], *, exclusive: bool
    ) -> Deferred:
        reply = Deferred(exclusive=exclusive)

        async def answer() -> None:
            try:
                await task(reply)
            except RefusedError as error:
                text = f"ERR {error}".encode("utf-8", "backslashreplace")
                reply.complete(ErrorReply(text))

        if not self._core.start_soon(answer):
            raise CommandError(_STOPPING)
        return reply


def _text(argument: bytes) -> str:
    return argument.decode("utf-8", "surrogateescape")


def _checked(parse: Callable[[bytes], _T], text: bytes) -> _T:
    try:
        return parse(text)
    except (MemberError, json.JSONDecodeError) as error:
        raise CommandError(f"ERR {error}".encode()) from error


_MEMBER_COMMANDS: Final[
    dict[bytes, tuple[int, Callable[[ControllerHandler, list[bytes]], Reply]]]
] = {
    b"MEMBER.CHALLENGE": (1, ControllerHandler._challenge),
    b"MEMBER.JOIN": (3, ControllerHandler._join),
    b"MEMBER.ACK": (2, ControllerHandler._acknowledge),
    b"MEMBER.REPORT": (2, ControllerHandler._report),
    b"MEMBER.RETAIN": (2, ControllerHandler._retain),
    b"MEMBER.SETUSER": (-4, ControllerHandler._set_user),
    b"MEMBER.DELUSER": (-3, ControllerHandler._remove_users),
    b"MEMBER.CONFIGURE": (-4, ControllerHandler._configure),
    b"MEMBER.RETIRED": (2, ControllerHandler._retired),
    b"MEMBER.MOVED": (2, ControllerHandler._moved),
    b"MEMBER.MOVE_FAILED": (2, ControllerHandler._move_failed),
    b"MEMBER.DRAIN": (2, ControllerHandler._drain),
    b"MEMBER.ENDS": (2, ControllerHandler._ends),
    b"MEMBER.PURGES": (1, ControllerHandler._purges),
    b"MEMBER.PURGED": (2, ControllerHandler._purged),
    b"MEMBER.FORWARD": (-3, ControllerHandler._forward),
}
