"""What a run leaves behind: everything as JSON, and the way back to the table and the picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.client import BenchmarkError
from benchmarks.comparison import Row, Spread, Target
from benchmarks.sampling import Result, Sample
from benchmarks.works import router_works, works


@dataclass
class Outcome:
    """All that came out of a run.

    Attributes:
        machine: What the figures are from; see `benchmarks.machine.describe`.
        plan: How they were measured.
        results: The works that were measured.
        rows: The lines of the table.
        others: Samples of what is no work, by group and name.
        remarks: What one should know of the figures, in sentences.
        took_s: How long it took.
    """

    machine: dict[str, Any]
    plan: dict[str, Any]
    results: list[Result] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    took_s: float = 0.0

    def as_json(self, losses: Sequence[str]) -> dict[str, Any]:
        """Return everything; `losses` are the words that the rows come to."""
        return {
            "machine": self.machine,
            "plan": self.plan,
            "took_s": self.took_s,
            "works": [_work_as_json(result) for result in self.results],
            "others": self.others,
            "rows": [{**asdict(row), "verdict": row.verdict} for row in self.rows],
            "losses": list(losses),
            "remarks": self.remarks,
        }


def from_json(told: Mapping[str, Any]) -> Outcome:
    """Return what `Outcome.as_json` made.

    Raises:
        BenchmarkError: It is of another version of the benchmarks.
    """
    try:
        return Outcome(
            machine=told["machine"],
            plan=told["plan"],
            results=[_result(work) for work in told["works"]],
            rows=[_row(row) for row in told["rows"]],
            others=told["others"],
            remarks=told["remarks"],
            took_s=told["took_s"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise BenchmarkError(f"not the figures of these benchmarks: {error!r}") from error


def _work_as_json(result: Result) -> dict[str, Any]:
    work = result.work
    return {
        "name": work.name,
        "group": work.group,
        "title": work.title,
        "driver": work.driver,
        "ours": [asdict(sample) for sample in result.ours],
        "theirs": [asdict(sample) for sample in result.theirs],
        "floor": {
            way: [asdict(sample) for sample in samples] for way, samples in result.floor.items()
        },
    }


def _result(told: Mapping[str, Any]) -> Result:
    by_name = {work.name: work for work in [*works(), *router_works()]}
    return Result(
        work=by_name[told["name"]],
        ours=_samples(told["ours"]),
        theirs=_samples(told["theirs"]),
        floor={way: _samples(samples) for way, samples in told["floor"].items()},
    )


def _samples(told: Sequence[Mapping[str, Any]]) -> list[Sample]:
    return [Sample(**sample) for sample in told]


def _row(told: Mapping[str, Any]) -> Row:
    fields = {name: amount for name, amount in told.items() if name != "verdict"}
    fields["compared"] = Spread(**told["compared"])
    fields["target"] = None if told["target"] is None else Target(**told["target"])
    return Row(**fields)
