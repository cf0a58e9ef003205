"""What a job may use on a server: what the map grants it, and less if its clients want that.

With CONFIG SET maxmemory clients of a cluster limit their own job. That is for all of its servers
together; each takes the share that it has of the slots.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pocketkv.slots import SLOT_COUNT

if TYPE_CHECKING:
    from pocketkv.engine.keyspace import JobSpace


def grant(space: JobSpace, quota_bytes: int | None) -> None:
    """Follow what a map lets a job use here; ``None``: as much as the server has."""
    space.granted_bytes = quota_bytes
    share = sum(space.given) / SLOT_COUNT
    if space.limit_bytes and share:
        own_bytes = math.ceil(space.limit_bytes * share)
        quota_bytes = own_bytes if quota_bytes is None else min(own_bytes, quota_bytes)
    space.quota_bytes = quota_bytes


def limit(space: JobSpace, limit_bytes: int) -> None:
    """Follow what a job's clients have set for all of its servers; 0: no limit."""
    space.limit_bytes = limit_bytes
    grant(space, space.granted_bytes)
