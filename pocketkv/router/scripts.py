"""Scripts and functions through a router: all of a job's servers are to know all of them.

What is loaded is loaded everywhere. A server that came later, or has only now met a script, may
lack one that another server has: the router then takes it from there, and repeats the request. The
client's next requests wait meanwhile. If others are under way behind it they are executed already,
and it is not repeated, since it would be executed too late: the client is told what the server has
said.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Final

from pocketkv.engine.commands import COMMANDS, Command
from pocketkv.engine.functions import NO_FUNCTION
from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.replies import Encoded, ErrorReply, Reply
from pocketkv.router.exchange import Asker, Exchange, Forward
from pocketkv.router.merge import elements_of
from pocketkv.router.split import AllGather
from pocketkv.router.upstream import KILLING_NUMBER, Binding
from pocketkv.router.wire import bulk_body, error_text

if TYPE_CHECKING:
    from pocketkv.router.upstream import Upstream

_NO_SCRIPT: Final = b"-NOSCRIPT "
_NO_FUNCTION: Final = b"-" + NO_FUNCTION
_LACKS_LIBRARY: Final = (b"ERR Library not found",)
_BY_CODE: Final = {"evalsha": b"EVAL", "evalsha_ro": b"EVAL_RO"}


class LongForward(Forward):
    """A request that may be executed for long: EVAL.

    What it calls, the server looks at: of a user who may not do everything it takes a lane of the
    client alone, on which the server knows who that is.
    """

    __slots__ = ()

    may_last: ClassVar[bool] = True

    def __init__(self, client: Asker, command: Command, request: list[bytes]) -> None:
        super().__init__(client, command, request)
        self.exclusive = client.session.user is not None

    def start(self) -> None:
        """Send it, and have it known that it is under way."""
        if self.exclusive:
            self.binding = self.client.private()
        self.client.router.note_script(self)
        super().start()

    def finish(self, reply: Reply, size_bytes: int) -> None:
        """It is over."""
        self.client.router.forget_script(self)
        super().finish(reply, size_bytes)


class BusyPing(Exchange):
    """PING while a script of the job takes long: those who execute it say whether they are busy."""

    __slots__ = ("_missing",)

    def start(self) -> None:
        """Ask the servers."""
        job_id = self.binding.key[0]
        router = self.client.router
        asked = router.lasting_scripts_at(job_id)
        self._missing = len(asked)
        if not asked:
            self._pong()
        for upstream in asked:
            # What a router asks about the server itself is answered all the same.
            router.ask(upstream, job_id, [b"DBSIZE"], self._on_answer)

    def _on_answer(self, reply: Reply) -> None:
        self._missing -= 1
        if self.done:
            return
        if isinstance(reply, ErrorReply) and reply.text.startswith(b"BUSY"):
            self.finish(reply, 0)
        elif not self._missing:
            self._pong()

    def _pong(self) -> None:
        """Nobody is busy: answer as ever."""
        session = self.client.session
        reply = self.command.handler(session, self.request)
        self.finish(Encoded(encode_reply(reply, session.protocol)), 0)


class LackingForward(LongForward):
    """A request that a server may not be able to execute, because it lacks what others have."""

    __slots__ = ("_codes", "_is_repeated", "_missing")

    def __init__(self, client: Asker, command: Command, request: list[bytes]) -> None:
        super().__init__(client, command, request)
        self._is_repeated = False
        self._missing = 0
        self._codes: list[bytes] = []

    def lacks(self, frame: bytes) -> bool:
        """Whether an error says that."""
        raise NotImplementedError  # An interface: scripts and functions are told apart.

    def question(self) -> list[bytes]:
        """What other servers are asked."""
        raise NotImplementedError  # As above.

    def taken(self, upstream: Upstream, codes: list[bytes]) -> None:
        """Send again, with what other servers have."""
        raise NotImplementedError  # As above.

    def answer_error(self, frame: bytes) -> None:
        """Pass it on, unless somebody else has what is lacking."""
        others = self._others() if self.lacks(frame) and not self._is_repeated else []
        if not others or self.client.in_flight != 1 or self.client.closed:
            super().answer_error(frame)
            return
        self._is_repeated = True
        self._missing = len(others)
        self.client.hold()
        for upstream in others:
            self.client.router.ask(
                upstream,
                self.binding.key[0],
                self.question(),
                lambda reply: self._on_answer(reply, frame),
            )

    def _others(self) -> list[Upstream]:
        view = self.client.router.view(self.binding.key[0])
        return [owner for owner in view.known_owners() if owner is not self.upstream]

    def _on_answer(self, reply: Reply, frame: bytes) -> None:
        self._missing -= 1
        if isinstance(reply, Encoded):
            self._codes += _codes(reply.raw)
        if self._missing:
            return
        upstream = self.upstream
        assert upstream is not None  # It has answered.
        if self._codes and not self.client.closed:
            self.taken(upstream, list(dict.fromkeys(self._codes)))
        else:
            self.finish(ErrorReply(error_text(frame)), len(frame))
        self.client.release()


class ScriptForward(LackingForward):
    """EVALSHA: sent again as EVAL, which loads the script as well."""

    __slots__ = ()

    def lacks(self, frame: bytes) -> bool:
        """Whether the server does not know the script."""
        return frame.startswith(_NO_SCRIPT)

    def question(self) -> list[bytes]:
        """What the script is."""
        return [b"POCKETKV.SCRIPT", self.request[1]]

    def taken(self, upstream: Upstream, codes: list[bytes]) -> None:
        """Send the script itself."""
        self.request = [_BY_CODE[self.command.name], codes[0], *self.request[2:]]
        self.frame = None
        self.cost_bytes = 0
        self.send(upstream)


class FunctionForward(LackingForward):
    """FCALL: sent again when the libraries of other servers are loaded."""

    __slots__ = ()

    def lacks(self, frame: bytes) -> bool:
        """Whether the server does not know the function."""
        return frame.startswith(_NO_FUNCTION)

    def question(self) -> list[bytes]:
        """What libraries there are."""
        return [b"POCKETKV.SCRIPT"]

    def taken(self, upstream: Upstream, codes: list[bytes]) -> None:
        """Load them, on the same lane, and send the request again behind that."""
        for code in codes:
            load = _Load(self, code)
            load.send(upstream)
        self.send(upstream)


class _Load(Forward):
    """A library on its way to a server; if it is refused, the call behind it is, too."""

    __slots__ = ()

    def __init__(self, call: Forward, code: bytes) -> None:
        record = COMMANDS[b"FUNCTION"].subcommands[b"LOAD"]
        super().__init__(
            call.client.router.nobody, record, [b"FUNCTION", b"LOAD", b"REPLACE", code]
        )
        self.binding = call.binding

    def reroute(self) -> None:
        """The call goes elsewhere, and is seen to there."""


class SameGather(AllGather):
    """What all servers have to answer alike: SCRIPT LOAD, FUNCTION LOAD."""

    __slots__ = ()

    def gathered(self) -> None:
        """The answer of all; an error of one is the answer."""
        frames = {part.reply.raw for part in self.parts if isinstance(part.reply, Encoded)}
        if self.first_error() is None and len(frames) == 1:
            self.finish(Encoded(frames.pop()), self.size_bytes)
        else:
            super().gathered()


class OneGather(AllGather):
    """What one server has to succeed in: FUNCTION DELETE."""

    __slots__ = ()

    def gathered(self) -> None:
        """The first answer that is no error, or the error that says most."""
        for part in self.parts:
            if isinstance(part.reply, Encoded):
                self.finish(part.reply, self.size_bytes)
                return
        errors = [part.reply for part in self.parts if isinstance(part.reply, ErrorReply)]
        # That nothing is executed at one server says less than that something cannot be ended.
        telling = [e for e in errors if not e.text.startswith((b"NOTBUSY", *_LACKS_LIBRARY))]
        self.finish((telling or errors)[0], 0)


class KillGather(OneGather):
    """SCRIPT KILL, FUNCTION KILL: on a lane on which nothing waits for a script to end."""

    __slots__ = ()

    def start(self) -> None:
        """Ask every server of the job."""
        self.binding = _killing_binding(self)
        super().start()


class LoadedGather(AllGather):
    """SCRIPT EXISTS: whether all servers have them."""

    __slots__ = ()

    def gathered(self) -> None:
        """1 for each script that everybody has."""
        error = self.first_error()
        if error is not None:
            self.finish(error, 0)
            return
        try:
            answers = [
                elements_of(part.reply.raw)
                for part in self.parts
                if isinstance(part.reply, Encoded)
            ]
        except ProtocolError as mismatch:
            self.finish(ErrorReply(b"ERR Storage servers disagree: %b" % str(mismatch).encode()), 0)
            return
        known: list[Reply] = [int(b":0\r\n" not in of_one) for of_one in zip(*answers, strict=True)]
        self.finish(Encoded(encode_reply(known, self.binding.key[2])), self.size_bytes)


class LongestGather(AllGather):
    """What the server is asked that knows most: FUNCTION LIST, FUNCTION DUMP, FUNCTION STATS."""

    __slots__ = ()

    def gathered(self) -> None:
        """The longest answer."""
        answers = [part.reply for part in self.parts if isinstance(part.reply, Encoded)]
        if answers:
            self.finish(max(answers, key=lambda answer: len(answer.raw)), self.size_bytes)
        else:
            super().gathered()


class StatsGather(LongestGather):
    """FUNCTION STATS: asked where nothing waits for the function to end that it may tell of."""

    __slots__ = ()

    def start(self) -> None:
        """Ask every server of the job."""
        self.binding = _killing_binding(self)
        super().start()


def _killing_binding(exchange: Exchange) -> Binding:
    """Lanes that take nothing that lasts."""
    job_id, _, protocol, _ = exchange.binding.key
    return Binding((job_id, 0, protocol, KILLING_NUMBER))


def _codes(frame: bytes) -> list[bytes]:
    """What a server has sent: a script, libraries, or nothing."""
    try:
        if frame[:1] == b"*":
            return [bulk_body(element) for element in elements_of(frame)]
        return [bulk_body(frame)]
    except ProtocolError:
        return []
