"""CLIENT PAUSE: commands of a job's clients that are held until the pause ends.

A pause concerns one job on one node. While a node has any, the gate asks `holds` for each command
and leaves what is held to `hold`, which executes it when the pause is over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from pocketkv.engine.errors import CommandError
from pocketkv.engine.script_flags import Flags, parse_shebang
from pocketkv.resp.replies import Deferred, Reply

if TYPE_CHECKING:
    from pocketkv.engine.commands import Command
    from pocketkv.engine.node import Node
    from pocketkv.engine.session import Session
    from pocketkv.engine.timers import Timer

Resume: TypeAlias = "Callable[[Session, list[bytes]], Reply]"


# What Redis might send to its replicas, beside what writes.
_COUNT_AS_WRITES: Final = frozenset(
    (
        "eval",
        "evalsha",
        "fcall",
        "function|delete",
        "function|flush",
        "function|load",
        "function|restore",
        "pfcount",
        "publish",
        "spublish",
    )
)


class Pause:
    """A pause under way.

    Attributes:
        until_ms: When it ends by itself, in milliseconds of the Unix epoch.
        writes_only: Whether commands that change nothing go on.
        held: The replies that wait, in the order of their commands, with what makes them.
    """

    __slots__ = ("held", "timer", "until_ms", "writes_only")

    def __init__(self, until_ms: int, *, writes_only: bool) -> None:
        self.until_ms = until_ms
        self.writes_only = writes_only
        self.held: dict[Deferred, tuple[Session, list[bytes], Resume]] = {}
        self.timer: Timer | None = None


def pause(node: Node, job_id: str, until_ms: int, *, writes_only: bool) -> None:
    """Hold the commands of a job's clients; a pause under way is only ever made stricter."""
    current = node.pauses.get(job_id)
    if current is None:
        current = node.pauses[job_id] = Pause(until_ms, writes_only=writes_only)
    else:
        current.until_ms = max(current.until_ms, until_ms)
        current.writes_only = current.writes_only and writes_only
        if current.timer is not None:
            node.timers.cancel(current.timer)
    node.keyspace.open(job_id).keeps_expired = True
    current.timer = node.timers.at(current.until_ms, lambda: unpause(node, job_id))


def unpause(node: Node, job_id: str) -> None:
    """End a job's pause: what was held is executed, in order."""
    ended = node.pauses.pop(job_id, None)
    if ended is None:
        return
    node.keyspace.open(job_id).keeps_expired = False
    if ended.timer is not None:
        node.timers.cancel(ended.timer)
    for deferred, (session, request, resume) in list(ended.held.items()):
        # One of those before it may have closed this one's connection, or begun another pause.
        # What is executed must be forgotten too: a request may hold extents.
        if ended.held.pop(deferred, None) is not None:
            complete_with(deferred, resume(session, request))


def holds(session: Session, command: Command, request: list[bytes]) -> bool:
    """Whether a command has to wait for the end of its job's pause."""
    current = session.node.pauses.get(session.job_id)
    if current is None:
        return False
    if not current.writes_only or _counts_as_write(session, command, request):
        return True
    transaction = session.transaction
    if transaction is None or command.name != "exec":
        return False
    return any(_counts_as_write(session, *queued) for queued in transaction.queue)


def _counts_as_write(session: Session, command: Command, request: list[bytes]) -> bool:
    """Whether Redis would, or might, send it to its replicas."""
    if command.is_write:
        return True
    return command.name in _COUNT_AS_WRITES and not _only_reads(session, command, request)


def _only_reads(session: Session, command: Command, request: list[bytes]) -> bool:
    """Whether a script says of itself that it writes nothing."""
    scripts = session.space.scripts
    flags: Flags | None = None
    if command.name == "eval":
        try:
            flags = parse_shebang(request[1])[0]
        except CommandError:
            return False
    elif command.name == "evalsha" and scripts is not None:
        script = scripts.known.get(request[1].lower())
        flags = None if script is None else script.flags
    elif command.name == "fcall" and scripts is not None and scripts.libraries is not None:
        function = scripts.libraries.functions.get(request[1])
        flags = None if function is None else function.flags
    return flags is not None and flags.no_writes


def hold(session: Session, request: list[bytes], resume: Resume) -> Deferred:
    """Keep a command until the pause is over; `resume` then executes it."""
    held = session.node.pauses[session.job_id].held

    def forget() -> None:
        held.pop(deferred, None)

    deferred = Deferred(exclusive=True, on_abandon=forget)
    held[deferred] = (session, request, resume)
    return deferred


def complete_with(deferred: Deferred, reply: Reply) -> None:
    """Complete a reply with another, which may itself be still to come."""
    if not isinstance(reply, Deferred):
        deferred.complete(reply)
        return
    later = reply
    deferred.on_abandon = later.abandon
    later.listen(lambda: deferred.complete(later.reply))
