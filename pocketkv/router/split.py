"""Commands that concern several storage servers: split, asked in parallel, and merged.

A command whose keys live on several servers is not atomic there: each server executes its part at
its own time. If a part fails, the others may have been executed all the same, and the reply is
the first error: after an error of DEL or MSET some of the keys may be deleted or set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.commands import Command, Merge
from pocketkv.engine.errors import CROSS_SLOT, CommandError, wrong_arity
from pocketkv.resp.errors import ProtocolError
from pocketkv.resp.replies import Encoded, ErrorReply, Reply
from pocketkv.router.exchange import Asker, Exchange, Forward
from pocketkv.router.merge import merge_frames
from pocketkv.slots import key_slot

if TYPE_CHECKING:
    from pocketkv.router.upstream import Upstream
    from pocketkv.router.view import JobView

# A command for all servers is asked again if the map changed meanwhile, but not for ever.
_ROUNDS_MAX: Final = 3
_NULLS: Final = (b"$-1\r\n", b"_\r\n")


class Part(Forward):
    """What one server is asked of a command that several are asked.

    Attributes:
        parent: The command.
        places: Which of the command's keys it is about, counted from 0.
    """

    __slots__ = ("parent", "places")

    # It is a part of something that has to be whole.
    streams = False

    def __init__(self, parent: Gather, request: list[bytes], places: list[int]) -> None:
        super().__init__(parent.client, parent.command, request)
        self.parent = parent
        self.places = places
        self.binding = parent.binding
        if request is parent.request:
            self.frame = parent.frame

    def finish(self, reply: Reply, size_bytes: int) -> None:
        """Tell the command, which answers the client when all parts are there."""
        self.complete(reply)
        self.parent.part_finished(self, size_bytes)

    def owner(self, view: JobView) -> Upstream:
        """The owner of its keys; without keys, the server that it was made for.

        Raises:
            CommandError: Nobody owns them, or several servers do.
        """
        if self.places:
            return Forward.owner(self, view)
        assert self.upstream is not None
        return self.upstream

    def reroute(self) -> None:
        """Its keys may have several owners now."""
        self.parent.replace(self)


class Gather(Exchange):
    """A command with parts, and the reply that is made of theirs."""

    __slots__ = ("missing", "parts", "size_bytes")

    def __init__(self, client: Asker, command: Command, request: list[bytes]) -> None:
        super().__init__(client, command, request)
        self.parts: list[Part] = []
        # Parts that are not answered.
        self.missing = 0
        self.size_bytes = 0

    def part_finished(self, part: Part, size_bytes: int) -> None:
        """A part has its answer."""
        self.size_bytes += size_bytes
        self.missing -= 1
        if self.missing == 0:
            self.gathered()

    def gathered(self) -> None:
        """All parts have their answers."""
        error = self.first_error()
        if error is not None:
            self.finish(error, self.size_bytes)
            return
        try:
            raw = merge_frames(
                self.merging(), [_frame(p) for p in self.parts], [p.places for p in self.parts]
            )
        except ProtocolError as mismatch:
            self.finish(ErrorReply(b"ERR Storage servers disagree: %b" % str(mismatch).encode()), 0)
        else:
            self.finish(Encoded(raw), self.size_bytes)

    def merging(self) -> Merge:
        """How the parts' replies become one."""
        return self.command.merge

    def first_error(self) -> ErrorReply | None:
        """The first part's error, in the order in which they were sent."""
        for part in self.parts:
            if isinstance(part.reply, ErrorReply):
                return part.reply
        return None

    def replace(self, part: Part) -> None:
        """A part has to be sent anew, by the newest map."""
        view = self.client.router.view(self.binding.key[0])
        try:
            part.send(part.owner(view))
        except CommandError as error:
            part.finish(ErrorReply(error.text), 0)


class SplitForward(Forward):
    """A command that might be split, but whose keys have one owner as far as is known."""

    __slots__ = ()

    def misplaced(self, view: JobView, error: CommandError) -> None:
        """Its keys have several owners: split it after all."""
        if error.text != CROSS_SLOT:
            self.finish(ErrorReply(error.text), 0)
            return
        gather = SplitGather(self.client, self.command, self.request)
        gather.whole = self
        gather.binding = self.binding
        gather.split(view)


class SplitGather(Gather):
    """A command whose keys may have several owners: MGET MSET DEL UNLINK EXISTS TOUCH.

    Attributes:
        whole: The command that the client waits for, if it is not this.
    """

    __slots__ = ("whole",)

    def __init__(self, client: Asker, command: Command, request: list[bytes]) -> None:
        super().__init__(client, command, request)
        self.whole: SplitForward | None = None

    def start(self) -> None:
        """Send it by the client's map."""
        self.split(self.client.view)

    def finish(self, reply: Reply, size_bytes: int) -> None:
        """Answer the client, once."""
        if self.whole is not None:
            self.whole.finish(reply, size_bytes)
        else:
            Gather.finish(self, reply, size_bytes)

    def split(self, view: JobView) -> None:
        """Send each owner its keys, with what belongs to them; all to one, the whole request."""
        keys = self.command.keys
        if (len(self.request) - keys.first) % keys.step:
            self.finish(ErrorReply(wrong_arity(self.command.name).text), 0)
            return
        count = (len(self.request) - keys.first) // keys.step
        try:
            planned = self._plan(view, list(range(count)))
        except CommandError as error:
            self.finish(ErrorReply(error.text), 0)
            return
        self.missing = len(planned)
        for upstream, part in planned:
            self.parts.append(part)
            part.send(upstream)

    def _plan(self, view: JobView, places: list[int]) -> list[tuple[Upstream, Part]]:
        """Group keys by owner.

        Raises:
            CommandError: Nobody owns one of them.
        """
        request = self.request
        first, step = self.command.keys.first, self.command.keys.step
        groups: dict[Upstream, list[int]] = {}
        for place in places:
            owner = view.owner(key_slot(request[first + place * step]))
            group = groups.get(owner)
            if group is None:
                groups[owner] = [place]
            else:
                group.append(place)
        if len(groups) == 1 and len(places) * step + first == len(request):
            return [(owner, Part(self, request, places)) for owner in groups]
        planned = []
        for owner, group in groups.items():
            part = request[:first]
            for place in group:
                position = first + place * step
                part.extend(request[position : position + step])
            planned.append((owner, Part(self, part, group)))
        return planned

    def replace(self, part: Part) -> None:
        """Put new parts in a part's place: its keys may have several owners now."""
        try:
            planned = self._plan(self.client.router.view(self.binding.key[0]), part.places)
        except CommandError as error:
            part.finish(ErrorReply(error.text), 0)
            return
        if len(planned) == 1:
            part.send(planned[0][0])
            return
        index = self.parts.index(part)
        self.parts[index : index + 1] = [new for _, new in planned]
        self.missing += len(planned) - 1
        for upstream, new in planned:
            new.refused_s = part.refused_s
            new.send(upstream)


class AllGather(Gather):
    """A command that every server of the job is asked: DBSIZE KEYS FLUSHDB FLUSHALL.

    All of them may be asked twice without harm, and are if the map changed meanwhile: a slot that
    moved may have been met on neither server, or on both.
    """

    __slots__ = ("rounds", "view")

    view: JobView

    def __init__(self, client: Asker, command: Command, request: list[bytes]) -> None:
        super().__init__(client, command, request)
        self.rounds = 0

    def asked(self) -> list[bytes]:
        """What the servers are asked."""
        return self.request

    def start(self) -> None:
        """Ask every server of the job."""
        self.rounds += 1
        self.view = self.client.router.view(self.binding.key[0])
        try:
            upstreams = self.view.all_owners()
        except CommandError as error:
            self.finish(ErrorReply(error.text), 0)
            return
        self.size_bytes = 0
        self.missing = len(upstreams)
        self.parts = [Part(self, self.asked(), []) for _ in upstreams]
        for upstream, part in zip(upstreams, self.parts, strict=True):
            part.send(upstream)

    def gathered(self) -> None:
        """Merge, unless the map changed."""
        if self.view.is_stale and self.rounds < _ROUNDS_MAX and not self.client.closed:
            self.start()
        else:
            Gather.gathered(self)


class RandomKey(Gather):
    """RANDOMKEY: one server after another, drawn by their shares of slots, until one has a key."""

    __slots__ = ("candidates",)

    def start(self) -> None:
        """Draw the order of the servers and ask the first."""
        try:
            self.candidates = self.client.view.shuffled_owners(self.client.router.randomness)
        except CommandError as error:
            self.finish(ErrorReply(error.text), 0)
            return
        self._ask()

    def _ask(self) -> None:
        part = Part(self, self.request, [])
        self.parts = [part]
        self.missing = 1
        part.send(self.candidates.pop())

    def gathered(self) -> None:
        """A key, an error, or nobody left to ask is the answer."""
        reply = self.parts[0].reply
        if self.candidates and isinstance(reply, Encoded) and reply.raw in _NULLS:
            self._ask()
        else:
            Gather.gathered(self)

    def merging(self) -> Merge:
        """There is only one."""
        return Merge.NONE


def _frame(part: Part) -> bytes:
    assert isinstance(part.reply, Encoded)
    return part.reply.raw
