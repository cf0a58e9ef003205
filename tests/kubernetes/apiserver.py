"""A Kubernetes API server for tests, over HTTP on the loopback, with faults to be had.

`kmock` has neither PUT, selectors, conflicts nor versions, which are just what the backend relies
on. A real cluster is tested by `test_real_cluster`.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.kubernetes.objects import Document, Objects, RefusalError

_PATH = re.compile(
    r"/(?:api/v1|apis/[^/]+/[^/]+)/namespaces/(?P<namespace>[^/]+)/(?P<kind>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<part>status|scale))?"
)
BOOKMARK_INTERVAL_S = 0.5


@dataclass
class Fault:
    """What is wrong with some requests.

    Attributes:
        matches: Of ``METHOD path?query``.
        status: Of the answer; 0: the connection is cut without one.
        headers: Of the answer.
        times: How many requests meet it.
        after: The request is carried out, and its answer is lost.
        stall: There is no answer, and no end, for as long as this lasts.
        delay_s: The request is carried out, and its answer comes so much later.
        met: How many did.
    """

    matches: str
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1_000_000
    after: bool = False
    stall: bool = False
    delay_s: float = 0.0
    met: int = 0


class ApiServer:
    """A running server."""

    def __init__(self) -> None:
        self.objects = Objects()
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.stopping = threading.Event()
        # A watch that has begun says nothing any more, and does not end.
        self.stalled_watches = threading.Event()
        server = self

        class Handler(_Handler):
            api = server

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(10)

    def kubeconfig(self, path: Path, namespace: str = "default") -> Path:
        """Write a file that leads here."""
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url}}],
            "users": [{"name": "test", "user": {"token": "of-a-test"}}],
            "contexts": [
                {
                    "name": "test",
                    "context": {"cluster": "test", "user": "test", "namespace": namespace},
                }
            ],
        }
        path.write_text(json.dumps(text), encoding="utf-8")
        return path

    @contextmanager
    def fault(self, matches: str, **options: Any) -> Iterator[Fault]:
        """Have something wrong for a while."""
        fault = Fault(matches, **options)
        self.faults.append(fault)
        try:
            yield fault
        finally:
            self.faults.remove(fault)

    @contextmanager
    def outage(self) -> Iterator[Fault]:
        """Have the API away: every request is cut off, and watches are."""
        with self.fault(".*") as fault:
            self.objects.compact()
            yield fault

    def fault_of(self, request: str) -> Fault | None:
        for fault in list(self.faults):
            if fault.met < fault.times and re.search(fault.matches, request):
                fault.met += 1
                return fault
        return None

    def count(self, matches: str) -> int:
        """How many requests there were that match."""
        return sum(re.search(matches, request) is not None for request in list(self.requests))


class _Handler(BaseHTTPRequestHandler):
    api: ApiServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: tests look at `ApiServer.requests`."""

    def _serve(self) -> None:
        request = f"{self.command} {self.path}"
        size = int(self.headers.get("Content-Length") or 0)
        body = json.loads(self.rfile.read(size)) if size else {}
        self.api.requests.append(request)
        fault = self.api.fault_of(request)
        if fault is not None and not fault.after and not fault.delay_s:
            self._fail(fault)
            return
        try:
            status, answer = self._answer(body)
        except RefusalError as refusal:
            status, answer = refusal.status, refusal.body
        if fault is not None and fault.delay_s:
            time.sleep(fault.delay_s)
        if fault is not None and not fault.delay_s:
            self._fail(fault)
        elif answer is not None:
            self._send(status, answer, {})

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815 - its base's names

    def _fail(self, fault: Fault) -> None:
        if fault.stall:
            while fault in self.api.faults and not self.api.stopping.is_set():
                time.sleep(0.02)
            self.close_connection = True
        elif fault.status:
            body = {"kind": "Status", "message": "a fault of the test", "code": fault.status}
            self._send(fault.status, body, fault.headers)
        else:
            self.close_connection = True

    def _send(self, status: int, document: Document, headers: dict[str, str]) -> None:
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text)

    def _answer(self, body: Document) -> tuple[int, Document | None]:
        split = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(split.query).items()}
        matched = _PATH.fullmatch(split.path)
        if matched is None:
            raise RefusalError(404, "NotFound", f"no such path: {split.path}")
        namespace, kind = matched["namespace"], matched["kind"]
        name, part = matched["name"], matched["part"] or ""
        objects = self.api.objects
        if part == "scale":
            return 200, self._scale(namespace, name, body)
        match self.command:
            case "GET" if name:
                return 200, objects.get(namespace, kind, name)
            case "GET" if query.get("watch") == "true":
                self._watch(namespace, kind, query)
                return 200, None
            case "GET":
                return 200, self._list(namespace, kind, query)
            case "POST":
                return 201, objects.create(namespace, kind, body)
            case "PUT":
                return 200, objects.replace(namespace, kind, name, body, part)
            case "PATCH":
                if self.headers["Content-Type"] != "application/merge-patch+json":
                    raise RefusalError(415, "UnsupportedMediaType", "only merge patches are here")
                return 200, objects.patch(namespace, kind, name, body, part)
            case _:
                return 200, objects.delete(namespace, kind, name, body)

    def _scale(self, namespace: str, name: str, body: Document) -> Document:
        objects = self.api.objects
        one = objects.get(namespace, "statefulsets", name)
        if self.command == "PUT":
            version = (body.get("metadata") or {}).get("resourceVersion")
            one["spec"]["replicas"] = int(body["spec"]["replicas"])
            one["metadata"]["resourceVersion"] = version or one["metadata"]["resourceVersion"]
            one = objects.replace(namespace, "statefulsets", name, one)
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "resourceVersion": one["metadata"]["resourceVersion"],
            },
            "spec": {"replicas": one["spec"].get("replicas", 1)},
        }

    def _list(self, namespace: str, kind: str, query: dict[str, str]) -> Document:
        found = self.api.objects.all(namespace, kind, selected(query))
        start, limit = int(query.get("continue") or 0), int(query.get("limit") or 0)
        metadata: Document = {"resourceVersion": str(self.api.objects.version)}
        if limit and start + limit < len(found):
            metadata["continue"] = str(start + limit)
        items = found[start : start + limit] if limit else found
        return {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}

    def _watch(self, namespace: str, kind: str, query: dict[str, str]) -> None:
        objects = self.api.objects
        after = int(query.get("resourceVersion") or objects.version)
        if after < objects.oldest:
            raise RefusalError(410, "Expired", f"too old resource version: {after}")
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            self._tell(namespace, kind, query, after)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.close_connection = True  # Who watched has gone, or is to believe that we have.

    def _tell(self, namespace: str, kind: str, query: dict[str, str], after: int) -> None:
        """Send what happens, until the watch is over."""
        objects = self.api.objects
        marked_s = time.monotonic()
        ends_s = marked_s + float(query.get("timeoutSeconds") or 60)
        try:
            for event in objects.watch(namespace, kind, after, selected(query)):
                if self.api.stopping.is_set() or time.monotonic() > ends_s:
                    return
                if self.api.fault_of(f"WATCHING {self.path}") is not None:
                    raise ConnectionAbortedError
                while self.api.stalled_watches.is_set() and not self.api.stopping.is_set():
                    time.sleep(0.02)
                if not isinstance(event, int):
                    self._chunk(event)
                elif time.monotonic() - marked_s > BOOKMARK_INTERVAL_S:
                    marked_s = time.monotonic()
                    metadata = {"resourceVersion": str(event)}
                    self._chunk({"type": "BOOKMARK", "object": {"metadata": metadata}})
        except RefusalError as refusal:
            self._chunk({"type": "ERROR", "object": refusal.body})

    def _chunk(self, event: Document) -> None:
        line = json.dumps(event).encode() + b"\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.flush()


def selected(query: dict[str, str]) -> Callable[[Document], bool]:
    """Return whether an object is meant by a query's selectors."""
    labels = [part.split("=") for part in query.get("labelSelector", "").split(",") if part]
    fields = [part.split("=") for part in query.get("fieldSelector", "").split(",") if part]

    def matches(one: Document) -> bool:
        held = one["metadata"].get("labels") or {}
        return all(held.get(name) == value for name, value in labels) and all(
            _at(one, path) == value for path, value in fields
        )

    return matches


def _at(one: Document, path: str) -> Any:
    found: Any = one
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found
