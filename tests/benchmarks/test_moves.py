"""The benchmark of live moves: what it measures, and what it says of that."""

from __future__ import annotations

from dataclasses import replace

from benchmarks import moves
from benchmarks.moves import Taken

GOOD = Taken(
    bare_mib_s=1000.0,
    move_mib_s=700.0,
    beside_mib_s=300.0,
    hold_p99_ms=2.0,
    hold_max_ms=3.0,
    p99_before_us=400.0,
    p99_meanwhile_us=600.0,
)


def test_a_move_is_measured_there_and_back() -> None:
    taken = moves.measure(16, before_s=0.3)
    for figure in (taken.bare_mib_s, taken.move_mib_s, taken.beside_mib_s):
        assert figure > 0
    assert 0 < taken.hold_p99_ms <= taken.hold_max_ms
    assert taken.p99_before_us > 0
    assert taken.p99_meanwhile_us > 0


def test_what_meets_all_targets() -> None:
    rows = moves.rows([GOOD, GOOD, GOOD])
    assert [row.verdict for row in rows] == ["meets"] * 3
    assert rows[0].compared.median == 0.7
    assert rows[1].compared.median == 1.5
    assert rows[2].compared.median == 2.0


def test_what_misses_them() -> None:
    slow = replace(GOOD, move_mib_s=500.0, hold_p99_ms=6.0, p99_meanwhile_us=900.0)
    assert [row.verdict for row in moves.rows([slow, slow, GOOD])] == ["MISSES"] * 3
