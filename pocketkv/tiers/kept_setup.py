"""Gives a server the store for what jobs retain, if the operator named one."""

from __future__ import annotations

import logging
from typing import Final

from pocketkv.config import StorageConfig
from pocketkv.engine.node import Node
from pocketkv.engine.topology import Topology
from pocketkv.serving.shell import Shell, StartError
from pocketkv.tiers.kept_figures import KeptFigures
from pocketkv.tiers.kept_s3 import S3Kept
from pocketkv.tiers.readers import Readers
from pocketkv.tiers.s3.errors import S3Error

# Reads that may be under way: each waits for an answer, not for a device.
_READS: Final = 16


def open_kept(config: StorageConfig, topology: Topology, log: logging.Logger) -> S3Kept | None:
    """The store for what jobs retain; ``None``: the server has none.

    Args:
        config: The server's.
        topology: Tells which jobs there are.
        log: Where trouble is told.

    Raises:
        StartError: It cannot be used.
    """
    if config.retain is None:
        return None
    try:
        kept = S3Kept(
            config.retain,
            server_id=config.server_id,
            is_known=lambda job_id: job_id in topology.placements,
            log=log,
        )
        kept.store.check()
    except S3Error as error:
        raise StartError(f"--retain {error}") from error
    return kept


def use_kept(kept: S3Kept, node: Node, shell: Shell, log: logging.Logger) -> None:
    """Have connections wait for what is read from it, and for it alone."""
    kept.use(Readers(_READS, log, polls=False), node.fetcher, shell.reactor.fetch)
    node.fetcher = kept.fetch
    shell.reactor.fetch = kept.fetch_part
    shell.metrics.sources.append(KeptFigures(kept).metrics)
