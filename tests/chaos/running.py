"""One run of chaos, from the start of a cluster to what is found when nothing is left of it."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import redis

from tests.chaos.clients import DirectClient, PlainClient
from tests.chaos.faults import Fault, Tormentor
from tests.chaos.judging import (
    Findings,
    judge_failures,
    judge_histories,
    judge_log,
    judge_losses,
)
from tests.chaos.load import KEYS, Failure, Job, Worker
from tests.chaos.schedule import Kind, Step, schedule
from tests.chaos.watching import Watch
from tests.e2e.local import Cluster, eventually, serving
from tests.histories.operations import Recorder

_WHOLE_TIMEOUT_S: Final = 30.0
_FREED_TIMEOUT_S: Final = 20.0
ERRORS_SHOWN_MAX: Final = 10
_VISIT_S: Final = 0.6
_TIMEOUT_S: Final = 20.0


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        seed: Decides all that is not up to the machine.
        seconds: How long things happen to the cluster.
        kinds: What may happen.
        clients: How many of each kind use each job.
        pause_s: How long a client rests after each command.
        answered_within_s: How long after a death clients may have errors.
        calm_s: How long clients go on after the last thing that happened.
        meanwhile: Called once, in the middle of the run; tests of the harness do harm there.
    """

    seed: int
    seconds: float
    kinds: frozenset[Kind] = frozenset(Kind)
    clients: int = 2
    pause_s: float = 0.02
    answered_within_s: float = 5.0
    calm_s: float = 6.0
    meanwhile: Callable[[Cluster, Sequence[Job]], None] | None = None


@dataclass
class Result:
    """What came of a run; without violations all is well."""

    findings: Findings
    faults: list[Fault]
    failures: list[Failure]
    zero_s: float
    counted_lost: dict[str, int] = field(default_factory=dict)

    def disturbed_s(self) -> dict[Kind, float]:
        """Return how long after each kind of death a command was still sent that failed."""
        longest: dict[Kind, float] = {}
        for failure in self.failures:
            before = [f for f in self.faults if f.kind.is_felt and f.begin_s <= failure.end_s]
            if before:
                last = max(before, key=lambda fault: fault.begin_s)
                after_s = max(0.0, failure.begin_s - last.begin_s)
                longest[last.kind] = max(longest.get(last.kind, 0.0), after_s)
        return longest

    def text(self) -> str:
        """Return it for people."""
        found = self.findings
        lines = [
            f"{found.operations} commands in {found.histories} histories",
            f"{len(self.failures)} errors",
        ]
        lines += [
            f"after {kind.name}, for {after_s:.1f} s at most"
            for kind, after_s in self.disturbed_s().items()
        ]
        lines += [
            f"{job_id}: {found.lost_keys[job_id]} keys seen to be lost, {counted} counted"
            for job_id, counted in self.counted_lost.items()
            if counted or found.lost_keys[job_id]
        ]
        errors = Counter(re.sub(r"[0-9a-f]{8,}|\d+", "#", one.error) for one in self.failures)
        lines += [f"{count:6} x {error}" for error, count in errors.most_common(ERRORS_SHOWN_MAX)]
        lines += [f"undecided: {text}" for text in found.undecided]
        lines += [f"VIOLATION: {text}" for text in found.violations]
        return "\n".join(lines)


class Run:
    """A run of a plan on a cluster that has just started."""

    def __init__(self, plan: Plan, cluster: Cluster, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.cluster = cluster
        self.zero_s = time.monotonic()
        self._url = f"redis://127.0.0.1:{cluster.port}"
        self._say = say
        self._recorder = Recorder()
        self._watch = Watch(self._url)
        self._findings = Findings()
        self._workers: list[Worker] = []
        self._jobs: list[Job] = []

    def run(self) -> Result:
        """Run it, and judge."""
        self._jobs = [
            Job("default", self._url, "d"),
            self._register("wide", "w", "LAMBDAS", 40, "CAPACITY", "16mb"),
            self._register("files", "f", "TIERS", "nvme", "CAPACITY", "16mb"),
        ]
        plan = self.plan
        job_ids = [job.id for job in self._jobs[1:]]
        tormentor = Tormentor(self.cluster, self._watch, job_ids, self._visit, self._tell)
        steps = schedule(plan.seed, plan.seconds, plan.kinds)
        self._use(lambda stop: self._torment(tormentor, steps, stop))
        self._read_all()
        counted_lost = {job.id: self._lost_keys(job) for job in self._jobs}
        self._look_into_jobs()
        self._end_jobs()
        return self._judge(tormentor.faults, counted_lost)

    # --- the load ------------------------------------------------------------------------------

    def _use(self, act: Callable[[threading.Event], None]) -> None:
        """Have clients use all jobs while `act` does what it does."""
        stop = threading.Event()
        workers = [
            self._worker(job, f"{kind}{number}-{job.token}", kind)
            for job in self._jobs
            for kind in ("plain", "direct")
            for number in range(self.plan.clients)
        ]
        with ThreadPoolExecutor(len(workers) + 1) as pool:
            tasks: list[Future[None]] = [pool.submit(self._watch.run, stop)]
            tasks += [pool.submit(worker.run, stop) for worker in workers]
            try:
                act(stop)
            finally:
                stop.set()
            for task in tasks:
                task.result()

    def _torment(self, tormentor: Tormentor, steps: Sequence[Step], stop: threading.Event) -> None:
        middle = len(steps) // 2
        tormentor.run(steps[:middle], stop)
        if self.plan.meanwhile is not None:
            self.plan.meanwhile(self.cluster, self._jobs)
        tormentor.run([_earlier(step, steps[middle].at_s - 0.5) for step in steps[middle:]], stop)
        stop.wait(self.plan.calm_s)

    def _worker(self, job: Job, name: str, kind: str) -> Worker:
        client = PlainClient(job.url) if kind == "plain" else DirectClient(job.url)
        dice = random.Random(f"{self.plan.seed} {name}")
        worker = Worker(name, job, client, self._recorder, dice, self.plan.pause_s)
        self._workers.append(worker)
        return worker

    def _register(self, name: str, token: str, *hints: object) -> Job:
        reply = self._command("JOB.REGISTER", name, *hints)
        self._watch.follow(reply["id"], reply["placement"])
        return Job(reply["id"], reply["url"], token)

    def _command(self, *request: object) -> Any:
        client = PlainClient(self._url, _TIMEOUT_S)
        try:
            return client.send(*request)
        finally:
            client.close()

    def _tell(self, fault: Fault) -> None:
        self._say(fault.line(self.zero_s))

    def _visit(self, step: Step) -> tuple[str, str]:
        """A job that comes, is used, and goes; returns what is to be noted, and what is wrong."""
        job = self._register("visit", f"v{len(self._workers)}", "LAMBDAS", step.amount)
        kind = "plain" if step.dice < 0.5 else "direct"
        stop = threading.Event()
        timer = threading.Timer(_VISIT_S, stop.set)
        timer.start()
        self._worker(job, f"{kind}-{job.token}", kind).run(stop)
        timer.cancel()
        self._watch.leave(job.id)
        try:
            self._command("JOB.DEREGISTER", job.id)
        except redis.RedisError as error:
            # Nobody knows whether it has ended; the end of the run sees to it.
            self._jobs.append(job)
            return f"{job.id} not ended: {error}", ""
        client = PlainClient(job.url)
        try:
            client.send("GET", "text-0")
        except redis.AuthenticationError:
            return job.id, ""
        except (redis.RedisError, OSError) as error:
            return f"{job.id}, then {error}", ""
        finally:
            client.close()
        return job.id, "its token is good after its end"

    # --- the end -------------------------------------------------------------------------------

    def _read_all(self) -> None:
        """Read everything once, from both sides: what was acknowledged must be there."""
        eventually(lambda: self._watch.look() is not None, _WHOLE_TIMEOUT_S)
        for job in self._jobs:
            for kind in ("plain", "direct"):
                self._worker(job, f"last-{kind}-{job.token}", kind).read_all()

    def _lost_keys(self, job: Job) -> int:
        try:
            return int(self._command("JOB.INFO", job.id)["lost_keys"])
        except redis.ResponseError:
            return 0  # One of those that come and go.

    def _look_into_jobs(self) -> None:
        """No job may have a key that none of its clients has made."""
        for job in self._jobs:
            client = PlainClient(job.url)
            with suppress(redis.AuthenticationError):
                strange = set(client.send("KEYS", "*")) - KEYS.keys()
                if strange:
                    self._violation(f"{job.id} has keys of somebody else: {sorted(strange)[:5]}")
            client.close()

    def _end_jobs(self) -> None:
        """End all jobs, and wait until every byte is free."""
        eventually(lambda: self._command("FLUSHALL"), _WHOLE_TIMEOUT_S)
        for job in self._jobs[1:]:
            with suppress(redis.ResponseError):
                self._command("JOB.DEREGISTER", job.id)

        def is_empty() -> bool:
            servers = self._command("SERVER.LIST")
            return bool(servers) and not any(s["keys"] or s["used_bytes"] for s in servers)

        try:
            eventually(is_empty, _FREED_TIMEOUT_S)
        except AssertionError:
            left = {
                f"{s['tier']} {s['id'][:8]}": (s["keys"], s["used_bytes"])
                for s in self._command("SERVER.LIST")
            }
            self._violation(f"keys and bytes are left after the end of all jobs: {left}")
        left_jobs = [job["id"] for job in self._command("JOB.LIST") if job["id"] != "default"]
        if left_jobs:
            self._violation(f"jobs are left: {left_jobs}")

    def _violation(self, text: str) -> None:
        self._findings.violations.append(text)

    def _judge(self, faults: list[Fault], counted_lost: dict[str, int]) -> Result:
        found = self._findings
        failures = [failure for worker in self._workers for failure in worker.failures]
        for worker in self._workers:
            for leak in worker.leaks[:5]:
                self._violation(f"isolation: {leak}")
        for fault in faults:
            if fault.problem:
                self._violation(f"{fault.problem}: {fault.line(self.zero_s)}")
        judge_failures(failures, faults, self.plan.answered_within_s, self.zero_s, found)
        judge_histories(self._recorder.histories(), faults, self._watch, self.zero_s, found)
        judge_losses(counted_lost, faults, self.cluster.log_lines(), found)
        judge_log(self.cluster.log_lines(), faults, found)
        return Result(found, faults, failures, self.zero_s, counted_lost)


def _earlier(step: Step, by_s: float) -> Step:
    return Step(step.at_s - by_s, step.kind, step.dice, step.amount, step.lasts_s)


def run(plan: Plan, folder: Path, say: Callable[[str], None] = lambda line: None) -> Result:
    """Start a cluster in `folder`, run the plan, and see to it that nothing is left.

    `say` is told of each thing as it happens.
    """
    options = ("--dram", "3", "--nvme", "1", "--routers", "2")
    with serving(folder, *options, memory="256mb") as cluster:
        result = Run(plan, cluster, say).run()
        status = cluster.stop()
    if status:
        result.findings.violations.append(f"`pocketkv serve` ended with status {status}")
    left = [path.name for path in (folder / "tmp").iterdir()]
    if left:
        result.findings.violations.append(f"files are left: {left}")
    return result
