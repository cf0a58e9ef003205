"""The storage server: serves the slots that it owns, alone or as a member of a cluster.

Without a controller it is a complete server by itself, with all slots of the job `default`.
With one it follows the maps that it is sent: a slot that a map gives it is served from then on, a
slot that a map takes away is answered with ``-MOVED`` and its keys are dropped.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import trio

from pocketkv.config import StorageConfig
from pocketkv.engine import handlers
from pocketkv.engine.changes import tell_left
from pocketkv.engine.emptying import empty_foreign
from pocketkv.engine.extents import Extents
from pocketkv.engine.gate import GateHandler
from pocketkv.engine.job_terms import follow_terms
from pocketkv.engine.keyspace import DEFAULT_JOB, Clock, JobSpace, Keyspace
from pocketkv.engine.node import Node
from pocketkv.engine.quotas import grant
from pocketkv.engine.topology import Topology, standalone_topology
from pocketkv.limits import STALL_CONFIRM_TIMEOUT_S
from pocketkv.observability.process import ProcessSampler
from pocketkv.placement import PlacementMap, Server
from pocketkv.resp.syscalls import MonotonicStopwatch
from pocketkv.serving.membership import Membership
from pocketkv.serving.memory import configure_allocator, release_free_memory
from pocketkv.serving.shell import LIFELINE_VARIABLE, Ready, Shell, StartError, listen, serve
from pocketkv.serving.terms import ControllerTerms
from pocketkv.slots import SLOT_COUNT
from pocketkv.tiers.figures import FileMedium
from pocketkv.tiers.file_store import FileStore
from pocketkv.tiers.kept_setup import open_kept, use_kept
from pocketkv.tiers.leaving import AWAY_TIMEOUT_S, Leaver
from pocketkv.tiers.memfd import Memfd
from pocketkv.tiers.moves import Mover
from pocketkv.tiers.publishing import Publisher
from pocketkv.tiers.readers import Readers, depth_of
from pocketkv.tiers.retire import Retirer
from pocketkv.tiers.spill_setup import SpillWork, open_spill
from pocketkv.tiers.upkeep import Upkeep
from pocketkv.tiers.volume.direct import DirectReads, buffers_for
from pocketkv.tiers.volume.eras import Eras
from pocketkv.tiers.volume.record_reads import RecordReads
from pocketkv.tiers.volume.volume import VolumeError

__all__ = ["handlers", "run_storage"]


class StorageServer:
    """What a storage server does with the maps that it hears."""

    def __init__(self, config: StorageConfig, log: logging.Logger) -> None:
        self.config = config
        self.log = log
        self.topology = Topology()
        self.sampler = ProcessSampler()
        self.machine = config.machine or self.sampler.machine_id()
        self.store = _open_store(config, log) if config.dir is not None else None
        self.id = config.server_id or self._own_id()
        spill = open_spill(config, self._name_in_s3(), self._known_jobs, self._known_servers, log)
        self.kept = open_kept(config, self.topology, log)
        keyspace = Keyspace(
            config.memory_bytes,
            Clock(time.time_ns() // 1_000_000),
            random.Random(),
            None if self.store is not None else Extents(_open_medium(config.memory_bytes)),
            self.store or spill,
        )
        keyspace.capacity_bytes = config.capacity_bytes
        self.upkeep: Upkeep | None = None
        self._direct: DirectReads | None = None
        self.medium: FileMedium | None = None
        self.retirer: Retirer | None = None
        self.mover: Mover | None = None
        # Tells whether a server still has what it had: what is in files outlives the process.
        self.generation = secrets.token_hex(8) if self.store is None else self.store.identity
        self.node = Node(
            node_id=self.id,
            role="storage",
            tier=config.tier,
            keyspace=keyspace,
            topology=self.topology,
            timer_ns=time.perf_counter_ns,
            secret=config.secret or b"",
            require_auth=config.require_auth,
            host=config.advertise_host or config.host,
            clustered=config.controller is not None,
        )
        self.node.stopwatch = MonotonicStopwatch()
        self.node.medium = "memory" if self.store is None else "files"
        if self.store is not None:
            self.node.value_bytes_max = config.value_bytes_max
            self._restore(self.store)
        self.spill = None if spill is None else SpillWork(self.node, spill, log)

    def _known_jobs(self) -> set[str]:
        """The jobs that have not ended, as far as this server was told."""
        return {DEFAULT_JOB, *self.topology.placements}

    def _known_servers(self) -> set[str] | None:
        """All storage servers, as far as this one was told; ``None`` if nobody tells it."""
        return None if self.config.controller is None else {self.id, *self.topology.servers}

    def _name_in_s3(self) -> str | None:
        """By what this server knows that it has written something in an earlier life."""
        if self.config.controller is not None or self.config.server_id is not None:
            return self.id
        return f"{self.machine}-{self.config.port}" if self.config.port else None

    def _own_id(self) -> str:
        """An id for a server that was given none; one that keeps files has the same each time."""
        return secrets.token_hex(20) if self.store is None else self.store.identity

    def _restore(self, store: FileStore) -> None:
        """Hold what is in the directory.

        Raises:
            StartError: It cannot be read.
        """
        try:
            store.restore(self.node.keyspace)
        except OSError as error:
            raise StartError(f"--dir {self.config.dir}: {error.strerror or error}") from error

    def prepare(self, shell: Shell) -> None:
        """Called when the port is known: without a controller, serve everything."""
        node = self.node
        if self.store is not None:
            self._use_store(shell, self.store)
        if self.spill is not None:
            self.spill.use(shell)
        if self.kept is not None:
            use_kept(self.kept, node, shell, self.log)
        if self.config.controller is None:
            node.topology = standalone_topology(
                Server(
                    id=node.id,
                    tier=node.tier,
                    host=node.host,
                    port=node.port,
                    machine=self.machine,
                    capacity_bytes=self._capacity_bytes(),
                    bandwidth_bytes_s=0,
                ),
                DEFAULT_JOB,
            )
            node.keyspace.open(DEFAULT_JOB).own_everything()

    def _use_store(self, shell: Shell, store: FileStore) -> None:
        """Have connections write to the store and read from it."""
        # A disk that turns takes longer than anybody should look for.
        polls = self.config.tier != "hdd"
        direct, records = self._direct_reads(shell, store) if polls else (None, None)
        readers = Readers(
            depth_of(self.config.tier),
            self.log,
            polls=polls,
            direct=direct,
            records=records,
            wake=shell.reactor.wake,
        )
        shell.reactor.poll = readers.poll
        self.upkeep = Upkeep(
            self.node, store, shell.reactor, readers, release_free_memory, self.log
        )
        self.medium = medium = FileMedium(self.node, store, readers, self.upkeep)
        self.node.medium_figures = medium.figures
        shell.metrics.sources.append(medium.metrics)
        self.node.fetcher = readers.fetch
        shell.reactor.commit = self.node.commit
        shell.reactor.fetch = readers.fetch_part
        shell.sinks_of = store.sinks_of

    def _direct_reads(
        self, shell: Shell, store: FileStore
    ) -> tuple[DirectReads | None, RecordReads | None]:
        """Who reads past the page cache: large values, and small ones, as far as we may."""
        eras = Eras()
        wake_fd = shell.reactor.wake_fd
        direct: DirectReads | None = None
        records: RecordReads | None = None
        try:
            direct = DirectReads(buffers_for(self.config.memory_bytes), eras, wake_fd)
            records = RecordReads(store.volume.state, eras, wake_fd)
        except OSError as error:
            what = "all" if direct is None else "small"
            self.log.info(
                "values are read through the page cache only",
                extra={"values": what, "error": str(error)},
            )
        if direct is not None:
            store.read_directly()
            self._direct = direct
        return direct, records

    async def keep_up(self, shell: Shell) -> None:
        """The background work of a file store, if there is one."""
        if self.upkeep is not None:
            await self.upkeep.run()
        if self.spill is not None:
            await self.spill.run()

    def _capacity_bytes(self) -> int:
        """What the server can store."""
        if self.store is None:
            return self.config.memory_bytes
        whole = self.store.used_bytes() + self.store.volume.free_bytes
        return min(whole, self.config.capacity_bytes or whole)

    def _identity(self, shell: Shell) -> dict[str, Any]:
        assert shell.endpoint is not None  # set before background tasks start
        return {
            "id": self.node.id,
            "role": "storage",
            "tier": self.node.tier,
            "host": self.config.host,
            "advertise_host": self.config.advertise_host,
            "port": self.node.port,
            "metrics_port": shell.endpoint.metrics_port,
            "pid": os.getpid(),
            "generation": self.generation,
            "machine": self.machine,
            "machine_type": self.config.machine_type,
            "capacity_bytes": self._capacity_bytes(),
            "retain": "" if self.kept is None else self.kept.url,
        }

    async def join(self, shell: Shell) -> None:
        """Stay joined to the controller, if there is one; ready is who has joined once."""
        if self.config.controller is None:
            return
        assert self.config.secret is not None  # checked by `storage_config`
        shell.ready = False
        membership = Membership(
            address=self.config.controller,
            secret=self.config.secret,
            identity=self._identity(shell),
            topology=self.topology,
            on_update=self.apply,
            report=lambda: self.figures(shell),
            log=self.log,
        )
        shell.reactor.on_stall = partial(self._confirm, membership)
        figures = partial(self.figures, shell)
        timeout_s = self.config.drain_timeout_s
        # Who has been started by a controller, or along with it, ends with it.
        away_s = 0.0 if os.environ.get(LIFELINE_VARIABLE) else AWAY_TIMEOUT_S
        leaver = Leaver(self.node, shell.reactor, membership, figures, timeout_s, self.log, away_s)
        shell.leave = partial(self._leave, leaver)
        self.retirer = Retirer(self.node, membership.call, self.log, self.kept)
        self.node.retaining = self.retirer.ask
        self.mover = Mover(self.node, shell.reactor, membership.call, self.log)
        self.node.moves = self.mover
        self.node.forwarder = publisher = Publisher(self.node, shell.reactor, self.log)
        shell.metrics.sources.append(self.mover.metrics)
        async with trio.open_nursery() as nursery:
            self.node.term_keeper = ControllerTerms(membership.call, nursery)
            nursery.start_soon(self.retirer.run)
            nursery.start_soon(self.mover.run)
            nursery.start_soon(publisher.run)
            nursery.start_soon(membership.run)
            if self.kept is not None:
                nursery.start_soon(self.kept.run, membership.call)
            await membership.wait_joined()
            self._forget_ended()
            shell.ready = True

    async def _leave(self, leaver: Leaver) -> None:
        """Have everything moved to others in time."""
        if self.mover is not None:
            self.mover.hurry()
        await leaver.leave()

    async def _confirm(self, membership: Membership) -> None:
        """This process stood still: hear whose its slots are, before anything of them is told."""
        is_confirmed = await membership.confirm(STALL_CONFIRM_TIMEOUT_S)
        self.log.warning("the server stood still", extra={"confirmed": is_confirmed})

    def _forget_ended(self) -> None:
        """Drop jobs that were found in files and have ended since."""
        for job_id in list(self.node.keyspace.spaces):
            if job_id != DEFAULT_JOB and job_id not in self.topology.placements:
                self.log.info("job has ended meanwhile", extra={"job": job_id})
                self.node.end_job(job_id)

    # --- maps ----------------------------------------------------------------------------------

    def apply(self, changed: list[str], ended: list[str]) -> None:
        """Follow the topology: it has changed for these jobs, and these have ended."""
        for job_id in ended:
            self.log.info("job ended", extra={"job": job_id})
            self.node.end_job(job_id)
            if self.retirer is not None:
                self.retirer.forget(job_id)
            if self.mover is not None:
                self.mover.forget(job_id)
            if self.kept is not None:
                self.kept.ended(job_id)
        for job_id in changed:
            self.follow(self.topology.placements[job_id])
        follow_terms(self.node)

    def follow(self, placement: PlacementMap) -> None:
        """Serve just the slots that a map gives this server."""
        space = self.node.keyspace.open(placement.job_id)
        before = space.given
        owned = bytearray(SLOT_COUNT)
        for slots in placement.ranges_of(self.node.id):
            owned[slots.start : slots.end + 1] = b"\x01" * len(slots)
        if placement.read_only:
            self._follow_retained(space, placement)
        if self.kept is not None and placement.kept_in == self.kept.url and any(owned):
            self.kept.follow(space, owned)
        else:
            space.own(owned)
        _tell_listeners(space)
        if self.mover is not None:
            self.mover.follow(placement)
        if not placement.read_only:
            # A key is never in two places; what is on its way in stays.
            lost = empty_foreign(space)
            if lost:
                self.log.warning(
                    "keys dropped with their slots", extra={"job": placement.job_id, "keys": lost}
                )
        tell_left(space, before)
        grant(space, placement.quotas.get(self.node.id))
        space.epoch = placement.epoch
        if self.retirer is not None:
            self.retirer.follow(placement)

    def _follow_retained(self, space: JobSpace, placement: PlacementMap) -> None:
        """A job has ended that retains keys: only read it; free what others keep by now."""
        space.read_only = True
        if placement.retire_to is None:
            space.adopting.clear()
        if placement.kept_in is not None:
            # It is in S3, and what is here was needed until now.
            if self.node.id not in placement.owners():
                space.move_to(None)
            if self.kept is not None:
                self.kept.forget(placement.job_id)
            return
        # While nobody has its slots, the server that should is being waited for: it may be this.
        keeps = placement.retire_to == self.node.id or not placement.ranges
        if not keeps and self.node.id not in placement.owners():
            space.clear()

    def close(self) -> None:
        """Leave everything on the medium, if there is one."""
        if self.spill is not None:
            self.spill.close()
        if self.kept is not None:
            self.kept.close()
        if self._direct is not None:
            self._direct.close()
        if self.store is not None:
            try:
                self.store.close()
            except OSError as error:
                self.log.error("not everything was written", extra={"error": str(error)})  # noqa: TRY400

    # --- reports -------------------------------------------------------------------------------

    def figures(self, shell: Shell) -> dict[str, Any]:
        """What the controller is told every second."""
        keyspace = self.node.keyspace
        process = self.node.process
        return {
            "used_bytes": keyspace.used_bytes,
            "index_bytes": keyspace.index_bytes,
            "memory_bytes": keyspace.memory_bytes,
            "rss_bytes": process.rss_bytes,
            "cpu": self.sampler.cpu_fraction,
            "steal": self.sampler.steal_fraction,
            "keys": sum(_keys(space) for space in keyspace.spaces.values()),
            "connections": len(shell.reactor.connections),
            "received_bytes": shell.reactor.received_bytes,
            "sent_bytes": shell.reactor.sent_bytes,
            "moves": {} if self.mover is None else self.mover.progress(),
            "holds": {} if self.mover is None else self.mover.hold_figures(),
            "disk_read_bytes": self.sampler.disk_read_bytes,
            "disk_written_bytes": self.sampler.disk_written_bytes,
            "medium_error": "" if self.medium is None else self.medium.error,
            "jobs": {
                job_id: {
                    "used_bytes": space.used_bytes,
                    "keys": _keys(space),
                    "commands": space.stats.commands,
                    "retained_keys": space.marked_keys,
                    "s3_bytes": self._s3_bytes(space),
                }
                for job_id, space in keyspace.spaces.items()
                # There may be thousands that have never had anything here.
                if space.used_bytes or space.databases or space.stats.commands
            },
        }

    def _s3_bytes(self, space: JobSpace) -> int:
        """What a job has in S3 by way of this server."""
        spilled = space.spilled_bytes if self.spill is not None and self.spill.is_in_s3 else 0
        kept = 0 if self.kept is None else self.kept.stored_bytes.get(space.job_id, 0)
        return spilled + kept


def _tell_listeners(space: JobSpace) -> None:
    """Tell clients that hear from here what happens in a job's slots which of them are here."""
    if space.pubsub is not None:
        space.pubsub.drop_foreign()
        if 1 not in space.given:
            space.pubsub.dismiss()
    if space.tracking is not None:
        space.tracking.flushed()


def _keys(space: JobSpace) -> int:
    return sum(db.visible for db in space.databases.values())


def _open_medium(memory_bytes: int) -> Memfd:
    """Where large values are kept.

    Raises:
        StartError: The system does not give it.
    """
    try:
        return Memfd(memory_bytes)
    except OSError as error:
        raise StartError(f"no anonymous file for large values: {error.strerror}") from error


def _open_store(config: StorageConfig, log: logging.Logger) -> FileStore:
    """The store in the server's directory.

    Raises:
        StartError: It cannot be used.
    """
    assert config.dir is not None  # The caller has looked.
    try:
        return FileStore(config.dir, config.tier, config.capacity_bytes, log)
    except VolumeError as error:
        raise StartError(f"--dir {error}") from error


def check_directory(path: Path) -> None:
    """Make sure that files can be kept in a directory, which is made if it does not exist.

    Raises:
        StartError: They cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise StartError(f"--dir {path}: {error.strerror}") from error


async def run_storage(
    config: StorageConfig,
    log: logging.Logger,
    on_ready: Callable[[Ready], None] = lambda ready: None,
) -> None:
    """Run a storage server until it is told to stop.

    Raises:
        StartError: It cannot start.
    """
    configure_allocator()
    listener: socket.socket = listen(config.host, config.port)
    with _directory(config) as directory:
        server = StorageServer(replace(config, dir=directory), log)
        try:
            await serve(
                server.node,
                listener,
                handler_of=GateHandler,
                log=log,
                sampler=server.sampler,
                metrics_port=config.metrics_port,
                background=[server.join, server.keep_up],
                on_ready=on_ready,
                configure=server.prepare,
            )
        finally:
            server.close()


@contextlib.contextmanager
def _directory(config: StorageConfig) -> Iterator[Path | None]:
    """Where the server keeps its files, if it does: a temporary directory if it was told none.

    Raises:
        StartError: Files cannot be kept there.
    """
    if config.tier == "dram":
        yield None
    elif config.dir is not None:
        check_directory(config.dir)
        yield config.dir
    else:
        with tempfile.TemporaryDirectory(prefix="pocketkv-") as path:
            yield Path(path)
