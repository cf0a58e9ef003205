from __future__ import annotations

import re
from collections import Counter

from pocketkv.observability import metrics
from tests.observability.metrics_docs import PAGE, TABLE, names_of, tables, with_tables


def test_the_page_says_what_the_code_does() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == with_tables(page), "run python -m tests.observability.metrics_docs"


def test_the_page_has_every_table() -> None:
    found = [match[2] for match in TABLE.finditer(PAGE.read_text(encoding="utf-8"))]
    assert sorted(found) == sorted(tables())
    assert all(tables().values())


def test_every_declared_metric_is_shown_somewhere() -> None:
    assert set(names_of(metrics)) == {*metrics.EVERYWHERE, *metrics.ON_STORAGE}


def test_a_name_means_one_thing() -> None:
    names = Counter(name.full_name for table in tables().values() for name in table)
    assert [name for name, count in names.items() if count > 1] == []


def test_names_are_as_prometheus_wants_them() -> None:
    for table in tables().values():
        for name in table:
            assert re.fullmatch(r"pocketkv_[a-z][a-z0-9]*(_[a-z0-9]+)*", name.full_name)
            assert (name.kind == "counter") == name.name.endswith("_total"), name
            assert name.help.endswith("."), name


def test_the_queries_name_metrics_that_exist() -> None:
    known = {name.full_name for table in tables().values() for name in table}
    blocks = re.findall(r"```\n(# .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    named = set(re.findall(r"pocketkv_\w+", "".join(blocks)))
    assert named
    assert {name.removesuffix("_bucket") for name in named} <= known
