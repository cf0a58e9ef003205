"""The judge: what it lets pass, and what not."""

from __future__ import annotations

import random

from pocketkv.slots import key_slot
from tests.chaos.faults import Fault
from tests.chaos.judging import (
    Findings,
    judge_failures,
    judge_histories,
    judge_log,
    judge_losses,
)
from tests.chaos.load import Failure
from tests.chaos.schedule import Kind
from tests.chaos.watching import Look, Watch
from tests.histories.operations import Operation

SLOT = key_slot(b"text-0")


def watch(*owners: tuple[float, str]) -> Watch:
    """A watch that saw these owners of the slot of text-0 at these times."""
    made = Watch("redis://nowhere")
    for at_s, owner in owners:
        ranges = ((0, SLOT, owner), (SLOT + 1, 16383, "other"))
        made.looks.append(Look(at_s, at_s, {"job-1": ranges}, ({"id": owner}, {"id": "other"})))
    return made


def death(begin_s: float, end_s: float, server: str, kind: Kind = Kind.KILL_SERVER) -> Fault:
    return Fault(kind, begin_s, end_s, server, [server])


def found(history: list[Operation], faults: list[Fault], seen: Watch) -> Findings:
    findings = Findings()
    judge_histories({"job-1 text-0": history}, faults, seen, 0.0, findings)
    return findings


GONE = [
    Operation("a", "SET", ("w:1",), 0, 1, True),
    Operation("b", "GET", (), 20, 21, None),
]


def test_a_key_may_be_lost_by_the_death_of_its_own_server() -> None:
    seen = watch((2, "s1"), (8, "s2"))
    findings = found(GONE, [death(5, 6, "s1")], seen)
    assert findings.violations == []
    assert findings.lost_keys == {"job-1": 1}
    # Of another server, or by what does not kill, it may not.
    for faults in (
        [],
        [death(5, 6, "s2")],
        [death(5, 6, "other")],
        [Fault(Kind.PAUSE_SERVER, 5, 6, "s1")],
        [death(22, 23, "s1")],
    ):
        (text,) = found(GONE, faults, seen).violations
        assert "no order explains 'job-1 text-0'" in text
        assert "GET -> None" in text


def test_the_owner_is_who_owned_the_slot_at_that_time() -> None:
    seen = watch((2, "s1"), (3, "s2"), (30, "s3"))
    assert found(GONE, [death(5, 6, "s2")], seen).violations == []
    assert found(GONE, [death(5, 6, "s1")], seen).violations
    # It may have become so while the fault went on.
    assert found(GONE, [death(2.5, 4, "s2")], seen).violations == []


def test_what_comes_back_is_shown_with_what_happened_then() -> None:
    history = [*GONE, Operation("b", "GET", (), 22, 23, "w:1")]
    seen = watch((2, "s1"), (8, "s2"))
    (text,) = found(history, [death(5, 6, "s1"), death(18, 19, "other")], seen).violations
    assert "GET -> 'w:1'" in text
    assert "during" in text
    assert "KILL_SERVER  other" in text


def failure(begin_s: float, error: str = "ResponseError: ERR no answer") -> Failure:
    return Failure("c1", "plain", "job-1", "text-0", "GET", begin_s, begin_s + 0.1, error)


def unexplained(one: Failure, *faults: Fault) -> list[str]:
    findings = Findings()
    judge_failures([one], list(faults), 5.0, 0.0, findings)
    return findings.violations


def test_errors_are_for_five_seconds_after_a_death() -> None:
    assert not unexplained(failure(12), death(10, 11, "s1"))
    assert not unexplained(failure(14.9), death(10, 11, "s1"))
    assert unexplained(failure(15.1), death(10, 11, "s1"))
    assert unexplained(failure(9), death(10, 11, "s1"))
    assert unexplained(failure(12))
    # While there is no controller, nobody gives the slots to others.
    assert not unexplained(failure(17), death(10, 13, "s1", Kind.KILL_BOTH))


def test_nothing_else_is_felt() -> None:
    for kind in set(Kind) - {Kind.KILL_SERVER, Kind.HANG_SERVER, Kind.KILL_BOTH, Kind.KILL_ROUTER}:
        assert unexplained(failure(12), Fault(kind, 10, 13))
    assert not unexplained(failure(12), Fault(Kind.KILL_ROUTER, 10, 11))


def test_a_router_never_redirects() -> None:
    (text,) = unexplained(failure(12, "MovedError: MOVED 1 h:1"), death(10, 11, "s1"))
    assert "1 commands got an error that nothing explains: MovedError" in text


def test_what_is_counted_as_lost() -> None:
    def judged(counted: int, seen: int, *faults: Fault, log: str = "") -> list[str]:
        findings = Findings()
        findings.lost_keys["job-1"] = seen
        judge_losses({"job-1": counted}, list(faults), [log], findings)
        return findings.violations

    assert not judged(0, 0)
    assert not judged(7, 5, death(1, 2, "s"))
    assert judged(1, 0)
    assert judged(0, 3, death(1, 2, "s"))
    both = death(1, 2, "s", Kind.KILL_BOTH)
    assert judged(0, 3, both)
    told = "ERROR controller data lost job={} server=s keys=unknown reason=it"
    assert not judged(0, 3, both, log=told.format("job-1"))
    assert judged(0, 3, both, log=told.format("job-2"))
    assert judged(1_000, 3, death(1, 2, "s"))


def test_the_log_knows_of_no_other_death() -> None:
    findings = Findings()
    lines = ["ERROR server died server=s1", "INFO ready", "ERROR server is silent server=s2"]
    judge_log(lines, [death(1, 2, "s1")], findings)
    assert findings.violations == [
        "a server that nobody touched is out: ERROR server is silent server=s2"
    ]
    judge_log(["Traceback (most recent call last):"], [], findings)
    assert "Traceback" in findings.violations[1]


def test_a_history_that_is_too_hard_is_said_to_be_so() -> None:
    dice = random.Random(1)
    history = [Operation("c", "APPEND", (f"{n};",), dice.random()) for n in range(24)]
    history.append(Operation("c", "GET", (), 50, 51, "no such"))
    findings = found(history, [], watch((0, "s1")))
    assert not findings.violations
    assert "configurations" in findings.undecided[0]
