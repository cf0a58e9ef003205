"""The requests that a store sends to S3: the only module that knows boto3.

A request is repeated by botocore, with exponential back-off and jitter, when S3 does not answer,
answers with a server's error, or asks to come again (SlowDown). A body that breaks off after its
first bytes botocore leaves to its caller, so that is repeated here. All other failures come out at
once, as one `S3Error`. Credentials are boto3's business, which renews them while they are used.

Nothing is checked here but sizes: what bytes are right, the checksums say, and only those who
call know them. On the way to S3 a value is protected by the signature of its request.
"""

from __future__ import annotations

import base64
import email.utils
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

import boto3
from botocore import exceptions as failures
from botocore.config import Config

from pocketkv.tiers.s3.breaker import Breaker
from pocketkv.tiers.s3.counters import Counters
from pocketkv.tiers.s3.errors import Kind, S3Error
from pocketkv.tiers.s3.options import S3Options

if TYPE_CHECKING:
    from types_boto3_s3.client import S3Client
    from types_boto3_s3.type_defs import CompletedPartTypeDef, ObjectIdentifierTypeDef

T = TypeVar("T")

DELETED_AT_ONCE_MAX: Final = 1000
"""S3 deletes no more objects with one request."""

_TEXT_CHARACTERS_MAX: Final = 300
# Of whoever asks whether S3 is there at all.
_REACH_TIMEOUT_S: Final = 4.0
_REACH_ATTEMPTS: Final = 2
_BODY_WAIT_S: Final = 0.1
# A worker thread of the server and each of our own may need a connection at the same time.
_CONNECTIONS_BESIDE_TRANSFERS: Final = 32

_MISSING_CODES: Final = frozenset({"404", "NoSuchBucket", "NoSuchKey", "NoSuchUpload", "NotFound"})
_CORRUPT_CODES: Final = frozenset({"416", "InvalidRange"})
_UNAVAILABLE_CODES: Final = frozenset(
    "429 BandwidthLimitExceeded InternalError LimitExceededException PriorRequestNotComplete"
    " RequestLimitExceeded RequestThrottled RequestThrottledException RequestTimeout"
    " RequestTimeoutException ServiceUnavailable SlowDown Throttling ThrottlingException"
    " TooManyRequestsException".split()
)
# No answer came, or only a part of one.
_NO_ANSWER: Final = (
    failures.ConnectionError,
    failures.HTTPClientError,
    failures.IncompleteReadError,
    failures.ResponseStreamingError,
)


@dataclass(frozen=True, slots=True)
class Found:
    """An object in a listing.

    Attributes:
        age_s: Since it was written, by the clock of S3.
    """

    name: str
    size: int
    age_s: float


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A value that is being sent in parts, or that somebody has stopped sending."""

    name: str
    upload_id: str
    age_s: float


class Client:
    """A bucket. All calls block, and may come from any thread.

    Raises:
        S3Error: denied: the settings are wrong.
    """

    def __init__(self, bucket: str, options: S3Options, counters: Counters) -> None:
        self.bucket = bucket
        self._options = options
        self._attempts_max = options.attempts_max
        self._counters = counters
        self._closing = threading.Event()
        self._s3 = _connect(options, options.attempts_max)
        # Another one, since a probe is neither repeated nor to use up what repetitions are left.
        self._prober = _connect(options, 1)
        self.breaker = Breaker(
            self._probe,
            failures_max=options.failures_max,
            wait_s=options.probe_wait_s,
            wait_max_s=options.probe_wait_max_s,
        )

    @property
    def endpoint(self) -> str:
        """Where requests go."""
        return str(self._s3.meta.endpoint_url)

    def reach(self) -> None:
        """See whether S3 answers, and knows us and the bucket, sooner than other calls tell.

        Whoever starts a server waits for that; so an outage is told after some ten seconds.

        Raises:
            S3Error: It does not.
        """
        options = replace(
            self._options,
            read_timeout_s=min(self._options.read_timeout_s, _REACH_TIMEOUT_S),
            attempts_max=min(self._options.attempts_max, _REACH_ATTEMPTS),
        )
        client = _connect(options, options.attempts_max)
        try:
            client.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
        except (failures.BotoCoreError, failures.ClientError, OSError) as error:
            raise self._failure("ListObjectsV2", error) from error
        finally:
            client.close()

    def close(self) -> None:
        """End the waits and close the connections. Nobody may call any more."""
        self._closing.set()
        self.breaker.close()
        self._s3.close()
        self._prober.close()

    # --- whole objects and parts of them -------------------------------------------------------

    def put(self, name: str, data: bytes) -> None:
        """Write an object."""
        self._call("PutObject", self._s3.put_object, Key=name, Body=data)
        self._counters.moved(sent=len(data))

    def get_range(self, name: str, offset: int, size: int) -> bytes:
        """Read just so many bytes of an object, at least one.

        Raises:
            S3Error: corrupt: the object has not so many.
        """
        data = self._timed("GetObject", lambda: self._get_range(name, offset, size))
        self._counters.moved(received=size)
        return data

    def size(self, name: str) -> int:
        """How many bytes an object has."""
        return int(self._call("HeadObject", self._s3.head_object, Key=name)["ContentLength"])

    def delete(self, names: Sequence[str]) -> dict[str, str]:
        """Delete objects, at most `DELETED_AT_ONCE_MAX`; one that does not exist is no error.

        Returns:
            Those that are still there, and why.
        """
        objects: list[ObjectIdentifierTypeDef] = [{"Key": name} for name in names]
        answer = self._call(
            "DeleteObjects", self._s3.delete_objects, Delete={"Objects": objects, "Quiet": True}
        )
        return {
            error.get("Key", ""): error.get("Code", "") + ": " + error.get("Message", "")
            for error in answer.get("Errors", ())
            if error.get("Code") not in _MISSING_CODES
        }

    # --- objects in parts ----------------------------------------------------------------------

    def begin_parts(self, name: str) -> str:
        """Begin an object that is sent in parts; return the id of that."""
        answer = self._call("CreateMultipartUpload", self._s3.create_multipart_upload, Key=name)
        return str(answer["UploadId"])

    def put_part(self, name: str, upload_id: str, number: int, data: bytes) -> str:
        """Send a part, the first being number 1; return its tag."""
        answer = self._call(
            "UploadPart",
            self._s3.upload_part,
            Key=name,
            UploadId=upload_id,
            PartNumber=number,
            Body=data,
        )
        self._counters.moved(sent=len(data))
        return str(answer["ETag"])

    def end_parts(self, name: str, upload_id: str, tags: Sequence[str]) -> None:
        """Make an object of the parts whose tags these are, in order."""
        parts: list[CompletedPartTypeDef] = [
            {"ETag": tag, "PartNumber": number} for number, tag in enumerate(tags, 1)
        ]
        self._call(
            "CompleteMultipartUpload",
            self._s3.complete_multipart_upload,
            Key=name,
            UploadId=upload_id,
            MultipartUpload={"Parts": parts},
        )

    def abort_parts(self, name: str, upload_id: str) -> None:
        """Give up an object in parts, and delete them; that there is none is no error."""
        try:
            self._call(
                "AbortMultipartUpload",
                self._s3.abort_multipart_upload,
                Key=name,
                UploadId=upload_id,
            )
        except S3Error as error:
            if error.kind != "missing":
                raise

    # --- listings ------------------------------------------------------------------------------

    def list_objects(self, prefix: str) -> Iterator[list[Found]]:
        """List the objects whose names begin with a prefix, in order, a page at a time."""
        for page in self._pages(prefix, ""):
            now = _date_of(page)
            yield [
                Found(item["Key"], item["Size"], (now - item["LastModified"]).total_seconds())
                for item in page.get("Contents", ())
            ]

    def has_objects(self, prefix: str) -> bool:
        """Whether the name of any object begins with a prefix."""
        page = self._call("ListObjectsV2", self._s3.list_objects_v2, Prefix=prefix, MaxKeys=1)
        return bool(page.get("Contents"))

    def list_folders(self, prefix: str) -> list[str]:
        """List what stands between a prefix and the next "/" in the names of objects.

        A store that keeps objects in real folders may also tell of one that is empty by now.
        """
        return [
            folder["Prefix"][len(prefix) : -1]
            for page in self._pages(prefix, "/")
            for folder in page.get("CommonPrefixes", ())
        ]

    def list_unfinished(self, prefix: str) -> list[Unfinished]:
        """List the objects in parts that nobody has ended yet."""
        found: list[Unfinished] = []
        markers: dict[str, str] = {}
        while True:
            page: Any = self._call(
                "ListMultipartUploads", self._s3.list_multipart_uploads, Prefix=prefix, **markers
            )
            now = _date_of(page)
            found.extend(
                Unfinished(item["Key"], item["UploadId"], (now - item["Initiated"]).total_seconds())
                for item in page.get("Uploads", ())
                # Some stores take the prefix for a hint.
                if item["Key"].startswith(prefix)
            )
            if not page.get("IsTruncated") or not page.get("NextKeyMarker"):
                return found
            markers = {"KeyMarker": page["NextKeyMarker"]}
            if page.get("NextUploadIdMarker"):
                markers["UploadIdMarker"] = page["NextUploadIdMarker"]

    # --- calls ---------------------------------------------------------------------------------

    def _pages(self, prefix: str, delimiter: str) -> Iterator[Any]:
        more: dict[str, str] = {"Delimiter": delimiter} if delimiter else {}
        while True:
            page: Any = self._call("ListObjectsV2", self._s3.list_objects_v2, Prefix=prefix, **more)
            yield page
            if not page.get("IsTruncated"):
                return
            more["ContinuationToken"] = page["NextContinuationToken"]

    def _call(self, operation: str, method: Callable[..., Any], **arguments: Any) -> Any:
        return self._timed(operation, lambda: self._send(method, arguments))

    def _send(self, method: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        answer = method(Bucket=self.bucket, **arguments)
        self._counters.retried(answer["ResponseMetadata"].get("RetryAttempts", 0))
        return answer

    def _timed(self, operation: str, call: Callable[[], T]) -> T:
        """Do what sends requests, unless there is an outage, and see what comes of it.

        Raises:
            S3Error: It failed.
        """
        self.breaker.check()
        began_s = time.perf_counter()
        kind: Kind | None = None
        try:
            result = call()
        except (failures.BotoCoreError, failures.ClientError, S3Error, OSError) as error:
            failure = self._failure(operation, error)
            kind = failure.kind
            if kind == "unavailable":
                self.breaker.failed(failure.text)
            elif isinstance(error, failures.ClientError | S3Error):
                self.breaker.succeeded()
            raise failure from error
        finally:
            self._counters.called(operation, time.perf_counter() - began_s, kind)
        self.breaker.succeeded()
        return result

    def _failure(self, operation: str, error: Exception) -> S3Error:
        """What is to be said of an error."""
        if isinstance(error, S3Error):
            return error
        if isinstance(error, failures.ClientError):
            metadata: Any = error.response.get("ResponseMetadata", {})
            self._counters.retried(metadata.get("RetryAttempts", 0))
        return S3Error(*_explain(f"{operation} in bucket {self.bucket}", error))

    def _get_range(self, name: str, offset: int, size: int) -> bytes:
        attempt = 0
        while True:
            answer = self._send(
                self._s3.get_object, {"Key": name, "Range": f"bytes={offset}-{offset + size - 1}"}
            )
            body = answer["Body"]
            try:
                if answer["ContentLength"] != size:
                    raise S3Error(
                        "corrupt",
                        f"object {name} has {answer['ContentLength']} bytes where {size} were"
                        f" written at {offset}",
                    )
                data = bytes(body.read())
                if len(data) == size:
                    return data
                raise failures.IncompleteReadError(actual_bytes=len(data), expected_bytes=size)
            except _NO_ANSWER:
                attempt += 1
                if attempt == self._attempts_max:
                    raise
                self._counters.retried(1)
                if self._closing.wait(_BODY_WAIT_S * 2**attempt * random.random()):
                    raise
            finally:
                body.close()

    def _probe(self) -> None:
        try:
            self._prober.list_objects_v2(Bucket=self.bucket, MaxKeys=1)
        except (failures.BotoCoreError, failures.ClientError, OSError) as error:
            raise S3Error(*_explain("ListObjectsV2", error)) from error


def _connect(options: S3Options, attempts_max: int) -> S3Client:
    """Make a client of boto3.

    Raises:
        S3Error: denied: the settings are wrong.
    """
    retry_mode: Literal["standard"] = "standard"
    config = Config(
        connect_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
        max_pool_connections=options.transfers_max + _CONNECTIONS_BESIDE_TRANSFERS,
        retries={"mode": retry_mode, "total_max_attempts": attempts_max},
        tcp_keepalive=True,
        # Ours are in the places of values. Those of newer clients confuse older stores.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    try:
        session = boto3.session.Session(
            profile_name=options.profile, region_name=options.region or None
        )
        client: S3Client = session.client(
            "s3", endpoint_url=options.endpoint_url or None, config=config
        )
    except (failures.BotoCoreError, ValueError) as error:
        raise S3Error("denied", f"S3 cannot be used: {_one_line(error)}") from error
    client.meta.events.register("before-sign.s3.DeleteObjects", _add_md5)
    return client


def _add_md5(request: Any, **_: Any) -> None:
    """Say the MD5 of what is to be deleted: stores that know no newer checksum demand it."""
    digest = hashlib.md5(request.data, usedforsecurity=False).digest()
    # These headers are those of an e-mail: to set one a second time adds it.
    del request.headers["Content-MD5"]
    request.headers["Content-MD5"] = base64.b64encode(digest).decode()


def _date_of(answer: Any) -> datetime:
    """When S3 has answered, by its own clock: ages must not depend on ours."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    if date is None:
        return datetime.now(UTC)
    return email.utils.parsedate_to_datetime(date).astimezone(UTC)


def _explain(what: str, error: Exception) -> tuple[Kind, str]:
    """Kind and text of an error of botocore."""
    if isinstance(error, failures.ClientError):
        response: Any = error.response
        code = str(response.get("Error", {}).get("Code", ""))
        status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        message = response.get("Error", {}).get("Message") or "no reason given"
        return _kind_of(code, status), f"{what}: {_one_line(f'{code or status}: {message}')}"
    kind: Kind = "unavailable" if isinstance(error, (OSError, *_NO_ANSWER)) else "denied"
    return kind, f"{what}: {_one_line(error)}"


def _kind_of(code: str, status: int) -> Kind:
    if code in _MISSING_CODES or status == 404:
        return "missing"
    if code in _CORRUPT_CODES or status == 416:
        return "corrupt"
    if code in _UNAVAILABLE_CODES or status == 429 or status >= 500:
        return "unavailable"
    return "denied"


def _one_line(error: object) -> str:
    text = " ".join(str(error).split())
    if len(text) > _TEXT_CHARACTERS_MAX:
        return text[:_TEXT_CHARACTERS_MAX] + "..."
    return text or type(error).__name__
