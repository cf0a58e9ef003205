"""S3 as a place for values: the one class that the rest of a server uses.

All calls may come from any thread, and block while S3 does, but for those that say that they ask
nobody. None of them is for the serving thread otherwise. What a call that fails was to write is
still with its caller, and nothing of it is left in S3, or will be once the trash is emptied.
"""

from __future__ import annotations

import itertools
import secrets
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from pocketkv.tiers.s3 import cleaning, retained
from pocketkv.tiers.s3.address import decode_id, encode_id, parse_url
from pocketkv.tiers.s3.blobs import Blob, Blobs, Source, Summing, part_bytes_for, pieces_of
from pocketkv.tiers.s3.cleaning import Deleted, Leftovers
from pocketkv.tiers.s3.client import Client
from pocketkv.tiers.s3.counters import Counters, Counts
from pocketkv.tiers.s3.errors import S3Error
from pocketkv.tiers.s3.gate import Gate
from pocketkv.tiers.s3.options import S3Options
from pocketkv.tiers.s3.packs import PACK_BYTES, PACK_BYTES_MAX, Pack, PackItem, Packs, pack_bytes
from pocketkv.tiers.s3.retained import Retained, RetainedKey, RetainedWriter
from pocketkv.tiers.s3.transfers import Transfers
from pocketkv.tiers.s3.trash import Trash
from pocketkv.tiers.volume.checksums import checksum as checksum_of

RUN_BYTES: Final = 6
"""Random part of the names that one run of a server gives: none comes twice."""

LEFTOVER_AGE_MIN_S: Final = 3600.0
"""What an unknown job or server wrote is kept so long: it may be newer than what is known here."""

_CHECK: Final = b"PocketKV can write, read and delete here."


@dataclass(frozen=True, slots=True)
class S3Figures:
    """What a store holds and has done, for metrics and INFO.

    Attributes:
        counts: Of requests.
        packs, pack_bytes: Objects of small values.
        pack_live_items, pack_live_bytes: What of them is needed.
        objects, object_bytes: Large values of this run that were written and not deleted.
        trash: Objects that are still to be deleted.
        sending_bytes, reading_bytes: Under way, or waited for.
        available: Whether S3 answers, as far as is known.
        reason: Why not.
        outages: So far.
    """

    counts: Counts
    packs: int
    pack_bytes: int
    pack_live_items: int
    pack_live_bytes: int
    objects: int
    object_bytes: int
    trash: int
    sending_bytes: int
    reading_bytes: int
    available: bool
    reason: str
    outages: int


class S3Store:
    """Values in S3.

    Args:
        url: ``s3://bucket/prefix``. A prefix is for one cluster.
        server_id: Of this server; what an earlier run under this id has left, `sweep` deletes. If
            it is absent, a random one.
        options: How to talk to S3.

    Raises:
        S3Error: denied: URL or settings are wrong. Nothing is asked yet.
    """

    def __init__(
        self, url: str, *, server_id: str | None = None, options: S3Options | None = None
    ) -> None:
        self.url = url
        self.options = options or S3Options()
        self.bucket, self.prefix = parse_url(url)
        self._server = encode_id(server_id or secrets.token_hex(RUN_BYTES))
        self._run = secrets.token_hex(RUN_BYTES)
        self._writer = f"{self._server}.{self._run}"
        self._numbers = itertools.count(1)
        self._counters = Counters()
        self._client = Client(self.bucket, self.options, self._counters)
        self._trash = Trash()
        self._transfers = Transfers(self._client, self.options, self._counters, self._trash)
        self._packs = Packs(self._trash.add)
        self._blobs = Blobs()
        self._gate = Gate()

    # --- the store itself ----------------------------------------------------------------------

    @property
    def available(self) -> bool:
        """Whether S3 answers, as far as is known. Asks nobody."""
        return self._client.breaker.available

    @property
    def reason(self) -> str:
        """Why it is not available, in one line; empty if it is. Asks nobody."""
        return self._client.breaker.reason

    def figures(self) -> S3Figures:
        """What the store holds and has done. Asks nobody."""
        breaker = self._client.breaker
        return S3Figures(
            counts=self._counters.counts(),
            packs=len(self._packs),
            pack_bytes=self._packs.size,
            pack_live_items=self._packs.live_items,
            pack_live_bytes=self._packs.live_bytes,
            objects=len(self._blobs),
            object_bytes=self._blobs.size,
            trash=len(self._trash),
            sending_bytes=self._transfers.sending.taken_bytes,
            reading_bytes=self._transfers.reading.taken_bytes + self._transfers.ahead.taken_bytes,
            available=breaker.available,
            reason=breaker.reason,
            outages=breaker.opened,
        )

    def check(self) -> None:
        """See that everything that will be needed works: to list, write, read and delete.

        Raises:
            S3Error: Something does not; one line that says what, for the operator.
        """
        name = f"{self.prefix}checks/{self._writer}"
        try:
            self._client.reach()
            for _ in self._client.list_objects(name):
                pass
            self._client.put(name, _CHECK)
            data = self._client.get_range(name, 0, len(_CHECK))
            failed = self._client.delete([name])
            self._client.list_unfinished(name)
        except S3Error as error:
            raise S3Error(error.kind, f"{self.url} at {self._client.endpoint}: {error}") from error
        if failed:
            raise S3Error("denied", f"{self.url}: objects cannot be deleted: {failed[name]}")
        if data != _CHECK:
            raise S3Error("corrupt", f"{self.url}: an object is not what was written")

    def close(self) -> None:
        """End all threads and connections. What was spilled stays, for `sweep` or its job's end."""
        self._transfers.close()
        self._client.close()

    def __enter__(self) -> S3Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def read_range(self, name: str, offset: int, size: int) -> bytes:
        """Read a part of an object, at least one byte; what it says, the caller has to check.

        Raises:
            S3Error: It cannot be read.
        """
        self._transfers.reading.take(size)
        try:
            return self._client.get_range(name, offset, size)
        finally:
            self._transfers.reading.give_back(size)

    # --- small values --------------------------------------------------------------------------

    def write_pack(self, job_id: str, items: Sequence[bytes]) -> Pack:
        """Write small values of a job as one object; `packs.PACK_BYTES` together are a good size.

        Raises:
            S3Error: Nothing is written; missing: the job has been dropped meanwhile.
            ValueError: There are no values, or too many.
        """
        size = sum(map(len, items)) + len(items)
        if not 0 < size <= PACK_BYTES_MAX:
            raise ValueError(f"{len(items)} values make no pack")
        pack = Pack(job_id, self._name(job_id, "pack"), items)
        with self._writing(job_id, pack.name):
            self._transfers.send(pack.name, pack_bytes(items), size)
            self._packs.add(pack)
        return pack

    def read_item(self, pack: Pack, offset: int, size: int, checksum: int | None = None) -> bytes:
        """Read one value of a pack.

        Args:
            pack: Which one.
            offset: Where in it the value begins.
            size: Of the value.
            checksum: As in the pack's item; None: the pack is asked for it.

        Raises:
            S3Error: It cannot be read; corrupt: it is not what was written.
            ValueError: No value of this size lies there.
        """
        item = pack.item(pack.index_of(offset))
        if item.size != size:
            raise ValueError(f"the item at {offset} of {pack.name} has {item.size} bytes")
        expected = item.checksum if checksum is None else checksum
        if size == 0:
            return b""
        self._transfers.reading.take(size)
        try:
            return self._transfers.read_right(
                pack.name, offset, size, lambda data: checksum_of(data) == expected
            )
        finally:
            self._transfers.reading.give_back(size)

    def read_live(self, pack: Pack) -> list[tuple[PackItem, bytes]]:
        """Read all values of a pack that are still needed, with one request.

        Raises:
            S3Error: The pack cannot be read; corrupt: a value is not what was written, and
                `read_item` still gives the others.
        """
        self._transfers.reading.take(pack.size)
        try:
            live = pack.live()

            def is_right(data: bytes) -> bool:
                return all(
                    checksum_of(data[item.offset : item.offset + item.size]) == item.checksum
                    for item in live
                )

            data = self._transfers.read_right(pack.name, 0, pack.size, is_right)
        finally:
            self._transfers.reading.give_back(pack.size)
        return [(item, data[item.offset : item.offset + item.size]) for item in live]

    def release(self, pack: Pack, offset: int) -> None:
        """A value of a pack is not needed any more. Asks nobody.

        Raises:
            ValueError: There is none, or it was released before.
        """
        self._packs.release(pack, offset)

    def sparse_packs(self) -> list[Pack]:
        """The packs of which so little is needed that it should be written anew. Asks nobody."""
        return self._packs.sparse()

    # --- large values --------------------------------------------------------------------------

    def write_object(self, job_id: str, source: Source, size: int) -> Blob:
        """Write one large value of a job as an object of its own.

        Args:
            job_id: Whose it is.
            source: Its pieces, or who gives so many bytes from an offset on. It is asked by the
                calling thread, once for each byte, in order, as the bytes can be sent.
            size: Of the value in bytes.

        Raises:
            S3Error: Nothing is written; missing: the job has been dropped meanwhile.
            ValueError: The source gives more or fewer bytes. Also what the source raises.
        """
        name = self._name(job_id, "large")
        summing = Summing()
        with self._writing(job_id, name):
            self._send(name, _passing(pieces_of(source, size), summing), size, size)
            summing.end()
            blob = Blob(job_id, name, 0, size, summing.checksums)
            self._blobs.add(blob)
        return blob

    def read_object(self, blob: Blob, start: int = 0, end: int | None = None) -> bytes:
        """Read a range of a large value, all of which fits in memory.

        Raises:
            S3Error: It cannot be read; corrupt: it is not what was written.
        """
        return b"".join(self.read_object_pieces(blob, start, end))

    def read_object_pieces(
        self, blob: Blob, start: int = 0, end: int | None = None
    ) -> Iterator[bytes]:
        """Read a range of a large value in pieces, each of them checked, at most a part in size.

        The next pieces are read while the caller has one, so who stops early should close the
        iterator.

        Raises:
            S3Error: As `read_object`.
            ValueError: The value has no such range.
        """
        end = blob.size if end is None else end
        if not 0 <= start <= end <= blob.size:
            raise ValueError(f"{start} to {end} is no range of {blob.size} bytes")
        return self._transfers.read(blob, start, end)

    def delete_object(self, blob: Blob) -> None:
        """A large value is not needed any more. Asks nobody: `empty_trash` deletes it."""
        if self._blobs.remove(blob):
            self._trash.add(blob.name)

    # --- what is not needed any more -----------------------------------------------------------

    def empty_trash(self) -> int:
        """Delete what nobody needs; return how many objects went. A worker calls it at times.

        Raises:
            S3Error: What is left will be deleted the next time.
        """
        return self._trash.empty(self._client)

    def drop_job(self, job_id: str, *, everywhere: bool = True) -> Deleted:
        """Delete all that a job has in S3, but for what is retained.

        Args:
            job_id: It has ended, or nothing of it is here any more.
            everywhere: What other servers wrote, too, since the job has ended. If it has only
                moved to other servers, just what this one wrote goes.

        Raises:
            S3Error: Something is left; to be called again.
        """
        folder = self._folder(job_id) if everywhere else f"{self._folder(job_id)}{self._writer}/"
        self._gate.drop(job_id)
        self._packs.forget_job(job_id)
        self._blobs.forget_job(job_id)
        # Before the objects are listed: what comes into the trash later may not be in the list.
        self._trash.forget(folder)
        return cleaning.delete_all(self._client, folder)

    def sweep(
        self,
        known_jobs: Collection[str],
        known_servers: Collection[str] | None = None,
        *,
        age_min_s: float = LEFTOVER_AGE_MIN_S,
    ) -> Deleted:
        """Delete what servers have left that crashed; what is retained stays.

        That is what is of jobs that have ended, of servers that are gone, and of earlier runs of
        this one.

        Args:
            known_jobs: All jobs that have not ended.
            known_servers: All servers that run; None if that is not known.
            age_min_s: What others wrote less long ago stays.

        Raises:
            S3Error: Not everything could be looked at.
        """
        leftovers = Leftovers(
            known_jobs,
            known_servers,
            decode_id(self._server),
            self._run,
            age_min_s,
        )
        deleted = cleaning.sweep(self._client, f"{self.prefix}jobs/", _parse_folder, leftovers)
        return deleted + cleaning.delete_all(self._client, f"{self.prefix}checks/", age_min_s)

    # --- what outlives its job -----------------------------------------------------------------

    def put_retained(
        self,
        job_id: str,
        db: int,
        key: bytes,
        kind: int,
        source: Source,
        size: int,
        due_ms: int = 0,
    ) -> RetainedKey:
        """Write a key so that it outlives its job; when this returns, it does.

        Args:
            job_id: Whose it is.
            db: Number of its database.
            key: Its name, any bytes.
            kind: Tells the engine what the bytes are.
            source: The bytes, as in `write_object`.
            size: How many they are.
            due_ms: When the key expires, in milliseconds since 1970; 0: never.

        Raises:
            S3Error: Nothing is written.
            ValueError: As `write_object`.
        """
        name, writer = self._new_retained(job_id)
        value = writer.value(db, key, kind, due_ms, pieces_of(source, size))
        end_bytes = retained.manifest_bytes_max(len(key), 1, size)
        self._send(name, itertools.chain(value, _later(writer)), size, size + end_bytes)
        return writer.keys[0]

    def put_retained_many(self, job_id: str, entries: Iterable[Retained]) -> list[RetainedKey]:
        """Write many small keys so that they outlive their job, some MiB with one request.

        Raises:
            S3Error: Some of them may be written; to write all again does no harm.
        """
        written: list[RetainedKey] = []
        for batch in retained.batches_of(entries, PACK_BYTES):
            name, writer = self._new_retained(job_id)
            values = [
                writer.value(entry.db, entry.key, entry.kind, entry.due_ms, (entry.payload,))
                for entry in batch
            ]
            size = sum(len(entry.payload) for entry in batch)
            keys_bytes = sum(len(entry.key) for entry in batch)
            end_bytes = retained.manifest_bytes_max(keys_bytes, len(batch), size)
            self._transfers.send(name, itertools.chain(*values, _later(writer)), size + end_bytes)
            written.extend(writer.keys)
        return written

    def list_retained(self, job_id: str, damaged: list[S3Error] | None = None) -> list[RetainedKey]:
        """List the keys of a job that are retained, by whatever server.

        Args:
            job_id: Whose keys.
            damaged: Told of objects that are damaged, so that the others' keys can be had.

        Raises:
            S3Error: They cannot be read; corrupt: an object is damaged, and `damaged` is None.
        """
        found = {
            item.name: item
            for page in self._client.list_objects(self._retained_folder(job_id))
            for item in page
        }
        errors: list[S3Error] = []

        def keys_in(name: str) -> list[RetainedKey]:
            try:
                return retained.read_keys(self._transfers, job_id, found[name])
            except S3Error as error:
                if error.kind != "corrupt":
                    raise
                errors.append(error)
                return []

        keys = retained.last_of_each(self._transfers.map(keys_in, sorted(found)))
        if errors and damaged is None:
            raise errors[0]
        if damaged is not None:
            damaged.extend(errors)
        return keys

    def get_retained(self, key: RetainedKey, start: int = 0, end: int | None = None) -> bytes:
        """Read a range of the value of a retained key; errors as in `read_object`."""
        return self.read_object(key.blob, start, end)

    def get_retained_pieces(
        self, key: RetainedKey, start: int = 0, end: int | None = None
    ) -> Iterator[bytes]:
        """Read the same in pieces, as `read_object_pieces`."""
        return self.read_object_pieces(key.blob, start, end)

    def retained_jobs(self) -> list[str]:
        """List the jobs that have retained keys.

        Raises:
            S3Error: They cannot be listed.
        """
        root = f"{self.prefix}retained/"
        folders = self._client.list_folders(root)
        paths = [f"{root}{folder}/" for folder in folders]
        found = self._transfers.map(self._client.has_objects, paths)
        return [
            decode_id(folder) for folder, is_there in zip(folders, found, strict=True) if is_there
        ]

    def purge(self, job_id: str) -> Deleted:
        """Delete all that is retained of a job.

        Raises:
            S3Error: Something is left; to be called again.
        """
        return cleaning.delete_all(self._client, self._retained_folder(job_id))

    # --- names and writes ----------------------------------------------------------------------

    def _folder(self, job_id: str) -> str:
        return f"{self.prefix}jobs/{encode_id(job_id)}/"

    def _retained_folder(self, job_id: str) -> str:
        return f"{self.prefix}retained/{encode_id(job_id)}/"

    def _name(self, job_id: str, what: str) -> str:
        return f"{self._folder(job_id)}{self._writer}/{what}-{next(self._numbers):08d}"

    def _new_retained(self, job_id: str) -> tuple[str, RetainedWriter]:
        now_ms = time.time_ns() // 1_000_000
        number = next(self._numbers)
        name = f"{self._retained_folder(job_id)}{now_ms:014d}-{self._writer}-{number:08d}"
        return name, RetainedWriter(job_id, name, self._writer, now_ms)

    def _send(self, name: str, pieces: Iterable[bytes], size: int, bytes_max: int) -> None:
        if size <= self.options.part_bytes:
            self._transfers.send(name, pieces, bytes_max)
        else:
            part_bytes = part_bytes_for(bytes_max, self.options)
            self._transfers.send_parts(name, pieces, part_bytes)

    @contextmanager
    def _writing(self, job_id: str, name: str) -> Iterator[None]:
        """Around what writes an object of a job.

        Raises:
            S3Error: missing: the job was dropped meanwhile, and the object is in the trash.
        """
        ticket = self._gate.enter(job_id)
        failure: S3Error | None = None
        try:
            yield
        except S3Error as error:
            # It may well have failed for that reason, whatever S3 said.
            if not ticket.dropped:
                raise
            failure = error
        finally:
            self._gate.leave(ticket)
        if ticket.dropped:
            # What else of the job is new was written since then.
            self._packs.forget(name)
            self._blobs.forget(name)
            self._trash.add(name)
            text = f"job {job_id} was dropped while a value of it was written"
            raise S3Error("missing", text) from failure


def _passing(pieces: Iterable[bytes], summing: Summing) -> Iterator[bytes]:
    for piece in pieces:
        summing.add(piece)
        yield piece


def _later(writer: RetainedWriter) -> Iterator[bytes]:
    """The end of an object, which is known when its values have passed."""
    yield from writer.end()


def _parse_folder(path: str) -> tuple[str, str, str] | None:
    """Job, server and run of ``JOB/SERVER.RUN/``."""
    job, _, writer = path.removesuffix("/").partition("/")
    server, dot, run = writer.partition(".")
    if not (job and server and dot and run) or "/" in run:
        return None
    return decode_id(job), decode_id(server), run
