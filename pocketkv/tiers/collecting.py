"""Collection in the background: what is live leaves segments that are mostly dead."""

from __future__ import annotations

from collections.abc import Callable

import trio

from pocketkv.tiers.volume.volume import Volume


async def collect(volume: Volume, commit: Callable[[], bool], interval_s: float) -> None:
    """Move what is live out of sparse segments, a part at a time, until cancelled.

    Args:
        volume: Whose segments.
        commit: Has what was moved written; false if it cannot be now.
        interval_s: How long to wait when there is nothing to do, or no room for it.
    """
    while True:
        claim = volume.collect_pick()
        if claim is None:
            await trio.sleep(interval_s)
            continue
        part = await trio.to_thread.run_sync(volume.collect_read, claim)
        applied = volume.collect_apply(part)
        # Even if nothing was moved: a part of it may have been.
        committed = commit()
        await trio.sleep(0 if applied and committed else interval_s)
