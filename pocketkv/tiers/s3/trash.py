"""What is in S3 and nobody needs: it is deleted by a worker, many objects with one request.

To put something in is quick and asks nobody, so the serving thread may. What cannot be deleted now,
in an outage, stays in and is tried again.
"""

from __future__ import annotations

import threading
from collections import deque

from pocketkv.tiers.s3.client import DELETED_AT_ONCE_MAX, Client
from pocketkv.tiers.s3.errors import S3Error


class Trash:
    """The objects that are to be deleted, and the beginnings of objects in parts."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._names: deque[str] = deque()
        self._uploads: deque[tuple[str, str]] = deque()

    def __len__(self) -> int:
        return len(self._names) + len(self._uploads)

    def add(self, name: str) -> None:
        """Nobody needs an object; it need not exist."""
        with self._lock:
            self._names.append(name)

    def add_upload(self, name: str, upload_id: str) -> None:
        """Nobody needs an object that is being sent in parts, nor what it may have become."""
        with self._lock:
            self._uploads.append((name, upload_id))
            self._names.append(name)

    def forget(self, prefix: str) -> None:
        """Somebody else deletes everything whose name begins so."""
        with self._lock:
            self._names = deque(name for name in self._names if not name.startswith(prefix))
            self._uploads = deque(item for item in self._uploads if not item[0].startswith(prefix))

    def empty(self, client: Client) -> int:
        """Delete what is in; return how many objects went.

        Raises:
            S3Error: What could not be deleted is in again.
        """
        count = self._abort_uploads(client)
        while names := self._take():
            try:
                failed = client.delete(names)
            except S3Error:
                self._put_back(names)
                raise
            count += len(names) - len(failed)
            if failed:
                self._put_back(list(failed))
                name, reason = next(iter(failed.items()))
                raise S3Error(
                    "denied", f"{len(failed)} objects cannot be deleted: {name}: {reason}"
                )
        return count

    def _abort_uploads(self, client: Client) -> int:
        count = 0
        while True:
            with self._lock:
                if not self._uploads:
                    return count
                upload = self._uploads.popleft()
            try:
                client.abort_parts(*upload)
            except S3Error:
                with self._lock:
                    self._uploads.append(upload)
                raise
            count += 1

    def _take(self) -> list[str]:
        with self._lock:
            count = min(len(self._names), DELETED_AT_ONCE_MAX)
            return [self._names.popleft() for _ in range(count)]

    def _put_back(self, names: list[str]) -> None:
        with self._lock:
            self._names.extend(names)
