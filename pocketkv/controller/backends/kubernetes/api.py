"""The one door to the package `kubernetes`: requests to the API as JSON, and what can go wrong.

From the package come what finds the API (the pod's own account, or a kubeconfig), credentials that
are renewed, and TLS; requests are made on its pool. Its models are not used: they refuse what they
do not know, and objects of our own kind have none. Calls block: they are for a thread. Nothing is
tried again here, since only the caller knows what is still worth doing.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import quote, urlencode

from kubernetes.client import ApiClient, Configuration
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config
from urllib3 import Timeout
from urllib3.exceptions import HTTPError

Document: TypeAlias = dict[str, Any]

MERGE_PATCH: Final = "application/merge-patch+json"
_JSON: Final = "application/json"

# A request that takes longer is not worth waiting for: the lease would run out meanwhile.
CONNECT_TIMEOUT_S: Final = 3.0
REQUEST_TIMEOUT_S: Final = 5.0
# Lists are read in pieces of so many objects.
PAGE: Final = 500
# What an API says of an error is shown up to so many characters.
_MESSAGE_CHARACTERS_MAX: Final = 300
# A line of a watch is one object, and an object of etcd has at most 1.5 MiB.
_LINE_BYTES_MAX: Final = 4 * 1024**2
_CHUNK_BYTES: Final = 64 * 1024
_CONNECTIONS_MAX: Final = 16
_IN_CLUSTER: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class ApiError(Exception):
    """The API refused a request, or could not be asked; one line.

    Attributes:
        status: Of HTTP; 0 if there was no answer.
        retry_after_s: After how long the API wants to be asked again, if it says so.
    """

    def __init__(self, message: str, status: int = 0, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s

    @property
    def is_passing(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in {0, 408, 429} or self.status >= 500


class NotFoundError(ApiError):
    """There is no such object."""


class ConflictError(ApiError):
    """The object has changed since it was read, or there is one of this name already."""


class ExpiredError(ApiError):
    """What a watch asks for is too long ago: list again."""


class NoClusterError(Exception):
    """Nothing says where the API is; one line."""


class Api:
    """The API of a cluster, as seen from one namespace.

    Args:
        configuration: Where it is, and how to prove who we are.
        namespace: Where our objects are.
    """

    def __init__(self, configuration: Configuration, namespace: str) -> None:
        # False: no retries of its own, which would sleep for as long as an answer says.
        configuration.retries = False
        configuration.connection_pool_maxsize = _CONNECTIONS_MAX
        self.namespace = namespace
        self._client = ApiClient(configuration)
        self._host = str(configuration.host).rstrip("/")

    @classmethod
    def connected(cls, namespace: str) -> Api:
        """Return the API of the cluster that this process runs in, or that KUBECONFIG names.

        Raises:
            NoClusterError: There is neither.
        """
        configuration = Configuration()
        try:
            if _IN_CLUSTER.exists():
                load_incluster_config(client_configuration=configuration)
            else:
                load_kube_config(client_configuration=configuration)
        except (ConfigException, OSError, TypeError, ValueError) as error:
            raise NoClusterError(f"no Kubernetes API: {error}".splitlines()[0]) from error
        return cls(configuration, namespace)

    def request(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, str | int] | None = None,
        content_type: str = _JSON,
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> Document:
        """Make a request; `path` is below the host. Returns the object of the answer.

        Raises:
            ApiError: It was refused, or not answered.
        """
        response = self._send(method, path, body, query, content_type, timeout_s, stream=False)
        document = _document(response.data)
        if not 200 <= response.status < 300:
            raise _error(response.status, response.headers, document, f"{method} {path}")
        return document

    def list(self, path: str, selector: str = "") -> tuple[list[Document], str]:
        """Return all objects of a collection that have these labels, and their version.

        Raises:
            ApiError: They could not be listed.
        """
        found: list[Document] = []
        query: dict[str, str | int] = {"limit": PAGE}
        if selector:
            query["labelSelector"] = selector
        while True:
            page = self.request("GET", path, query=query)
            found += page.get("items") or []
            metadata = page.get("metadata") or {}
            following = metadata.get("continue")
            if not following:
                return found, str(metadata.get("resourceVersion", ""))
            query["continue"] = following

    def watch(
        self, path: str, version: str, *, selector: str = "", lasts_s: int, silence_s: float
    ) -> Watch:
        """Begin to watch a collection from a version on.

        Args:
            path: Of the collection.
            version: That of a list, or of the last event.
            selector: Labels.
            lasts_s: For how long, after which the API ends the watch.
            silence_s: A watch of which nothing is heard for so long has failed.

        Raises:
            ExpiredError: The version is too old.
            ApiError: It could not be begun.
        """
        query: dict[str, str | int] = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": lasts_s,
        }
        if selector:
            query["labelSelector"] = selector
        response = self._send("GET", path, None, query, _JSON, silence_s, stream=True)
        if response.status != 200:
            document = _document(response.read())
            raise _error(response.status, response.headers, document, f"watch {path}")
        return Watch(response, path)

    def close(self) -> None:
        """Close the connections."""
        self._client.rest_client.pool_manager.clear()

    def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, str | int] | None,
        content_type: str,
        timeout_s: float,
        *,
        stream: bool,
    ) -> Any:
        headers = {"Accept": _JSON, "User-Agent": "pocketkv"}
        if body is not None:
            headers["Content-Type"] = content_type
        text = f"{self._host}{path}" + (f"?{urlencode(query)}" if query else "")
        pool = self._client.rest_client.pool_manager
        try:
            # Reads the credentials again when they are about to expire.
            self._client.update_params_for_auth(headers, [], ["BearerToken"])
            return pool.request(
                method,
                text,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=Timeout(connect=min(CONNECT_TIMEOUT_S, timeout_s), read=timeout_s),
                preload_content=not stream,
                retries=False,
                redirect=False,
            )
        except (HTTPError, OSError, ConfigException) as error:
            raise ApiError(f"{method} {path}: no answer: {error}".splitlines()[0]) from error


class Watch:
    """A watch that has begun: an iterator over its events, ``{"type": ..., "object": ...}``."""

    def __init__(self, response: Any, path: str) -> None:
        self._response = response
        self._path = path

    def __iter__(self) -> Iterator[Document]:
        """Yield events until the API ends the watch.

        Raises:
            ExpiredError: The version is too old by now.
            ApiError: It broke, or nothing was heard for too long.
        """
        pending = b""
        try:
            for chunk in self._response.read_chunked(amt=_CHUNK_BYTES):
                *lines, pending = (pending + chunk).split(b"\n")
                for line in lines:
                    if line.strip():
                        yield self._event(line)
                if len(pending) > _LINE_BYTES_MAX:
                    raise ApiError(f"watch {self._path}: an event that never ends")
        except (HTTPError, OSError, AttributeError, ValueError) as error:
            # The last two are what reading meets when `close` has come in between.
            raise ApiError(f"watch {self._path}: {error}".splitlines()[0]) from error
        finally:
            self.close()

    def _event(self, line: bytes) -> Document:
        event = _document(line)
        if event.get("type") == "ERROR":
            status = event.get("object") or {}
            raise _error(int(status.get("code") or 500), {}, status, f"watch {self._path}")
        if not isinstance(event.get("object"), dict):
            raise ApiError(f"watch {self._path}: not an event")
        return event

    def close(self) -> None:
        """End it: whoever waits for an event, in another thread, wakes up with an error."""
        connection = getattr(self._response, "connection", None)
        sock = getattr(connection, "sock", None)
        with suppress(OSError):
            if sock is not None:
                sock.shutdown(socket.SHUT_RDWR)
        self._response.close()


def path_of(api: str, namespace: str, kind: str, name: str = "", part: str = "") -> str:
    """Return the path of an object or a collection; `api` is such as ``apis/apps/v1``."""
    pieces = [api, "namespaces", quote(namespace, safe=""), kind]
    pieces += [quote(piece, safe="") for piece in (name, part) if piece]
    return "/" + "/".join(pieces)


def _document(text: bytes) -> Document:
    try:
        document = json.loads(text or b"{}")
    except (ValueError, RecursionError):
        # What stands between us and the API answers in other ways.
        document = {"message": text[:_MESSAGE_CHARACTERS_MAX].decode("utf-8", "replace")}
    return document if isinstance(document, dict) else {"message": "not an object"}


def _error(
    status: int, headers: Mapping[str, str], document: Mapping[str, Any], what: str
) -> ApiError:
    said = " ".join(str(document.get("message") or "").split())[:_MESSAGE_CHARACTERS_MAX]
    message = f"{what}: {status} {said}".strip()
    kinds = {404: NotFoundError, 409: ConflictError, 410: ExpiredError}
    return kinds.get(status, ApiError)(message, status, _retry_after_s(headers, document))


def _retry_after_s(headers: Mapping[str, str], document: Mapping[str, Any]) -> float | None:
    details = document.get("details")
    told = headers.get("Retry-After") or (
        details.get("retryAfterSeconds") if isinstance(details, dict) else None
    )
    try:
        return None if told is None else max(0.0, float(told))
    except (TypeError, ValueError):
        return None  # A date, which no API server sends.
