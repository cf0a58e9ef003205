"""CONFIG SET and DEBUG through a router: what concerns values is to be so at all servers of a job.

A router has the settings of a node of its own. Those that say how keys and values are kept, or
what is told of them, are set at the servers of the job too, and at those that come later for as
long as this router runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.commands import Merge
from pocketkv.engine.errors import CommandError
from pocketkv.resp.encoder import encode_reply
from pocketkv.resp.replies import OK, Deferred, Encoded, ErrorReply, Marker, Reply, Simple
from pocketkv.router.split import AllGather

if TYPE_CHECKING:
    from pocketkv.router.routing import Router
    from pocketkv.router.upstream import Upstream

# Beginnings of the names of settings that concern keys and values.
_OF_VALUES: Final = (
    b"active",
    b"busy-reply-threshold",
    b"hash-max-",
    b"hll-",
    b"lfu-",
    b"list-",
    b"lua-time-limit",
    b"maxmemory",
    b"min-replicas-",
    b"min-slaves-",
    b"set-max-",
    b"stream-",
    b"tracking-table-",
    b"zset-max-",
)
# What the controller tells all servers, where there is one.
_EVENTS: Final = b"notify-keyspace-events"
_PREFIX: Final = [b"CONFIG", b"SET"]


class SharedSettings:
    """What clients of this router have set at the servers of their jobs."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._values: dict[str, dict[bytes, bytes]] = {}
        # Servers that have been told, by job.
        self._told: dict[str, set[Upstream]] = {}

    def note(self, job_id: str, pairs: list[bytes], told: list[Upstream]) -> None:
        """These names and values are set at these servers."""
        values = self._values.setdefault(job_id, {})
        values.update(zip(pairs[::2], pairs[1::2], strict=True))
        self._told.setdefault(job_id, set()).update(told)

    def follow(self) -> None:
        """Tell servers that have come to a job."""
        for job_id, values in self._values.items():
            owners = set(self._router.view(job_id).known_owners())
            told = self._told[job_id]
            for upstream in owners - told:
                pairs = [word for pair in values.items() for word in pair]
                self._router.ask(upstream, job_id, [*_PREFIX, *pairs])
            # One that goes and comes back may have forgotten.
            self._told[job_id] = owners

    def job_ended(self, job_id: str) -> None:
        """Forget a job."""
        self._values.pop(job_id, None)
        self._told.pop(job_id, None)


class ConfigSetGather(AllGather):
    """CONFIG SET: here, and what concerns values at the job's servers as well."""

    __slots__ = ("_pairs",)

    def asked(self) -> list[bytes]:
        """The settings that concern values."""
        return [*_PREFIX, *self._pairs]

    def start(self) -> None:
        """Change the router's own, and what the controller keeps; then tell the servers."""
        if self.rounds:
            self._tell_servers()
            return
        request = self.request
        try:
            reply = self.command.handler(self.client.session, request)
        except CommandError as error:
            self.finish(ErrorReply(error.text), 0)
            return
        self._pairs: list[bytes] = []
        for name, value in zip(request[2::2], request[3::2], strict=True):
            is_told = self.client.session.node.term_keeper is None and name.lower() == _EVENTS
            if is_told or name.lower().startswith(_OF_VALUES):
                self._pairs += [name.lower(), value]
        if isinstance(reply, Deferred):
            self.client.hold()
            reply.listen(lambda: self._kept(reply.reply))
        else:
            self._tell_servers()

    def _kept(self, reply: Reply | Marker) -> None:
        """The controller has it, or not."""
        self.client.release()
        if isinstance(reply, ErrorReply):
            self.finish(reply, 0)
        else:
            self._tell_servers()

    def _tell_servers(self) -> None:
        servers = self.client.view.known_owners()
        if not self._pairs or not servers:
            self.finish(Encoded(encode_reply(OK, 2)), 0)
            return
        self.client.router.settings.note(self.binding.key[0], self._pairs, servers)
        super().start()

    def merging(self) -> Merge:
        """All must have it."""
        return Merge.OK


class OkGather(AllGather):
    """What has nothing to answer, and is done everywhere: DEBUG RELOAD."""

    __slots__ = ()

    def merging(self) -> Merge:
        """All must have done it."""
        return Merge.OK


class DigestGather(AllGather):
    """DEBUG DIGEST: that of all keys, of which each has a share that is added without a carry."""

    __slots__ = ()

    def gathered(self) -> None:
        """The exclusive or of the servers' digests."""
        error = self.first_error()
        if error is not None:
            self.finish(error, 0)
            return
        total = 0
        for part in self.parts:
            assert isinstance(part.reply, Encoded)
            total ^= int(part.reply.raw[1:-2], 16)
        self.finish(Encoded(encode_reply(Simple(b"%040x" % total), 2)), self.size_bytes)
