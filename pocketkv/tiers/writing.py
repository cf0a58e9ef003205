"""Huge collections are written whole in the background, a part at a time between commands."""

from __future__ import annotations

from collections.abc import Callable

import trio

from pocketkv.engine.errors import CommandError
from pocketkv.engine.keyspace import Keyspace
from pocketkv.engine.writing import Writing, next_writing


async def write_wholes(keyspace: Keyspace, commit: Callable[[], bool], interval_s: float) -> None:
    """Write what is to be written whole, until cancelled.

    Args:
        keyspace: Whose.
        commit: Has what was written given to the system; false if it cannot be now.
        interval_s: How long to wait when there is nothing to do, or no room for it.
    """
    while True:
        writing = next_writing(keyspace)
        if writing is None:
            await trio.sleep(interval_s)
            continue
        wrote = await _step(writing)
        committed = commit()
        await trio.sleep(0 if wrote and committed else interval_s)


async def _step(writing: Writing) -> bool:
    """Write a part of a collection; false if there is no room for it."""
    record = writing.source()
    if record is None:
        return writing.step()
    journal = writing.shelf.journal
    try:
        payload = journal.read_now(record)
        if payload is None:
            payload = await trio.to_thread.run_sync(journal.read, record)
    except CommandError:
        # It is damaged, and stays where it is.
        writing.end()
        return True
    # It may have been set anew while it was read.
    return writing.is_over or writing.step(payload)
