"""A server's part in retaining keys: it tells the controller of them, and hands them over.

When a job has ended, its map names what is to keep what it retained (`PlacementMap.retire_to`): a
store, to which every server that has slots of the job writes its marked keys, or a server. To that,
the others send them in requests of about a mebibyte, whatever their size: large values are read and
sent in pieces. Then each tells the controller, and frees what it has when the controller takes its
slots away. The server that is to keep the keys removes those of its own that are not marked, a
slice at a time.

Whatever fails is tried again from the beginning for as long as the map says so. Nothing here
decides where keys go, or counts on anybody to have remembered an earlier attempt.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

import trio

from pocketkv import limits
from pocketkv.engine.database import Database
from pocketkv.engine.errors import CommandError
from pocketkv.engine.keyspace import JobSpace
from pocketkv.engine.node import Node
from pocketkv.placement import PlacementMap, Server, is_store
from pocketkv.resp.errors import PeerError
from pocketkv.resp.peer import Peer, RemoteError, open_peer
from pocketkv.slots import key_slot
from pocketkv.tiers.sending import pieces
from pocketkv.tokens import job_token, member_proof

# A request is sent when it has so many bytes, or pieces.
_REQUEST_BYTES: Final = limits.MIB // 4
_REQUEST_PIECES: Final = 256
# Keys that are removed before others have their turn.
_KEYS_PER_SLICE: Final = 500
_TIMEOUT_S: Final = 30.0
_PAUSE_S: Final = 0.5
# Answers of a server that cannot take what it is sent, and would not take it a moment later.
_NO_ROOM: Final = frozenset({"OOM", "IOERR"})
_AWAY: Final = b"ERR keys cannot be retained now: the controller does not answer"


class Keeping(Protocol):
    """Writes keys to a store that outlives servers (`pocketkv.tiers.kept_s3`).

    Attributes:
        url: Of the store.
    """

    url: str

    async def hand_over(self, space: JobSpace, is_wanted: Callable[[], bool]) -> tuple[int, int]:
        """Write what a job retains; how many keys are there now, and how many cannot be read.

        Raises:
            PeerError: It is not all there, and is to be tried again.
        """
        ...


class Call(Protocol):
    """Sends the controller a command: `Membership.call`."""

    def __call__(self, *arguments: bytes | str | int) -> Awaitable[Any]:
        """Send it.

        Raises:
            RemoteError: It refused.
            PeerError: It is away, or did not answer in time.
        """
        ...


@dataclass
class _Moved:
    """What became of one job's keys."""

    keys: int = 0
    lost_keys: int = 0


@dataclass
class _Request:
    """Pieces that are sent together."""

    fields: list[bytes | str | int] = field(default_factory=list)
    size_bytes: int = 0
    pieces: int = 0

    @property
    def is_full(self) -> bool:
        return self.size_bytes >= _REQUEST_BYTES or self.pieces >= _REQUEST_PIECES


class Retirer:
    """What one storage server does about keys that are retained.

    Args:
        node: The server.
        call: Sends the controller a command.
        log: The server's log.
        keeping: The store that this server has for what jobs retain, if any.
    """

    def __init__(
        self, node: Node, call: Call, log: logging.Logger, keeping: Keeping | None = None
    ) -> None:
        self._node = node
        self._call = call
        self._log = log
        self._keeping = keeping
        self._changed = trio.Event()
        # To whom keys are to be handed over, and the epoch of the map that says so.
        self._wanted: dict[str, tuple[str, int]] = {}
        # What was handed over by which of these, until the controller takes the slots away.
        self._done: dict[str, tuple[tuple[str, int], _Moved]] = {}
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Work until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                while True:
                    await self._changed.wait()
                    self._changed = trio.Event()
                    while self._wanted:
                        await self._retire_all()
            finally:
                self._nursery = None

    # --- marking -------------------------------------------------------------------------------

    def ask(self, job_id: str, on_answer: Callable[[CommandError | None], None]) -> None:
        """`Node.retaining`: have the controller know that a job retains keys."""
        if self._nursery is None:
            on_answer(CommandError(_AWAY))
        else:
            self._nursery.start_soon(self._ask, job_id, on_answer)

    async def _ask(self, job_id: str, on_answer: Callable[[CommandError | None], None]) -> None:
        error: CommandError | None = None
        try:
            await self._call("MEMBER.RETAIN", job_id)
        except RemoteError as refusal:
            error = CommandError(str(refusal).encode())
        except PeerError as failure:
            error = CommandError(_AWAY + b": " + str(failure).encode())
        on_answer(error)

    # --- handing over --------------------------------------------------------------------------

    def follow(self, placement: PlacementMap) -> None:
        """A job's map has changed."""
        job_id, target = placement.job_id, placement.retire_to
        if target is not None and placement.ranges_of(self._node.id):
            self._wanted[job_id] = (target, placement.epoch)
            self._changed.set()
        else:
            self._wanted.pop(job_id, None)
            self._done.pop(job_id, None)

    def forget(self, job_id: str) -> None:
        """A job is no more."""
        self._wanted.pop(job_id, None)
        self._done.pop(job_id, None)

    async def _retire_all(self) -> None:
        """Try once to do what is wanted; what fails is tried again after a pause."""
        failed = False
        for job_id, wanted in list(self._wanted.items()):
            target, _ = wanted
            try:
                if self._wanted.get(job_id) == wanted:
                    await self._retire(job_id, wanted)
            except PeerError as error:
                failed = True
                self._log.warning(
                    "keys are not handed over yet",
                    extra={"job": job_id, "target": target, "error": str(error)},
                )
                await self._tell_refusal(job_id, target, error)
            else:
                if self._wanted.get(job_id) == wanted:
                    del self._wanted[job_id]
        if failed:
            await trio.sleep(_PAUSE_S)
        else:
            await trio.lowlevel.checkpoint()

    async def _retire(self, job_id: str, wanted: tuple[str, int]) -> None:
        target, _ = wanted
        done, moved = self._done.get(job_id, (None, _Moved()))
        if done != wanted:
            moved = await self._hand_over(job_id, target)
            self._done[job_id] = (wanted, moved)
        told = {
            "job": job_id,
            "target": target,
            "keys": moved.keys,
            "lost_keys": moved.lost_keys,
        }
        await self._call("MEMBER.RETIRED", json.dumps(told))

    async def _tell_refusal(self, job_id: str, target: str, error: PeerError) -> None:
        """Have the controller look for another server, if this one has no room."""
        if not isinstance(error, RemoteError) or error.code not in _NO_ROOM:
            return
        told = {"job": job_id, "target": target, "reason": str(error)[:200]}
        try:
            await self._call("MEMBER.RETIRED", json.dumps(told))
        except PeerError as failure:
            self._log.debug("the controller was not told", extra={"error": str(failure)})

    async def _hand_over(self, job_id: str, target: str) -> _Moved:
        space = self._node.keyspace.open(job_id)
        if is_store(target):
            return await self._put_into(target, space)
        if target == self._node.id:
            return await self._keep(space)
        server = self._node.topology.servers.get(target)
        if server is None:
            raise PeerError(f"server {target} is not known")
        return await self._send_to(server, space)

    async def _put_into(self, store: str, space: JobSpace) -> _Moved:
        """Write what is retained to a store, which all servers of the job have."""
        keeping = self._keeping
        if keeping is None or keeping.url != store:
            if space.marked_keys:
                raise PeerError(f"this server was started without --retain {store}")
            await trio.lowlevel.checkpoint()
            return _Moved()
        keys, lost_keys = await keeping.hand_over(space, lambda: space.job_id in self._wanted)
        return _Moved(keys, lost_keys)

    async def _keep(self, space: JobSpace) -> _Moved:
        """Keep what is retained here, and free the rest."""
        moved = _Moved()
        for db in list(space.databases.values()):
            # What others send meanwhile is marked.
            marks = db.marks
            stale = [key for key in db.iter_keys() if marks is None or key not in marks]
            for start in range(0, len(stale), _KEYS_PER_SLICE):
                for key in stale[start : start + _KEYS_PER_SLICE]:
                    db.remove(key)
                self._commit()
                await trio.lowlevel.checkpoint()
            # Those that others have sent are told by them.
            kept = [] if db.marks is None else db.marks.keys()
            moved.keys += sum(key in db for key in kept if space.owned[key_slot(key)])
        await trio.lowlevel.checkpoint()
        return moved

    def _commit(self) -> None:
        error = self._node.retry_commit()
        if error is not None:
            raise PeerError(error.text.decode("utf-8", "replace"))

    async def _send_to(self, server: Server, space: JobSpace) -> _Moved:
        failure: PeerError | None = None
        moved = _Moved()
        async with trio.open_nursery() as nursery:
            try:
                peer = await open_peer(nursery, server.host, server.port)
                try:
                    await self._introduce(peer, server, space.job_id)
                    for db in list(space.databases.values()):
                        await self._send_database(peer, db, moved)
                finally:
                    with trio.CancelScope(shield=True):
                        await peer.aclose()
            except PeerError as error:
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return moved

    async def _introduce(self, peer: Peer, server: Server, job_id: str) -> None:
        """Prove to be a server of the same cluster."""
        secret = self._node.secret
        token = job_token(secret, job_id)
        await peer.call("HELLO", 2, "AUTH", job_id, token, timeout_s=_TIMEOUT_S)
        nonce = await peer.call("POCKETKV.PROXY", timeout_s=_TIMEOUT_S)
        if not isinstance(nonce, bytes) or nonce.rsplit(b":", 2)[0] != server.id.encode():
            raise PeerError("another server has its address")
        proof = member_proof(secret, self._node.id, nonce)
        await peer.call("POCKETKV.PROXY", self._node.id, proof, timeout_s=_TIMEOUT_S)

    async def _send_database(self, peer: Peer, db: Database, moved: _Moved) -> None:
        request = _Request()
        for key in [] if db.marks is None else db.marks.keys():
            entry = db.find(key)
            if entry is None:
                continue
            try:
                async for kind, total, offset, piece in pieces(db, key, entry):
                    due_ms = db.expiry_ms(key) or 0
                    request.fields += [db.index, key, kind, due_ms, total, offset, piece]
                    request.size_bytes += len(key) + len(piece)
                    request.pieces += 1
                    if request.is_full:
                        await _send(peer, request)
                        request = _Request()
            except CommandError as error:
                if key in db:
                    moved.lost_keys += 1
                    self._log.error(
                        "a retained key cannot be read",
                        extra={"job": db.space.job_id, "error": error.text.decode()},
                    )
            else:
                moved.keys += 1
        await _send(peer, request)


async def _send(peer: Peer, request: _Request) -> None:
    if request.pieces:
        await peer.call("POCKETKV.ADOPT", *request.fields, timeout_s=_TIMEOUT_S)
