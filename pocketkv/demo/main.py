"""The demo from start to end: cluster, job, stages, tables, and that nothing is left behind."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import redis

from pocketkv import client
from pocketkv.catalog import load_catalog
from pocketkv.demo import report, servers
from pocketkv.demo.files import Input, InputError, find_files
from pocketkv.demo.local import ClusterError, local_cluster
from pocketkv.demo.screen import Screen, amount
from pocketkv.demo.stages import Driver, StageError

FAILED: Final = 1
CANNOT_BEGIN: Final = 2
INTERRUPTED: Final = 130

PASSWORD_VARIABLE: Final = "POCKETKV_ADMIN_PASSWORD"
# If this process is killed, its job ends so much later.
LEASE_S: Final = 60
# An index has about a byte for each byte of text; keys have some bytes of their own, and what
# the servers hold is only about in proportion to their shares.
CAPACITY_PER_BYTE: Final = 2
CAPACITY_MIN_BYTES: Final = 64 * 1024**2
# So many lambdas send more than one dram server of the catalog can, so that the job is spread over
# two: with fewer, there would be less to see.
LAMBDAS_MIN: Final = 8
DIFFERENCES_SHOWN: Final = 5


class CheckError(Exception):
    """The result is wrong; one line. The exit status is 1."""


class CannotBeginError(Exception):
    """There is no cluster, or it takes no job; one line. The exit status is 2."""


def main(arguments: argparse.Namespace) -> int:
    """Run the demo; the exit status."""
    screen = Screen()
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        work = find_files(arguments.input, arguments.limit)
        with _cluster(arguments, screen) as url:
            _run(arguments, work, url, screen)
            return 0
    except KeyboardInterrupt:
        _complain("interrupted; the job is deregistered, and what was started is stopped")
        return INTERRUPTED
    except (InputError, ClusterError, CannotBeginError) as error:
        _complain(str(error))
        return CANNOT_BEGIN
    except (
        CheckError,
        StageError,
        servers.LeftBehindError,
        client.PocketError,
        redis.RedisError,
    ) as error:
        _complain(f"FAILED: {error}")
        return FAILED
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _complain(text: str) -> None:
    print(f"pocketkv demo: {' '.join(text.split())}", file=sys.stderr)


@contextmanager
def _cluster(arguments: argparse.Namespace, screen: Screen) -> Iterator[str]:
    """Give the URL of a router: that of the cluster named on the command line, or of a new one."""
    if arguments.url is not None:
        yield arguments.url
    elif arguments.port is not None:
        yield f"redis://127.0.0.1:{arguments.port}"
    else:
        started_s = time.monotonic()
        with local_cluster() as url:
            screen.say(f"cluster: {url}, started in {time.monotonic() - started_s:.1f} s")
            yield url


def _run(arguments: argparse.Namespace, work: Input, url: str, screen: Screen) -> None:
    password = os.environ.get(PASSWORD_VARIABLE) or None
    is_own = arguments.url is None and arguments.port is None
    with _registered(arguments, work, url, password) as job:
        info = job.info()
        cut = ", as much as --limit allows" if work.is_cut else ""
        screen.say(f"input:   {work.description}, {amount(work.size_bytes)}{cut}")
        held = servers.holdings(info)
        spread = ", ".join(f"{h.tier} {h.server} {100 * h.share:.0f} %" for h in held)
        screen.say(f"job:     {job.id} on {spread}")
        for shortage in info["short"]:
            screen.say(f"         it gets too little {shortage}")
        screen.say()
        try:
            _stages(arguments, work, job, screen)
        except StageError as error:
            lost = servers.lost_keys(job)
            reason = f"{error} (a server died, and {lost} keys with it)" if lost else str(error)
            raise StageError(reason) from error
        if arguments.keep:
            _keep(job, screen)
        addresses = servers.addresses(job.info())
    servers.check_refused(job, addresses)
    if is_own:
        count = servers.check_empty(url, password)
        screen.say(f"The job is deregistered, and all {count} servers hold 0 bytes.")
    else:
        screen.say("The job is deregistered, and no server knows it any more.")


def _registered(
    arguments: argparse.Namespace, work: Input, url: str, password: str | None
) -> client.Job:
    try:
        return client.register_job(
            "demo",
            url=url,
            lambdas=max(LAMBDAS_MIN, arguments.mappers, arguments.reducers),
            capacity=max(CAPACITY_MIN_BYTES, CAPACITY_PER_BYTE * work.size_bytes),
            latency="sensitive",
            lease=LEASE_S,
            keep_lease=True,
            admin_password=password,
        )
    except client.PocketError as error:
        raise CannotBeginError(f"cannot register a job: {error}") from error


def _stages(arguments: argparse.Namespace, work: Input, job: client.Job, screen: Screen) -> None:
    started_s = time.monotonic()
    driver = Driver(job, work, arguments.mappers, arguments.reducers, screen)
    mapped = driver.map()
    with job.connect() as storage:
        held = servers.counted_holdings(job, storage.count_files())
    reduced = driver.reduce()
    checked, differences = driver.check()
    duration_s = time.monotonic() - started_s
    report.show_stages(screen, [mapped, reduced, checked])
    report.show_servers(screen, held)
    report.show_cost(screen, load_catalog(), job.info(), duration_s)
    screen.say()
    if differences:
        for difference in differences[:DIFFERENCES_SHOWN]:
            screen.say(f"WRONG: {difference}")
        raise CheckError(
            f"the result is not what one process computes ({len(differences)} differences)"
        )
    screen.say("Right: the index is, word for word, what one process computes by itself.")


def _keep(job: client.Job, screen: Screen) -> None:
    """Wait for Ctrl-C."""
    screen.say()
    screen.say(f"The job is kept until Ctrl-C. Look at it: redis-cli -u {job.url}")
    try:
        while True:
            signal.pause()
    except KeyboardInterrupt:
        screen.say()
