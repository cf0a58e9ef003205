"""The objects of a test's API server: versions, watches, selectors, finalizers, subresources.

What a real API server promises and the backend relies on, and no more: there is no schema, no
access control, and one namespace is like another. Versions are of the whole store, as in etcd.
"""

from __future__ import annotations

import base64
import copy
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

Document = dict[str, Any]
# Kinds whose status is written by itself: what else is sent there, or status elsewhere, is ignored.
WITH_STATUS = {"pocketjobs", "statefulsets", "pods"}
KINDS = {
    "configmaps": ("v1", "ConfigMap"),
    "secrets": ("v1", "Secret"),
    "pods": ("v1", "Pod"),
    "events": ("v1", "Event"),
    "leases": ("coordination.k8s.io/v1", "Lease"),
    "statefulsets": ("apps/v1", "StatefulSet"),
    "pocketjobs": ("pocketkv.io/v1alpha1", "PocketJob"),
}


class RefusalError(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.body = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "reason": reason,
            "message": message,
            "code": status,
        }


@dataclass
class Happening:
    """Something that watches are told."""

    version: int
    collection: tuple[str, str]
    kind: str
    one: Document
    before: Document | None = None


@dataclass
class Objects:
    """All objects, and what happened to them.

    Attributes:
        history: What watches can still be told; `compact` forgets it.
        changed: Notified whenever something has happened.
    """

    changed: threading.Condition = field(default_factory=threading.Condition)
    version: int = 100
    oldest: int = 100
    history: list[Happening] = field(default_factory=list)
    _held: dict[tuple[str, str], dict[str, Document]] = field(default_factory=dict)

    # --- reading -------------------------------------------------------------------------------

    def get(self, namespace: str, kind: str, name: str) -> Document:
        with self.changed:
            one = self._held.get((namespace, kind), {}).get(name)
            if one is None:
                raise RefusalError(404, "NotFound", f'{kind} "{name}" not found')
            return copy.deepcopy(one)

    def find(self, namespace: str, kind: str, name: str) -> Document | None:
        try:
            return self.get(namespace, kind, name)
        except RefusalError:
            return None

    def all(
        self, namespace: str, kind: str, matches: Callable[[Document], bool] = lambda one: True
    ) -> list[Document]:
        with self.changed:
            found = sorted(self._held.get((namespace, kind), {}).items())
            return [copy.deepcopy(one) for _, one in found if matches(one)]

    def watch(
        self, namespace: str, kind: str, after: int, matches: Callable[[Document], bool]
    ) -> Iterator[Document | int]:
        """Yield events; when there was none for a while, the version that all has been told of."""
        while True:
            with self.changed:
                if after >= self.oldest and after == self.version:
                    self.changed.wait(0.05)
                # Looked at after waiting: what happens is forgotten meanwhile, too.
                if after < self.oldest:
                    raise RefusalError(410, "Expired", f"too old resource version: {after}")
                fresh = [h for h in self.history if h.version > after]
                after = self.version
            told = [_event(h, matches) for h in fresh if h.collection == (namespace, kind)]
            yield from (event for event in told if event is not None)
            if not any(told):
                yield after

    # --- writing -------------------------------------------------------------------------------

    def create(self, namespace: str, kind: str, one: Document) -> Document:
        with self.changed:
            held = self._held.setdefault((namespace, kind), {})
            one = copy.deepcopy(one)
            metadata = one.setdefault("metadata", {})
            name = metadata.get("name") or ""
            if not name:
                raise RefusalError(422, "Invalid", "metadata.name is required")
            if name in held:
                raise RefusalError(409, "AlreadyExists", f'{kind} "{name}" already exists')
            if metadata.get("resourceVersion"):
                raise RefusalError(400, "BadRequest", "resourceVersion must not be set on create")
            metadata |= {
                "namespace": namespace,
                "uid": str(uuid.uuid4()),
                "generation": 1,
                "creationTimestamp": _now(),
            }
            if kind == "pocketjobs":
                one.pop("status", None)
            _plain_secret(kind, one)
            one["apiVersion"], one["kind"] = KINDS[kind]
            held[name] = one
            return self._note("ADDED", namespace, kind, one)

    def replace(
        self, namespace: str, kind: str, name: str, one: Document, part: str = ""
    ) -> Document:
        """Write an object anew; with a version only if that is the newest."""
        with self.changed:
            old = self.get(namespace, kind, name)
            wanted = (one.get("metadata") or {}).get("resourceVersion")
            if wanted and wanted != old["metadata"]["resourceVersion"]:
                raise RefusalError(
                    409,
                    "Conflict",
                    f'Operation cannot be fulfilled on {kind} "{name}": the object'
                    " has been modified; please apply your changes to the latest version",
                )
            uid = (one.get("metadata") or {}).get("uid")
            if uid and uid != old["metadata"]["uid"]:
                raise RefusalError(409, "Conflict", "Precondition failed: UID")
            new = copy.deepcopy(one)
            if part == "status":
                new = {**copy.deepcopy(old), "status": new.get("status")}
            elif kind in WITH_STATUS and "status" in old:
                new["status"] = old["status"]
            elif kind in WITH_STATUS:
                new.pop("status", None)
            fixed = ("uid", "creationTimestamp", "deletionTimestamp", "generation", "namespace")
            metadata = new.setdefault("metadata", {})
            for field_name in fixed:
                metadata.pop(field_name, None)
                if field_name in old["metadata"]:
                    metadata[field_name] = old["metadata"][field_name]
            metadata["name"] = name
            _plain_secret(kind, new)
            new["apiVersion"], new["kind"] = KINDS[kind]
            if new.get("spec") != old.get("spec"):
                metadata["generation"] = old["metadata"]["generation"] + 1
            metadata["resourceVersion"] = old["metadata"]["resourceVersion"]
            if new == old:
                return old  # Nothing has changed, and nobody is told.
            is_free = not metadata.get("finalizers") and kind != "pods"
            if metadata.get("deletionTimestamp") and is_free:
                return self._remove(namespace, kind, old)
            self._held[namespace, kind][name] = new
            return self._note("MODIFIED", namespace, kind, new, old)

    def patch(
        self, namespace: str, kind: str, name: str, patch: Document, part: str = ""
    ) -> Document:
        """Merge (RFC 7386)."""
        with self.changed:
            old = self.get(namespace, kind, name)
            return self.replace(namespace, kind, name, merged(old, patch), part)

    def delete(
        self, namespace: str, kind: str, name: str, options: Document | None = None
    ) -> Document:
        """Remove an object; one with finalizers, and a pod that has time left, are only marked."""
        options = options or {}
        with self.changed:
            old = self.get(namespace, kind, name)
            uid = (options.get("preconditions") or {}).get("uid")
            if uid and uid != old["metadata"]["uid"]:
                raise RefusalError(409, "Conflict", "Precondition failed: UID in precondition")
            grace = options.get("gracePeriodSeconds", 30 if kind == "pods" else 0)
            if old["metadata"].get("finalizers") or (kind == "pods" and grace > 0):
                if old["metadata"].get("deletionTimestamp"):
                    return old
                new = copy.deepcopy(old)
                new["metadata"]["deletionTimestamp"] = _now()
                new["metadata"]["deletionGracePeriodSeconds"] = grace
                self._held[namespace, kind][name] = new
                return self._note("MODIFIED", namespace, kind, new, old)
            return self._remove(namespace, kind, old)

    def _remove(self, namespace: str, kind: str, one: Document) -> Document:
        del self._held[namespace, kind][one["metadata"]["name"]]
        self._note("DELETED", namespace, kind, one)
        uid = one["metadata"]["uid"]
        for owned in ("secrets", "configmaps", "leases"):
            for dependent in self.all(namespace, owned):
                owners = dependent["metadata"].get("ownerReferences") or ()
                if any(owner["uid"] == uid for owner in owners):
                    self.delete(namespace, owned, dependent["metadata"]["name"])
        return one

    def _note(
        self, what: str, namespace: str, kind: str, one: Document, before: Document | None = None
    ) -> Document:
        self.version += 1
        one["metadata"]["resourceVersion"] = str(self.version)
        shown = copy.deepcopy(one)
        self.history.append(Happening(self.version, (namespace, kind), what, shown, before))
        self.changed.notify_all()
        return copy.deepcopy(one)

    def compact(self) -> None:
        """Forget what has happened: watches of older versions expire."""
        with self.changed:
            self.version += 1
            self.history.clear()
            self.oldest = self.version
            self.changed.notify_all()


def _event(happening: Happening, matches: Callable[[Document], bool]) -> Document | None:
    """Return what a watch with a selector is told: an object may come into it, or leave it."""
    is_in = matches(happening.one)
    was_in = happening.before is not None and matches(happening.before)
    if happening.kind == "MODIFIED" and is_in != was_in:
        return {"type": "ADDED" if is_in else "DELETED", "object": happening.one}
    return {"type": happening.kind, "object": happening.one} if is_in else None


def merged(old: Any, patch: Any) -> Any:
    """Return what a merge patch makes of something."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    new = dict(old) if isinstance(old, dict) else {}
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        else:
            new[name] = merged(new.get(name), value)
    return new


def _plain_secret(kind: str, one: Document) -> None:
    if kind == "secrets":
        told = one.pop("stringData", {}).items()
        made = {name: base64.b64encode(text.encode()).decode() for name, text in told}
        one["data"] = {**(one.get("data") or {}), **made}


def decoded(secret: Document) -> dict[str, str]:
    """Return what a Secret says."""
    return {name: base64.b64decode(text).decode() for name, text in secret["data"].items()}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
