"""The demo's stages, as their driver sees them: it starts workers, watches them, and compares.

The driver knows of the workers' progress what they write into the job, and whether their
processes live. A worker that fails fails its stage: there is no second attempt, since a chunk
that was taken is gone.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Final, Self

from pocketkv import client
from pocketkv.demo import index
from pocketkv.demo.files import File, Input, share_out
from pocketkv.demo.screen import Advance, Screen
from pocketkv.demo.worker import Done, Task, finished, read_key, result_key

POLL_S: Final = 0.05
WORKER_STOP_TIMEOUT_S: Final = 5.0
DIFFERENCES_SHOWN: Final = 5


class StageError(Exception):
    """A worker failed; one line. The exit status is 1."""


@dataclass(frozen=True)
class Stage:
    """What a stage came to. Time is from the start of the first worker to the end of the last."""

    name: str
    workers: int
    duration_s: float
    read_bytes: int
    written_keys: int
    written_bytes: int
    fetched_keys: int = 0
    fetched_bytes: int = 0


class Workers:
    """Processes of one stage; they end with the block, whatever happens."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._running: dict[int, tuple[subprocess.Popen[bytes], IO[bytes]]] = {}
        self._tasks = tasks

    def __enter__(self) -> Self:
        try:
            for task in self._tasks:
                self._start(task)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._end()

    def _start(self, task: Task) -> None:
        # A file, not a pipe: a worker that writes much must not wait for us to read it.
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - `poll` and `_end` close it
        process = subprocess.Popen(
            # -P: a module in the folder that we were started in must not be taken for another.
            [sys.executable, "-P", "-m", "pocketkv.demo.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        self._running[task.worker] = process, errors
        assert process.stdin is not None
        try:
            process.stdin.write(task.as_json().encode())
            process.stdin.close()
        except BrokenPipeError:
            # It ended before it had read its task; `poll` says why.
            pass

    def poll(self) -> bool:
        """Return whether any worker still runs.

        Raises:
            StageError: One has failed.
        """
        for worker, (process, errors) in list(self._running.items()):
            status = process.poll()
            if status is None:
                continue
            errors.seek(0)
            lines = errors.read().decode("utf-8", "replace").strip().splitlines()
            errors.close()
            del self._running[worker]
            if status != 0:
                reason = lines[-1] if lines else f"exit status {status}"
                raise StageError(f"worker {worker} failed: {reason}")
        return bool(self._running)

    def _end(self) -> None:
        for process, _ in self._running.values():
            process.kill()
        for process, errors in self._running.values():
            process.wait(WORKER_STOP_TIMEOUT_S)
            errors.close()
        self._running.clear()


class Driver:
    """Runs the stages of one job over one input."""

    def __init__(
        self, job: client.Job, work: Input, mappers: int, reducers: int, screen: Screen
    ) -> None:
        self._job = job
        self._work = work
        self._mappers = mappers
        self._reducers = reducers
        self._screen = screen
        self._chunk_bytes = 0

    def map(self) -> Stage:
        """Have every file indexed, and a chunk for each reducer left in the job.

        Raises:
            StageError: A worker failed.
        """
        shares = share_out(self._work.files, self._mappers)
        tasks = [self._task("map", worker, files) for worker, files in enumerate(shares)]
        what = f"{len(tasks)} mappers read {len(self._work.files)} files"
        stage = self._run("map", what, tasks, self._work.size_bytes)
        self._chunk_bytes = stage.written_bytes
        return stage

    def reduce(self) -> Stage:
        """Have the chunks taken, merged, and the results left in the job.

        Raises:
            StageError: A worker failed, or found a chunk damaged or missing.
        """
        tasks = [self._task("reduce", worker) for worker in range(self._reducers)]
        what = f"{len(tasks)} reducers merge what the mappers left for them"
        return self._run("reduce", what, tasks, self._chunk_bytes)

    def _task(self, stage: str, worker: int, files: tuple[File, ...] = ()) -> Task:
        return Task(
            stage=stage,
            worker=worker,
            url=self._job.url,
            # Half of the workers go through the router, the others straight to the servers.
            cluster=worker % 2 == 1,
            mappers=self._mappers,
            reducers=self._reducers,
            files=tuple((file.number, str(file.path)) for file in files),
        )

    def _run(self, name: str, what: str, tasks: list[Task], total_bytes: int) -> Stage:
        started_s = time.monotonic()
        with (
            self._screen.stage(name, what, total_bytes) as advance,
            self._job.connect() as storage,
            Workers(tasks) as workers,
        ):
            while workers.poll():
                advance(self._progress(storage, name))
                time.sleep(POLL_S)
            duration_s = time.monotonic() - started_s
            read_bytes = self._progress(storage, name)
            advance(read_bytes)
            done = finished(storage.redis, name)
            if len(done) != len(tasks):
                raise StageError(f"{len(done)} of {len(tasks)} workers of {name} have reported")
            storage.delete(read_key(name))
        return _summed(name, list(done.values()), duration_s, read_bytes)

    @staticmethod
    def _progress(storage: client.PocketClient, stage: str) -> int:
        return int(storage.redis.get(read_key(stage)) or 0)

    def check(self) -> tuple[Stage, list[str]]:
        """Compute the index in this process, and compare; gives what differs, if anything does.

        The results stay in the job.
        """
        started_s = time.monotonic()
        size_bytes = self._work.size_bytes
        what = "this process computes the index by itself and compares"
        with self._screen.stage("check", what, size_bytes) as advance, _no_garbage_collection():
            reference = index.reference_index(self._texts(advance))
            with self._job.connect() as storage:
                found, fetched_keys, fetched_bytes = self._compare(storage, reference)
        duration_s = time.monotonic() - started_s
        stage = Stage("check", 1, duration_s, size_bytes, 0, 0, fetched_keys, fetched_bytes)
        return stage, found

    def _texts(self, advance: Advance) -> Iterator[tuple[int, bytes]]:
        read_bytes = 0
        for file in self._work.files:
            try:
                text = file.path.read_bytes()
            except OSError as error:
                raise StageError(f"{file.path}: {error.strerror}") from error
            yield file.number, text
            read_bytes += len(text)
            advance(read_bytes)

    def _compare(
        self, storage: client.PocketClient, reference: index.Index
    ) -> tuple[list[str], int, int]:
        found: list[str] = []
        fetched_keys = fetched_bytes = 0
        expected_words = len(reference)
        for reducer, report in sorted(finished(storage.redis, "reduce").items()):
            for number in range(report.written_keys):
                key = result_key(reducer, number)
                try:
                    chunk = storage.get_buffer(key)
                except client.FileMissingError:
                    found.append(f"{key} is missing")
                    continue
                fetched_keys += 1
                fetched_bytes += len(chunk)
                found += index.differences(reference, chunk)
        if reference:
            word = min(reference).decode("ascii")
            found.append(
                f"{len(reference)} of {expected_words} words are missing, such as '{word}'"
            )
        return found, fetched_keys, fetched_bytes


def _summed(name: str, done: list[Done], duration_s: float, read_bytes: int) -> Stage:
    return Stage(
        name=name,
        workers=len(done),
        duration_s=duration_s,
        read_bytes=read_bytes,
        written_keys=sum(report.written_keys for report in done),
        written_bytes=sum(report.written_bytes for report in done),
        fetched_keys=sum(report.fetched_keys for report in done),
        fetched_bytes=sum(report.fetched_bytes for report in done),
    )


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Do not look for garbage among millions of objects that are all in use."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
