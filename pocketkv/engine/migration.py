"""Tells cluster clients of slots that move, so that they switch without being redirected.

A client asks for it by CLIENT MAINT_NOTIFICATIONS, over RESP3, and is then sent ``SMIGRATING`` when
its job's slots begin to be copied away from the server that it is connected to, and ``SMIGRATED``
when they have gone, with the address of the server that has them.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import TYPE_CHECKING

from pocketkv.resp.replies import Push, Reply

if TYPE_CHECKING:
    from pocketkv.engine.node import Node
    from pocketkv.placement import SlotMove


# Below the milliseconds, what tells servers apart. Clients may know numbers up to 2^53 only.
_SERVER_BITS = 11


class Numbers:
    """The numbers of one server's messages: each is higher than all before.

    Clients of a cluster ignore a number that they have met, whichever server it came from. So those
    of two servers differ, and later ones are higher as far as clocks agree.

    Args:
        server_id: The server's.
    """

    def __init__(self, server_id: str) -> None:
        digest = blake2b(server_id.encode(), digest_size=2).digest()
        self._server = int.from_bytes(digest, "big") % (1 << _SERVER_BITS)
        self._last = 0

    def next(self, now_ms: int) -> int:
        """Return the next one."""
        number = (now_ms << _SERVER_BITS) + self._server
        self._last = max(number, self._last + (1 << _SERVER_BITS))
        return self._last


def slots_migrating(node: Node, job_id: str, move: SlotMove, number: int) -> None:
    """Slots of a job begin to be copied to another server.

    Args:
        node: The server that they are on.
        job_id: The job.
        move: What is ordered.
        number: See `Numbers`.
    """
    _push(node, job_id, [b"SMIGRATING", number, _slots(move)])


def slots_migrated(node: Node, job_id: str, move: SlotMove, number: int) -> None:
    """They have gone there; the arguments are those of `slots_migrating`."""
    servers = node.topology.servers
    source, target = servers.get(move.source), servers.get(move.target)
    if source is None or target is None:
        return
    moved: list[Reply] = [
        b"%b:%d" % (host.encode(), port)
        for host, port in (source.public_address, target.public_address)
    ]
    _push(node, job_id, [b"SMIGRATED", number, [[*moved, _slots(move)]]])


def _slots(move: SlotMove) -> bytes:
    first, last = move.start, move.end
    return b"%d" % first if first == last else b"%d-%d" % (first, last)


def _push(node: Node, job_id: str, items: list[Reply]) -> None:
    for session in node.sessions_of(job_id):
        if session.wants_migrations and session.protocol == 3:
            session.transport.push(Push(list(items)))
