"""One worker of the demo: a process of its own that stands for a Lambda.

``python -m pocketkv.demo.worker`` reads its task, a JSON object, from standard input (a URL holds
a token, and a command line can be read by others), connects, works, and says that it is done in
the job itself, where the next stage finds it. It has no other way to talk to other workers.
Keys of the job:

=============================  ====================================================
``map/<mapper>/<batch>/<r>``   a chunk for reducer r
``result/<r>/<number>``        a chunk of the result
``read/<stage>``               bytes read so far, a counter
``done/<stage>``               a set of the finished workers' reports, JSON
=============================  ====================================================

A mapper reads its files from this machine, as a Lambda would from an object store.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import redis

from pocketkv import client
from pocketkv.demo import index

BATCH_BYTES: Final = 256 * 1024
"""Bytes of input after which a mapper sends what it has, a chunk for each reducer."""

RESULT_BYTES: Final = 256 * 1024
"""Bytes of a chunk of the result, about."""

PIPELINE_DEPTH: Final = 16
"""Commands that a reducer sends before it waits for the answers."""

INTERRUPTED: Final = 130


class WorkerError(Exception):
    """A worker cannot go on; one line."""


@dataclass(frozen=True)
class Task:
    """What a worker is to do; `files` are number and path, for a mapper."""

    stage: str
    worker: int
    url: str
    cluster: bool
    mappers: int
    reducers: int
    files: tuple[tuple[int, str], ...] = ()

    def as_json(self) -> str:
        """Return the task as a JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Task:
        """Return the task of a JSON text that `as_json` made."""
        fields = json.loads(text)
        files = tuple((int(number), str(path)) for number, path in fields["files"])
        return cls(**{**fields, "files": files})


@dataclass(frozen=True)
class Done:
    """What a finished worker reports: what it wrote into the job, and fetched from it."""

    worker: int
    batches: int
    written_keys: int
    written_bytes: int
    fetched_keys: int = 0
    fetched_bytes: int = 0

    @classmethod
    def from_json(cls, text: str | bytes) -> Done:
        """Return the report of a JSON text."""
        return cls(**json.loads(text))


def chunk_key(mapper: int, batch: int, reducer: int) -> str:
    """Return the key of what a mapper has for a reducer."""
    return f"map/{mapper}/{batch}/{reducer}"


def result_key(reducer: int, number: int) -> str:
    """Return the key of a chunk of the result."""
    return f"result/{reducer}/{number}"


def read_key(stage: str) -> str:
    """Return the key of the counter of bytes read."""
    return f"read/{stage}"


def done_key(stage: str) -> str:
    """Return the key of the set of reports."""
    return f"done/{stage}"


def finished(storage: Any, stage: str) -> dict[int, Done]:
    """Return the reports of the workers of a stage that have finished, by worker."""
    reports = map(Done.from_json, storage.smembers(done_key(stage)))
    return {report.worker: report for report in reports}


# --- map -----------------------------------------------------------------------------------------


def run_mapper(storage: Any, task: Task) -> Done:
    """Index files, and leave a chunk for each reducer after each `BATCH_BYTES`."""
    batches = written_bytes = 0
    for size_bytes, postings in _batches(task.files):
        chunks = index.split(postings, task.reducers)
        pipeline = storage.pipeline(transaction=False)
        for reducer, chunk in enumerate(chunks):
            pipeline.set(chunk_key(task.worker, batches, reducer), chunk)
        pipeline.incrby(read_key(task.stage), size_bytes)
        pipeline.execute()
        batches += 1
        written_bytes += sum(map(len, chunks))
    return Done(task.worker, batches, batches * task.reducers, written_bytes)


def _batches(files: tuple[tuple[int, str], ...]) -> Iterator[tuple[int, index.Postings]]:
    """Yield bytes read and what is in them."""
    postings: index.Postings = {}
    size_bytes = 0
    for number, path in files:
        try:
            text = Path(path).read_bytes()
        except OSError as error:
            raise WorkerError(f"{path}: {error.strerror}") from error
        index.add_file(postings, number, text)
        size_bytes += len(text)
        if size_bytes >= BATCH_BYTES:
            yield size_bytes, postings
            postings, size_bytes = {}, 0
    if postings:
        yield size_bytes, postings


# --- reduce --------------------------------------------------------------------------------------


def run_reducer(storage: Any, task: Task) -> Done:
    """Take and delete every mapper's chunks for this reducer, merge them, write the result."""
    mappers = finished(storage, "map")
    if len(mappers) != task.mappers:
        raise WorkerError(f"{len(mappers)} of {task.mappers} mappers have reported")
    keys = [
        chunk_key(mapper, batch, task.worker)
        for mapper, report in sorted(mappers.items())
        for batch in range(report.batches)
    ]
    merged: index.Postings = {}
    fetched_bytes = 0
    for first in range(0, len(keys), PIPELINE_DEPTH):
        group = keys[first : first + PIPELINE_DEPTH]
        chunks = _take(storage, group)
        for key, chunk in zip(group, chunks, strict=True):
            try:
                index.merge(merged, chunk)
            except index.DamagedError as error:
                raise WorkerError(f"check failed: {key} is damaged: {error}") from error
        group_bytes = sum(map(len, chunks))
        storage.incrby(read_key(task.stage), group_bytes)
        fetched_bytes += group_bytes
    written_keys = written_bytes = 0
    for chunk in index.chunks_of(merged, RESULT_BYTES):
        storage.set(result_key(task.worker, written_keys), chunk)
        written_keys += 1
        written_bytes += len(chunk)
    return Done(task.worker, 0, written_keys, written_bytes, len(keys), fetched_bytes)


def _take(storage: Any, keys: list[str]) -> list[bytes]:
    pipeline = storage.pipeline(transaction=False)
    for key in keys:
        pipeline.getdel(key)
    chunks: list[bytes | None] = pipeline.execute()
    for key, chunk in zip(keys, chunks, strict=True):
        if chunk is None:
            raise WorkerError(f"check failed: {key} is missing")
    return [chunk for chunk in chunks if chunk is not None]


# --- life ----------------------------------------------------------------------------------------


def run(task: Task) -> None:
    """Do the task, and report that it is done.

    Raises:
        WorkerError: It cannot be done.
        client.PocketError, redis.RedisError: The storage failed.
    """
    with client.connect(task.url, cluster=task.cluster) as connected:
        storage = connected.redis
        storage.ping()
        done = (run_mapper if task.stage == "map" else run_reducer)(storage, task)
        storage.sadd(done_key(task.stage), json.dumps(asdict(done)))


def main() -> int:
    """Run one worker; its exit status."""
    # Ctrl-C reaches every process of the terminal; the driver ends its workers itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # What is made here is kept until the end, so looking for garbage would only cost time.
    gc.disable()
    try:
        run(Task.from_json(sys.stdin.read()))
    except (WorkerError, client.PocketError, redis.RedisError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    # Freeing an index of a million lists one by one would take longer than the work.
    os._exit(status)
