"""Gives a dram server its spill medium, if the operator named one."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import Final

import trio

from pocketkv.config import StorageConfig
from pocketkv.engine.node import Node
from pocketkv.serving.memory import release_free_memory
from pocketkv.serving.shell import Shell, StartError
from pocketkv.tiers.readers import DEPTHS, Readers
from pocketkv.tiers.s3.errors import S3Error
from pocketkv.tiers.spill import Mover
from pocketkv.tiers.spill_file import FileSpill
from pocketkv.tiers.spill_s3 import S3Spill
from pocketkv.tiers.steps import Steps
from pocketkv.tiers.volume.volume import VolumeError

# Reads of S3 that may be under way: each waits for an answer, not for a device.
_S3_READS: Final = 16


def open_spill(
    config: StorageConfig,
    server_id: str | None,
    known_jobs: Callable[[], Collection[str]],
    known_servers: Callable[[], Collection[str] | None],
    log: logging.Logger,
) -> FileSpill | S3Spill | None:
    """The medium that a server spills to; ``None``: it does not.

    Args:
        config: The server's.
        server_id: By this it finds what it has left if it crashed; ``None``: it does not.
        known_jobs: All jobs that have not ended.
        known_servers: All servers that there are; ``None``: that is not known.
        log: Where trouble is told.

    Raises:
        StartError: It cannot be used.
    """
    where = config.spill
    if where is None:
        return None
    try:
        if isinstance(where, Path):
            return FileSpill(where, log)
        spill = S3Spill(
            where,
            server_id=server_id,
            memory_bytes=config.memory_bytes,
            known_jobs=known_jobs,
            known_servers=known_servers,
            log=log,
        )
        spill.check()
    except (VolumeError, S3Error) as error:
        raise StartError(f"--spill {error}") from error
    return spill


class SpillWork:
    """What a server with a spill medium does beside serving.

    Args:
        node: The server.
        medium: Where it spills to.
        log: Where trouble is told.
    """

    def __init__(self, node: Node, medium: FileSpill | S3Spill, log: logging.Logger) -> None:
        self._node = node
        self._medium = medium
        self._log = log
        self._mover: Mover | None = None
        self._steps = Steps(log)
        if isinstance(medium, FileSpill):
            medium.attach(node.keyspace)

    @property
    def is_in_s3(self) -> bool:
        """Whether what is spilled is in S3."""
        return isinstance(self._medium, S3Spill)

    def use(self, shell: Shell) -> None:
        """Have connections wait for what is read from it, and for room."""
        if isinstance(self._medium, FileSpill):
            self._node.fetcher = Readers(DEPTHS["nvme"], self._log, polls=False).fetch
        else:
            readers = Readers(_S3_READS, self._log, polls=False)
            self._node.fetcher = partial(self._medium.fetch, readers)
        self._node.stepper = self._steps.add
        # A pass makes much anew before it gives the old back, which is what there is no memory for
        # here; and what fragmentation costs counts when it is decided what leaves.
        self._node.settings.activedefrag = False
        self._mover = Mover(self._node, self._medium, shell.reactor, release_free_memory, self._log)

    async def run(self) -> None:
        """Work until cancelled."""
        assert self._mover is not None  # `use` comes first.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._steps.run)
            nursery.start_soon(self._mover.run)

    def close(self) -> None:
        """The server stops: nothing that was moved out is needed any more."""
        self._medium.close()
