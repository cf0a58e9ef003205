"""Jobs of the users' client: register, renew, look at, connect to, end."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Self

from pocketkv.amounts import parse_bytes, parse_rate
from pocketkv.client.connection import (
    ADMIN_USER,
    DEFAULT_URL,
    RETRIES,
    TIMEOUT_S,
    checked_url,
    control,
    text_map,
    user_of,
    with_user,
)
from pocketkv.client.errors import (
    AccessDeniedError,
    CommandRefusedError,
    InvalidArgumentError,
    JobNotFoundError,
    PocketError,
    ServerUnavailableError,
)
from pocketkv.client.files import PocketClient
from pocketkv.jobs import DEFAULT_JOB_ID, check_job_name, parse_hints

# Renewing three times within a lease survives two failures in a row.
_RENEWALS_PER_LEASE: Final = 3

_log = logging.getLogger(__name__)


def register_job(
    name: str,
    *,
    url: str = DEFAULT_URL,
    lambdas: int | None = None,
    capacity: int | str | None = None,
    throughput: int | str | None = None,
    latency: str | None = None,
    tiers: Iterable[str] | None = None,
    lease: int | None = None,
    keep_lease: bool = False,
    admin_password: str | None = None,
) -> Job:
    """Register a job; as a context manager, the result deregisters it at the end.

    Args:
        name: 1 to 64 letters, digits and ``. _ -``; it need not be unique.
        url: A router, ``redis://host:port`` or ``host:port``.
        lambdas: How many functions the job runs at once.
        capacity: Bytes that it holds at its peak, or a text such as ``"10gb"``.
        throughput: Bytes per second that it moves, or a text such as ``"8gbps"``.
        latency: ``"sensitive"`` or ``"tolerant"``.
        tiers: Tiers that it may use, of ``dram nvme ssd hdd``; all if not given.
        lease: Seconds after which the job ends unless it is renewed; forever if not given.
        keep_lease: Whether a thread of this process renews the lease until `Job.deregister`.
        admin_password: The administrator's, where the cluster demands one.

    Raises:
        InvalidArgumentError: A hint is wrong.
        AccessDeniedError: The cluster's administration is closed to us.
        ServerUnavailableError: Neither router nor controller can be reached.
    """
    hints = _hint_arguments(lambdas, capacity, throughput, latency, tiers, lease)
    try:
        check_job_name(name)
    except ValueError as error:
        raise InvalidArgumentError(str(error)) from error
    if keep_lease and not lease:
        raise InvalidArgumentError("keep_lease needs a lease")
    address = checked_url(url)
    # Not repeated: a registration whose answer was lost would leave a second job behind.
    reply = text_map(
        control(_admin_url(address, admin_password), "JOB.REGISTER", name, *hints, retries=0)
    )
    if "url" not in reply:
        raise CommandRefusedError("the server's answer to JOB.REGISTER has no url")
    return Job(str(reply["url"]), lease_s=lease if keep_lease and lease else None)


def deregister_job(
    job: Job | str, *, url: str | None = None, admin_password: str | None = None
) -> None:
    """End a job and free every byte of it that it does not retain.

    Args:
        job: A `Job`, a job's URL, or, with the administrator's `url`, only its id.
        url: A router; needed with an id alone.
        admin_password: The administrator's, where the cluster demands one.

    Raises:
        JobNotFoundError: It has ended already.
    """
    if isinstance(job, str) and "://" not in job:
        if url is None:
            raise InvalidArgumentError("a job's id alone needs the url of a router")
        control(_admin_url(checked_url(url), admin_password), "JOB.DEREGISTER", job)
        return
    (job if isinstance(job, Job) else Job(job)).deregister()


def purge_job(job: Job | str, *, url: str | None = None, admin_password: str | None = None) -> None:
    """Delete what a job that has ended retained (see `PocketClient.put`).

    Args:
        job: A `Job`, a job's URL, or, with the administrator's `url`, only its id.
        url: A router; needed with an id alone.
        admin_password: The administrator's, where the cluster demands one.

    Raises:
        JobNotFoundError: It retained nothing, or was purged already.
        CommandRefusedError: It has not ended.
    """
    if isinstance(job, str) and "://" not in job:
        if url is None:
            raise InvalidArgumentError("a job's id alone needs the url of a router")
        control(_admin_url(checked_url(url), admin_password), "JOB.PURGE", job)
        return
    (job if isinstance(job, Job) else Job(job)).purge()


class Job:
    """A registered job. It pickles to its URL; a copy does not keep the lease.

    Attributes:
        url: ``redis://<id>:<token>@host:port``: all that any Redis client needs. Keep it secret.
        id: The job's id.
        lease_error: Why the thread that kept the lease gave up; None while it has not.
    """

    def __init__(self, url: str, *, lease_s: float | None = None) -> None:
        """Take a job's URL; with `lease_s`, a thread keeps its lease until `deregister`.

        Raises:
            InvalidArgumentError: It is not the URL of a job.
        """
        self.url = checked_url(url)
        user = user_of(self.url)
        if not user or user == DEFAULT_JOB_ID:
            raise InvalidArgumentError("not the URL of a registered job: it has no job id in it")
        self.id = user
        self.lease_error: PocketError | None = None
        self._done = threading.Event()
        if lease_s:
            threading.Thread(
                target=self._keep_lease, args=(lease_s,), name="pocketkv-lease", daemon=True
            ).start()

    def connect(self, *, cluster: bool = False, **options: Any) -> PocketClient:
        """Return a new connection into this job; see `connect`."""
        return PocketClient(self.url, cluster=cluster, **options)

    def info(self) -> dict[str, Any]:
        """Return what the controller knows of the job, names as in ``JOB.INFO``.

        Raises:
            JobNotFoundError: It has ended.
        """
        return text_map(control(self.url, "JOB.INFO", self.id))

    def renew(self) -> None:
        """Begin the lease anew.

        Raises:
            JobNotFoundError: It has run out before.
        """
        control(self.url, "JOB.RENEW", self.id)

    def update(
        self,
        *,
        lambdas: int | None = None,
        capacity: int | str | None = None,
        throughput: int | str | None = None,
        latency: str | None = None,
        tiers: Iterable[str] | None = None,
        lease: int | None = None,
    ) -> None:
        """Change the hints that are given, as in `register_job`; a 0 takes a hint back."""
        hints = _hint_arguments(lambdas, capacity, throughput, latency, tiers, lease)
        if not hints:
            raise InvalidArgumentError("there is no hint to change")
        control(self.url, "JOB.UPDATE", self.id, *hints)

    def deregister(self) -> None:
        """End the job and free every byte of it that it does not retain.

        Raises:
            JobNotFoundError: It has ended already.
        """
        self._done.set()
        try:
            control(self.url, "JOB.DEREGISTER", self.id, retries=0)
        except ServerUnavailableError:
            # Only the answer may have been lost, and then there is no such job when asked again.
            try:
                control(self.url, "JOB.DEREGISTER", self.id)
            except (JobNotFoundError, AccessDeniedError):
                pass
        except AccessDeniedError as error:
            # A job that has ended has no valid token any more.
            raise JobNotFoundError(f"job {self.id} has ended, or its token is wrong") from error

    def purge(self) -> None:
        """Delete what the job, which has ended, retained.

        Raises:
            JobNotFoundError: It retained nothing, or was purged already.
            CommandRefusedError: It has not ended.
        """
        try:
            control(self.url, "JOB.PURGE", self.id)
        except AccessDeniedError as error:
            # A job that is no more has no valid token any more.
            raise JobNotFoundError(f"job {self.id} is gone, or its token is wrong") from error

    def _keep_lease(self, lease_s: float) -> None:
        while not self._done.wait(lease_s / _RENEWALS_PER_LEASE):
            try:
                self.renew()
            except ServerUnavailableError as error:
                _log.warning("cannot renew the lease of job %s now: %s", self.id, error)
            except PocketError as error:
                if not self._done.is_set():
                    self.lease_error = error
                    _log.error("lost the lease of job %s: %s", self.id, error)
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.deregister()
        except JobNotFoundError:
            pass
        except PocketError as failure:
            # What went wrong in the block matters more than that the job could not be ended.
            if error is None:
                raise
            _log.warning("job %s is not deregistered: %s", self.id, failure)

    def __reduce__(self) -> tuple[type[Job], tuple[str]]:
        return Job, (self.url,)

    def __repr__(self) -> str:
        return f"Job({self.id!r})"


def connect(
    job: Job | str = DEFAULT_URL,
    *,
    cluster: bool = False,
    timeout_s: float = TIMEOUT_S,
    retries: int = RETRIES,
) -> PocketClient:
    """Return a client of a job's files.

    Args:
        job: The job or its URL; a URL without a job's id means the job `default`.
        cluster: Whether to learn the job's map and talk straight to its storage servers,
            instead of through the router.
        timeout_s: How long a server may take for the next bytes of an answer.
        retries: How often a request that may be repeated is repeated when no answer came.

    Raises:
        InvalidArgumentError: It is not a URL.
        ServerUnavailableError: With `cluster`, no map could be had.
        AccessDeniedError: With `cluster`, the token is wrong.
    """
    url = job.url if isinstance(job, Job) else job
    return PocketClient(url, cluster=cluster, timeout_s=timeout_s, retries=retries)


def _admin_url(url: str, admin_password: str | None) -> str:
    return url if admin_password is None else with_user(url, ADMIN_USER, admin_password)


def _hint_arguments(
    lambdas: int | None,
    capacity: int | str | None,
    throughput: int | str | None,
    latency: str | None,
    tiers: Iterable[str] | None,
    lease: int | None,
) -> list[str]:
    """The hints that are given, as arguments of ``JOB.REGISTER``."""
    arguments = []
    try:
        if lambdas is not None:
            arguments += ["LAMBDAS", str(int(lambdas))]
        if capacity is not None:
            arguments += ["CAPACITY", str(parse_bytes(str(capacity)))]
        if throughput is not None:
            arguments += ["THROUGHPUT", str(parse_rate(str(throughput)))]
        if latency is not None:
            arguments += ["LATENCY", str(latency)]
        if lease is not None:
            arguments += ["LEASE", str(int(lease))]
        if tiers is not None:
            arguments += ["TIERS", *map(str, tiers)]
        parse_hints([argument.encode() for argument in arguments])
    except (TypeError, ValueError) as error:
        raise InvalidArgumentError(str(error)) from error
    return arguments
