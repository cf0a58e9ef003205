from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import docs, machine
from benchmarks.client import BenchmarkError
from benchmarks.comparison import Row, Spread, Target
from benchmarks.kept import Outcome, from_json
from benchmarks.report import losses
from benchmarks.sampling import CPU, MEASURES, THROUGHPUT
from benchmarks.works import ROUTER_PREFIX

ROOT = Path(__file__).resolve().parents[2]
MACHINE = {
    "measured_at": "2026-01-02T03:04:05+00:00",
    "cpu": "a processor",
    "cores": 2,
    "kernel": "6.1",
    "python": "3.11",
    "load_before": [0.0, 0.0, 0.0],
    "pocketkv": "0.1.0",
    "commit": "0123456789abcdef",
    "has_uncommitted_changes": False,
    "redis_server": "7.0.15",
    "pocketkv_core": "compiled",
}
PLAN = {"settings": {"pairs": 5, "run_s": 0.8}, "is_quick": False, "with_noise": False}


def rows(work: str, **changes: object) -> list[Row]:
    made = []
    for measure in MEASURES:
        fields: dict[str, object] = {
            "work": work,
            "driver": "own",
            "measure": measure,
            "unit": "/s" if measure == THROUGHPUT else "us",
            "ours": 3000.0,
            "theirs": 2000.0,
            "compared": Spread(1.5, 1.4, 1.6),
            "target": Target(low=1.0) if measure == THROUGHPUT else None,
            "floor": 4.5 if measure == CPU else None,
            "is_less_better": measure != THROUGHPUT,
            "note": "driver at its limit" if measure == THROUGHPUT else "",
        }
        made.append(Row(**(fields | changes)))  # type: ignore[arg-type]
    return made


def outcome() -> Outcome:
    per_key = Row("1,000 keys", "memory per key", "B", 300, 200, Spread(1.5, 1.5, 1.5))
    return Outcome(
        machine=dict(MACHINE),
        plan=dict(PLAN),
        rows=[*rows("GET 100 B"), per_key, *rows(ROUTER_PREFIX + "SET 1 MiB")],
        remarks=["One remark.", "Another."],
        took_s=600.0,
    )


def test_a_work_is_one_line_with_a_cell_for_each_measure() -> None:
    text = docs.section(outcome())
    assert (
        "| GET 100 B | own | 3,000 / 2,000/s **1.50** meets >= 1 (driver at its limit) |"
        " 3,000 / 2,000 us **1.50** | 3,000 / 2,000 us **1.50** | 3,000 / 2,000 us **1.50** |"
        " 4.50 us |\n"
    ) in text
    assert "Measured on 2026-01-02. a processor, 2 cores" in text
    assert "core: compiled" in text
    assert "| 1,000 keys | memory per key | 300 B | 200 B | 1.50 |  |  |" in text
    assert "| SET 1 MiB | own |" in text.partition("### Through the router")[2]


def test_the_words_are_a_list_where_they_are_items() -> None:
    words = docs.section(outcome()).partition("### Where PocketKV loses\n\n")[2]
    assert words.startswith("PocketKV misses no target that was measured.\n\nBehind in every pair")
    assert "):\n\n- GET 100 B (own): CPU per operation 1.50," in words
    assert words.endswith(".\n\nOne remark.\n\nAnother.")


def test_figures_are_replaced_and_the_words_around_them_kept(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Title\n\n{docs.BEGIN}\n\nold\n\n{docs.END}\n\nthe end\n")
    for _ in range(2):
        docs.write(page, outcome())
        text = page.read_text()
        assert text.startswith(f"# Title\n\n{docs.BEGIN}\n\nMeasured on")
        assert text.endswith(f"Another.\n\n{docs.END}\n\nthe end\n")
        assert "old" not in text


@pytest.mark.parametrize(
    "text",
    [
        "",
        docs.BEGIN,
        docs.END,
        f"{docs.END}\n{docs.BEGIN}\n",
        f"{docs.BEGIN}\n{docs.BEGIN}\n{docs.END}\n",
        f"{docs.BEGIN}\n{docs.END}\n{docs.END}\n",
    ],
)
def test_a_page_without_its_markers_is_left_alone(tmp_path: Path, text: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    with pytest.raises(BenchmarkError, match=r"page\.md: must have"):
        docs.write(page, outcome())
    assert page.read_text() == text
    with pytest.raises(BenchmarkError, match="No such file"):
        docs.write(tmp_path / "none.md", outcome())


def test_the_documentation_has_its_markers() -> None:
    text = (ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert text.count(docs.BEGIN) == text.count(docs.END) == 1


def test_what_is_kept_comes_back() -> None:
    kept = outcome()
    back = from_json(kept.as_json(losses(kept.rows)))
    assert back == kept


def test_the_modules_that_must_be_compiled_are_known() -> None:
    assert {"pocketkv.resp.parser", "pocketkv.resp.syscalls"} <= set(machine.hot_path())
