"""Keeps a router's requests in order when a slot turns out to be served elsewhere.

A router sends many requests before it has the first reply. If one of them is refused because its
slots are not served here, those behind it must not be executed before it: it will be sent again,
and would undo what they did. So after a refusal everything on that connection is refused, until
the router has taken note: it sends `RESUME`, hears the map that the refusal was made by, and sends
again what was refused, in the old order.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from pocketkv.engine.gate import run
from pocketkv.resp.handler import RequestHandler
from pocketkv.resp.replies import Deferred, ErrorReply, Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

# Known to routers only; it is no command of its own, and unknown on other connections.
RESUME: Final = b"POCKETKV.RESUME"
# What a server answers when it does not serve the slots of a request, or not yet.
REFUSALS: Final = (b"MOVED ", b"CROSSSLOT ", b"CLUSTERDOWN ", b"TRYAGAIN ")
BEHIND: Final = b"TRYAGAIN An earlier request on this connection was for another server"


class FencedHandler(RequestHandler):
    """Executes the requests of a connection that has proved to be a router's."""

    __slots__ = ("_is_up", "session")

    def __init__(self, session: Session) -> None:
        self.session = session
        self._is_up = False

    def execute(self, request: list[bytes]) -> Reply:
        """Answer one request, unless one before it was refused."""
        if self._is_up:
            return self._execute_behind(request)
        reply = run(self.session, request)
        if isinstance(reply, ErrorReply):
            self._look_at(reply)
        elif isinstance(reply, Deferred):
            deferred = reply
            deferred.listen(lambda: self._look_at(deferred.reply))
        return reply

    def _look_at(self, reply: Reply) -> None:
        """Refuse what comes next, if this was refused."""
        if type(reply) is ErrorReply and reply.text.startswith(REFUSALS):
            self._is_up = True

    def _execute_behind(self, request: list[bytes]) -> Reply:
        if request[0] != RESUME:
            return ErrorReply(BEHIND)
        self._is_up = False
        session = self.session
        session.flips_seen = session.space.flips
        placement = session.node.topology.placements.get(session.job_id)
        return None if placement is None else json.dumps(placement.as_json()).encode()

    def on_close(self) -> None:
        """The connection is gone."""
        self.session.node.close_session(self.session)
