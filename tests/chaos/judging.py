"""What must be true of a run: every history has an order, and nobody was disturbed in vain."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from pocketkv.slots import key_slot
from tests.chaos.faults import Fault
from tests.chaos.load import KEYS, Failure
from tests.chaos.schedule import Kind
from tests.chaos.watching import Watch
from tests.histories.linearizable import TooHardError, check
from tests.histories.models import Model
from tests.histories.operations import Operation, loss
from tests.histories.shrinking import contradiction

CONFIGURATIONS_MAX: Final = 300_000
# What is shown of many failures of one kind.
_SHOWN_MAX: Final = 5
# Faults are shown that were so shortly before a wrong reply.
_AROUND_S: Final = 10.0
# A server reports once a second: keys that are newer when it dies are not counted as lost.
_UNCOUNTED_KEYS_MAX: Final = 2


@dataclass
class Findings:
    """What was found.

    Attributes:
        violations: What must not be; each is a text of one or more lines.
        undecided: Histories that were too hard to judge.
        lost_keys: How many keys of each job were seen to be lost.
        operations: How many were judged.
        histories: In how many histories.
    """

    violations: list[str] = field(default_factory=list)
    undecided: list[str] = field(default_factory=list)
    lost_keys: Counter[str] = field(default_factory=Counter)
    operations: int = 0
    histories: int = 0


def losses(job_id: str, key: str, faults: Iterable[Fault], watch: Watch) -> list[Operation]:
    """Return when this key may have been lost: its slot was on a server that died."""
    slot = key_slot(key.encode())
    return [
        loss(fault.begin_s, fault.end_s, f"{fault.kind.name} {fault.victim}")
        for fault in faults
        for server in fault.servers
        for first, last in watch.slots_of(server, job_id, fault.begin_s, fault.end_s)
        if first <= slot <= last
    ]


def judge_histories(
    histories: dict[str, list[Operation]],
    faults: Sequence[Fault],
    watch: Watch,
    zero_s: float,
    findings: Findings,
) -> None:
    """Look for an order of every history, with losses where a server died and nowhere else."""
    for name, operations in sorted(histories.items()):
        job_id, key = name.split(" ")
        model = KEYS[key].model
        allowed = losses(job_id, key, faults, watch)
        findings.histories += 1
        findings.operations += len(operations)
        try:
            if not _has_order(model, [*operations, *allowed]):
                text = _contradiction_text(name, model, [*operations, *allowed], faults, zero_s)
                findings.violations.append(text)
            elif allowed and not _has_order(model, operations):
                findings.lost_keys[job_id] += 1
        except TooHardError as error:
            findings.undecided.append(f"{name}: {error}")


def _has_order(model: Model, operations: Sequence[Operation]) -> bool:
    return check(model, operations, configurations_max=CONFIGURATIONS_MAX).is_linearizable


def _contradiction_text(
    name: str,
    model: Model,
    operations: Sequence[Operation],
    faults: Iterable[Fault],
    zero_s: float,
) -> str:
    """Return the smallest part that has no order, with what was done to the cluster around it."""
    found = contradiction(model, operations)
    begin_s = min(operation.begin_s for operation in found.operations)
    end_s = max(
        (one.end_s for one in found.operations if math.isfinite(one.end_s)), default=begin_s
    )
    lines = [f"no order explains {name!r}, which may have been {_states_text(found.states)}:"]
    for operation in found.operations:
        end = "?" if math.isinf(operation.end_s) else f"{operation.end_s - zero_s:.4f}"
        times = f"{operation.begin_s - zero_s:10.4f} .. {end:>10}"
        lines.append(f"  {times}  {operation.client:<12} {operation}")
    lines += [
        f"  during   {fault.line(zero_s)}"
        for fault in faults
        if fault.begin_s <= end_s and fault.end_s >= begin_s - _AROUND_S
    ]
    return "\n".join(lines)


def _states_text(states: Iterable[object]) -> str:
    return " or ".join("nothing" if not state else str(state) for state in states)


def judge_failures(
    failures: Iterable[Failure],
    faults: Sequence[Fault],
    answered_within_s: float,
    zero_s: float,
    findings: Findings,
) -> None:
    """Errors are for those whose server or router has just died, and nobody else."""
    unexplained: dict[str, list[Failure]] = {}
    for failure in failures:
        is_redirect = failure.kind == "plain" and "MOVED" in failure.error
        if is_redirect or not any(
            _may_explain(fault, failure, answered_within_s) for fault in faults
        ):
            unexplained.setdefault(failure.error, []).append(failure)
    for error, those in unexplained.items():
        lines = [f"{len(those)} commands got an error that nothing explains: {error}"]
        for failure in those[:_SHOWN_MAX]:
            times = f"{failure.begin_s - zero_s:10.4f} .. {failure.end_s - zero_s:10.4f}"
            who = f"{failure.kind} {failure.client}"
            lines.append(f"  {times}  {who}: {failure.name} {failure.key} of {failure.job_id}")
        lines += [
            f"  before   {fault.line(zero_s)}"
            for fault in faults
            if fault.begin_s <= those[0].end_s and fault.end_s >= those[0].begin_s - _AROUND_S
        ]
        findings.violations.append("\n".join(lines))


def _may_explain(fault: Fault, failure: Failure, answered_within_s: float) -> bool:
    """Whether a fault may be why a command failed.

    Clients must be answered again within a time of it; but if no controller is there that could
    give a dead server's slots to others, the time begins when one is back.
    """
    if not fault.kind.is_felt:
        return False
    felt_s = fault.end_s if fault.kind is Kind.KILL_BOTH else fault.begin_s
    return fault.begin_s <= failure.end_s and failure.begin_s <= felt_s + answered_within_s


def judge_losses(
    lost_keys: dict[str, int],
    faults: Sequence[Fault],
    log_lines: Iterable[str],
    findings: Findings,
) -> None:
    """What the controller counts as lost must fit what was done and what was seen."""
    unknown = [line for line in log_lines if "data lost" in line and "keys=unknown" in line]
    deaths = sum(len(fault.servers) for fault in faults)
    for job_id, counted in lost_keys.items():
        seen = findings.lost_keys[job_id]
        if counted and not deaths:
            findings.violations.append(f"{counted} keys of {job_id} are lost, but no server died")
        if counted > deaths * len(KEYS):
            findings.violations.append(
                f"{counted} keys of {job_id} are lost, which never had more than {len(KEYS)}"
            )
        # A server that dies together with the controller before that has written down how many
        # keys it has: then it is said that nobody knows.
        is_uncounted = any(f"job={job_id} " in line for line in unknown)
        if seen > _UNCOUNTED_KEYS_MAX and not counted and not is_uncounted:
            findings.violations.append(
                f"{seen} keys of {job_id} were seen to be lost, and none is counted"
            )


def judge_log(lines: Iterable[str], faults: Sequence[Fault], findings: Findings) -> None:
    """Nobody has died who was not killed, and no process has met what it did not expect."""
    victims = {server for fault in faults for server in fault.servers}
    for line in lines:
        is_death = "server died" in line or "server is silent" in line
        if is_death and not any(server in line for server in victims):
            findings.violations.append(f"a server that nobody touched is out: {line}")
        if "Traceback" in line or " CRITICAL " in line:
            findings.violations.append(f"in the log: {line}")
