"""PUBLISH and PUBSUB through a router.

What is published goes to one server, the owner of the slot that the channel's name has as a key, so
that the messages of a channel keep their order; that server tells everybody.
"""

from __future__ import annotations

from typing import Final

from pocketkv.engine.arguments import Glob
from pocketkv.engine.errors import CommandError
from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.replies import Encoded, ErrorReply, Reply
from pocketkv.router.exchange import Forward
from pocketkv.router.merge import elements_of
from pocketkv.router.split import AllGather
from pocketkv.router.upstream import Upstream
from pocketkv.router.view import JobView
from pocketkv.router.wire import bulk_body
from pocketkv.slots import key_slot

_QUESTIONS: Final = {
    "pubsub|channels": b"CHANNELS",
    "pubsub|numpat": b"PATTERNS",
    "pubsub|shardchannels": b"SHARDCHANNELS",
    "pubsub|numsub": b"NUMSUB",
    "pubsub|shardnumsub": b"SHARDNUMSUB",
}


class PublishForward(Forward):
    """PUBLISH: to the owner of the channel's slot."""

    __slots__ = ()

    def owner(self, view: JobView) -> Upstream:
        """The server that tells all others.

        Raises:
            CommandError: CLUSTERDOWN.
        """
        return view.owner(key_slot(self.request[1]))


class PubSubGather(AllGather):
    """PUBSUB: of all servers of the job, where this router and others listen for their clients."""

    __slots__ = ()

    def asked(self) -> list[bytes]:
        """What each server is asked."""
        names = self.request[2:] if self.command.name.endswith("numsub") else []
        return [b"POCKETKV.PUBSUB", _QUESTIONS[self.command.name], *names]

    def start(self) -> None:
        """Ask, unless the request is wrong."""
        try:
            self.command.handler(self.client.session, self.request)
        except CommandError as error:
            self.finish(ErrorReply(error.text), 0)
            return
        super().start()

    def gathered(self) -> None:
        """Make one answer of all."""
        error = self.first_error()
        if error is not None:
            self.finish(error, 0)
            return
        try:
            reply = self._merged([elements_of(_raw(part.reply)) for part in self.parts])
        except ProtocolError as mismatch:
            self.finish(ErrorReply(b"ERR Storage servers disagree: %b" % str(mismatch).encode()), 0)
        else:
            self.finish(Encoded(encode_reply(reply, self.binding.key[2])), self.size_bytes)

    def _merged(self, answers: list[list[bytes]]) -> Reply:
        if self.command.name.endswith("numsub"):
            return self._numbers(answers)
        names = list(dict.fromkeys(bulk_body(name) for answer in answers for name in answer))
        if self.command.name == "pubsub|numpat":
            return len(names)
        if len(self.request) > 2:
            glob = Glob(self.request[2])
            names = [name for name in names if glob.matches(name)]
        return list(names)

    def _numbers(self, answers: list[list[bytes]]) -> Reply:
        """Clients of all servers, and those for whom routers listen: all servers know the same."""
        reply: list[Reply] = []
        for place, name in enumerate(self.request[2:]):
            pairs = [elements_of(answer[place]) for answer in answers]
            direct = sum(int(pair[0][1:-2]) for pair in pairs)
            listened = max((int(pair[1][1:-2]) for pair in pairs), default=0)
            reply += [name, direct + listened]
        return reply


def _raw(reply: object) -> bytes:
    if not isinstance(reply, Encoded):
        raise ProtocolError("expected an answer from every server")
    return reply.raw
