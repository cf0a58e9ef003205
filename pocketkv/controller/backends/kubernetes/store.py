"""The leader's memory in the cluster's API: batches in a ConfigMap, and what they add up to.

The head, a ConfigMap called ``RELEASE-state``, says of which term it is, which parts belong to it,
and holds the newest batches themselves. So what stands in the way of ``JOB.REGISTER`` is one write
of one object: a batch is there whole or not at all. When the head is full, its batches go to parts,
ConfigMaps of their own that are written before the head names them; when there are more of those
than the whole state takes, it is written anew.

The head is also the fence. A leader begins with a new term, and writes with the version that it
read or wrote last; so a leader that has been replaced writes nothing any more, whatever it believes
of its lease, and since what is told is written before, it tells nothing new either. The epochs of
a term are above all those of earlier terms: a server that has heard of the new leader's maps
refuses older ones.

A write that is not answered may yet have been made: what the head says then decides. Calls block,
and try again until `close` is called; they are for a thread.
"""

from __future__ import annotations

import base64
import json
import threading
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pocketkv.controller.backends.kubernetes.api import (
    MERGE_PATCH,
    Api,
    ApiError,
    ConflictError,
    Document,
    NotFoundError,
    path_of,
)
from pocketkv.controller.backends.kubernetes.retrying import Backoff
from pocketkv.controller.events import WRITTEN_MAX
from pocketkv.controller.messages import Persist, Snapshot
from pocketkv.controller.store import StoreError

TERM_BITS: Final = 32
"""Epochs of a term have so many bits: a term has room for an epoch each millisecond for weeks."""

# An object has at most 1 MiB, of which base64 takes a third more than what it stands for.
HEAD_BYTES_MAX: Final = 256 * 1024
PART_BYTES_MAX: Final = 512 * 1024
# The state is not written anew for less.
COMPACT_BYTES_MIN: Final = 512 * 1024
_VERSION: Final = 1
_MAX_STATE_BYTES: Final = 1024**3
_PART_LABEL: Final = "pocketkv.io/state-of"


class ReplacedError(StoreError):
    """Another controller leads by now: nothing more is to be written, or told."""


@dataclass
class _Group:
    """Batches that were put together, in as many parts as they take."""

    parts: list[str]
    size_bytes: int


@dataclass
class _Head:
    """What the head says beside its batches."""

    term: int = 0
    sequence: int = 0
    groups: list[_Group] = field(default_factory=list)
    version: int = _VERSION


class KubernetesStore:
    """The state of one release.

    Args:
        api: Where it is.
        release: Whose it is.
        labels: Of the objects that are made.
        owners: Of those objects, which go when their owners do.
    """

    def __init__(
        self, api: Api, release: str, labels: Mapping[str, str], owners: Sequence[Document] = ()
    ) -> None:
        self._api = api
        self._name = f"{release}-state"
        self._labels = {**labels, _PART_LABEL: release}
        self._owners = list(owners)
        self._selector = f"{_PART_LABEL}={release}"
        self._closed = threading.Event()
        self._head = _Head()
        self._resource_version = ""
        self._inline: dict[str, bytes] = {}
        self._tables = Tables()

    # --- beginning -----------------------------------------------------------------------------

    def read(self) -> Snapshot:
        """Begin a new term, in which nobody else writes; returns what earlier ones have left.

        Raises:
            StoreError: It cannot be read, or is damaged.
        """
        backoff = Backoff()
        while True:
            try:
                self._claim()
                break
            except ConflictError:
                pass  # Somebody claimed it as well, or wrote a last time.
            except ApiError as error:
                self._pause(error, backoff)
        self._remove_orphans()
        return self._tables.snapshot(self._head.term << TERM_BITS)

    def _claim(self) -> None:
        try:
            document = self._api.request("GET", self._path(self._name))
        except NotFoundError:
            head, document = _Head(), self._object(self._name)
            inline: dict[str, bytes] = {}
        else:
            head, inline = self._parsed(document)
        tables = Tables()
        for group in head.groups:
            tables.apply(self._unpacked(b"".join(map(self._part, group.parts))))
        for _, packed in sorted(inline.items()):
            tables.apply(self._unpacked(packed))
        head.term += 1
        head.sequence = 0
        document["data"] = {"head": json.dumps(asdict(head))}
        document["metadata"]["ownerReferences"] = self._owners
        if document["metadata"].get("resourceVersion"):
            written = self._api.request("PUT", self._path(self._name), document)
        else:
            written = self._api.request("POST", self._path(), document)
        self._head, self._inline, self._tables = head, inline, tables
        self._take_version(written)

    def _part(self, name: str) -> bytes:
        try:
            document = self._api.request("GET", self._path(name))
        except NotFoundError as error:
            raise StoreError(f"{self._name}: damaged: {name} is not there") from error
        try:
            return _binary(document)["part"]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{self._name}: damaged: {name}: {error!r}") from error

    def _parsed(self, document: Document) -> tuple[_Head, dict[str, bytes]]:
        try:
            fields = json.loads(document["data"]["head"])
            if fields["version"] != _VERSION:
                raise StoreError(
                    f"{self._name}: written by another version ({fields['version']}, this one"
                    f" reads {_VERSION})"
                )
            groups = [_Group(list(g["parts"]), int(g["size_bytes"])) for g in fields["groups"]]
            head = _Head(int(fields["term"]), int(fields["sequence"]), groups)
            return head, _binary(document)
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{self._name}: damaged: {error!r}") from error

    def _unpacked(self, packed: bytes) -> Document:
        try:
            # Half a stream is no JSON either.
            text = zlib.decompressobj().decompress(packed, _MAX_STATE_BYTES)
            return dict(json.loads(text))
        except (zlib.error, ValueError, TypeError, RecursionError) as error:
            raise StoreError(f"{self._name}: damaged: {error}") from error

    def _remove_orphans(self) -> None:
        """Remove parts that a leader wrote and did not come to name."""
        known = {name for group in self._head.groups for name in group.parts}
        try:
            found, _ = self._api.list(self._path(), self._selector)
            for document in found:
                name = str(document["metadata"]["name"])
                if name != self._name and name not in known:
                    self._api.request("DELETE", self._path(name))
        except ApiError:
            pass  # They cost nothing but room; the next leader will find them.

    # --- writing -------------------------------------------------------------------------------

    def write(self, batch: Persist) -> None:
        """Write a batch, whole or not at all.

        Raises:
            ReplacedError: Another controller leads.
            StoreError: It was not written, and cannot be: `close` was called.
            ValueError: Its epoch is older than the one that was written last.
        """
        if batch.epoch < self._tables.epoch:
            raise ValueError(f"epoch {batch.epoch} comes after {self._tables.epoch}")
        record = asdict(batch)
        packed = zlib.compress(json.dumps(record).encode(), 1)
        size = sum(map(len, self._inline.values())) + len(packed)
        if size > HEAD_BYTES_MAX:
            self._fold(record)
        else:
            self._append(packed)
        self._tables.apply(record)

    def _append(self, packed: bytes) -> None:
        head = self._next_head()
        key = f"{head.term:08}-{head.sequence:012}"
        body = {
            "data": {"head": json.dumps(asdict(head))},
            "binaryData": {key: base64.b64encode(packed).decode()},
        }
        self._commit(head, body, MERGE_PATCH)
        self._inline[key] = packed

    def _fold(self, record: Document) -> None:
        """Write what is in the head, and this batch, to parts."""
        head = self._next_head()
        tail = Tables()
        for _, packed in sorted(self._inline.items()):
            tail.apply(self._unpacked(packed))
        tail.apply(record)
        packed = zlib.compress(json.dumps(tail.as_batch()).encode())
        log_bytes = sum(group.size_bytes for group in head.groups[1:]) + len(packed)
        whole_bytes = head.groups[0].size_bytes if head.groups else 0
        obsolete: list[str] = []
        if not head.groups or log_bytes > max(COMPACT_BYTES_MIN, whole_bytes):
            whole = self._tables.copied()
            whole.apply(record)
            packed = zlib.compress(json.dumps(whole.as_batch()).encode())
            obsolete = [name for group in head.groups for name in group.parts]
            head.groups = []
        parts = self._write_parts(head, packed)
        head.groups = [*head.groups, _Group(parts, len(packed))]
        document = self._object(self._name)
        document["data"] = {"head": json.dumps(asdict(head))}
        self._commit(head, document, "")
        self._inline = {}
        for name in obsolete:
            try:
                self._api.request("DELETE", self._path(name))
            except ApiError:
                pass  # The next leader removes what nothing names.

    def _write_parts(self, head: _Head, packed: bytes) -> list[str]:
        names = []
        for start in range(0, len(packed), PART_BYTES_MAX):
            name = f"{self._name}-{head.term}-{head.sequence}-{start // PART_BYTES_MAX}"
            document = self._object(name)
            piece = packed[start : start + PART_BYTES_MAX]
            document["binaryData"] = {"part": base64.b64encode(piece).decode()}
            backoff = Backoff()
            method, path = "POST", self._path()
            while True:
                try:
                    self._api.request(method, path, document)
                    break
                except ConflictError:
                    # It is of this very term: a try of ours that was not answered.
                    method, path = "PUT", self._path(name)
                except ApiError as error:
                    self._pause(error, backoff)
            names.append(name)
        return names

    def _next_head(self) -> _Head:
        head = self._head
        return _Head(head.term, head.sequence + 1, list(head.groups))

    def _commit(self, head: _Head, body: Document, patch: str) -> None:
        """Write the head; what was not answered is looked at before it is tried again.

        Raises:
            ReplacedError: It is of another term.
            StoreError: It was not written, and `close` was called.
        """
        backoff = Backoff()
        path = self._path(self._name)
        while True:
            body.setdefault("metadata", {})["resourceVersion"] = self._resource_version
            try:
                if patch:
                    written = self._api.request("PATCH", path, body, content_type=patch)
                else:
                    written = self._api.request("PUT", path, body)
            except ConflictError:
                if self._is_written(head):
                    break
            except NotFoundError as error:
                raise ReplacedError(f"{self._name} was removed") from error
            except ApiError as error:
                self._pause(error, backoff)
            else:
                self._take_version(written)
                break
        self._head = head

    def _is_written(self, head: _Head) -> bool:
        """Return whether what the head says now is what was to be written."""
        document = self._read_head()
        found, _ = self._parsed(document)
        if found.term != head.term or found.sequence not in {head.sequence, head.sequence - 1}:
            raise ReplacedError(f"{self._name}: another controller leads (term {found.term})")
        # If not: somebody else has touched it, such as with a label.
        self._take_version(document)
        return found.sequence == head.sequence

    def _read_head(self) -> Document:
        backoff = Backoff()
        while True:
            try:
                return self._api.request("GET", self._path(self._name))
            except NotFoundError as error:
                raise ReplacedError(f"{self._name} was removed") from error
            except ApiError as error:
                self._pause(error, backoff)

    def _pause(self, error: ApiError, backoff: Backoff) -> None:
        if not error.is_passing:
            raise StoreError(f"{self._name}: {error}") from error
        if self._closed.wait(backoff.next_s(error.retry_after_s)):
            raise StoreError(f"{self._name}: given up: {error}") from error

    def _take_version(self, document: Document) -> None:
        self._resource_version = str(document["metadata"]["resourceVersion"])

    def _path(self, name: str = "") -> str:
        return path_of("api/v1", self._api.namespace, "configmaps", name)

    def _object(self, name: str) -> Document:
        metadata = {
            "name": name,
            "namespace": self._api.namespace,
            "labels": self._labels,
            "ownerReferences": self._owners,
        }
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}

    def close(self) -> None:
        """Try nothing again any more; a write that is under way fails."""
        self._closed.set()


class Tables:
    """Records by table and id, as batches add up to them. Pure."""

    def __init__(self) -> None:
        self.epoch = 0
        self.facts: dict[str, Any] = {}
        self.jobs: dict[str, Any] = {}
        self.placements: dict[str, Any] = {}
        self.servers: dict[str, Any] = {}
        self.events: dict[str, Any] = {}
        self._removed_jobs: set[str] = set()
        self._removed_servers: set[str] = set()

    def apply(self, batch: Mapping[str, Any]) -> None:
        """Take a batch: a `Persist` as a dictionary."""
        self.epoch = max(self.epoch, int(batch["epoch"]))
        for name in ("facts", "jobs", "placements", "servers", "events"):
            getattr(self, name).update(batch[name])
        for name in batch["removed_jobs"]:
            self.jobs.pop(name, None)
            self.placements.pop(name, None)
        for name in batch["removed_servers"]:
            self.servers.pop(name, None)
        self._removed_jobs |= set(batch["removed_jobs"]) - self.jobs.keys()
        self._removed_servers |= set(batch["removed_servers"])
        self._removed_servers -= self.servers.keys()
        for name in sorted(self.events, key=int)[:-WRITTEN_MAX]:
            del self.events[name]

    def as_batch(self) -> Document:
        """Return one batch that does what all those did that were applied."""
        return {
            "epoch": self.epoch,
            "facts": self.facts,
            "jobs": self.jobs,
            "placements": self.placements,
            "servers": self.servers,
            "events": self.events,
            "removed_jobs": sorted(self._removed_jobs),
            "removed_servers": sorted(self._removed_servers),
        }

    def copied(self) -> Tables:
        """Return the tables by themselves: nothing that is gone is told of."""
        copy = Tables()
        copy.apply({**self.as_batch(), "removed_jobs": (), "removed_servers": ()})
        return copy

    def snapshot(self, epoch_min: int) -> Snapshot:
        """Return what a controller remembers, with an epoch of at least `epoch_min`."""
        return Snapshot(
            epoch=max(self.epoch, epoch_min),
            facts=dict(self.facts),
            jobs=dict(self.jobs),
            placements=dict(self.placements),
            servers=dict(self.servers),
            events=dict(self.events),
        )


def _binary(document: Mapping[str, Any]) -> dict[str, bytes]:
    held = document.get("binaryData") or {}
    return {name: base64.b64decode(text, validate=True) for name, text in held.items()}
