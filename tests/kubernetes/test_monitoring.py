"""Dashboard and alerts: every query is one, and every metric and label that it names exists."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import pytest
import yaml

from tests.kubernetes import charts
from tests.observability.metrics_docs import tables

DASHBOARD = charts.CHART / "dashboards" / "pocketkv.json"
ALERTS = charts.CHART / "alerts.yaml"
# Labels that Prometheus puts on what it scrapes from pods.
TARGET_LABELS = {"namespace", "pod", "le"}


def known_metrics() -> dict[str, tuple[str, ...]]:
    """The series that processes tell, with their labels."""
    known: dict[str, tuple[str, ...]] = {}
    for names in tables().values():
        for name in names:
            series = [name.full_name]
            if name.kind == "histogram":
                series = [f"{name.full_name}_{part}" for part in ("bucket", "sum", "count")]
            known.update(dict.fromkeys(series, tuple(name.labels)))
    return known


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def queries() -> Iterator[tuple[str, str]]:
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for rule in rules():
        yield rule["alert"], rule["expr"]


def selectors(expression: Any) -> Iterator[Any]:
    """The selectors of series in a parsed query."""
    if isinstance(expression, promql.VectorSelector):
        yield expression
    for part in ("expr", "lhs", "rhs", "vector_selector"):
        inner = getattr(expression, part, None)
        if inner is not None and not callable(inner):
            yield from selectors(inner)
    for argument in getattr(expression, "args", None) or ():
        yield from selectors(argument)


@pytest.mark.parametrize(("title", "query"), list(queries()))
def test_every_metric_that_is_named_exists(title: str, query: str) -> None:
    known = known_metrics()
    found = list(selectors(promql.parse(query)))
    # The parser's tree is walked as a whole: no name of ours is left out.
    assert {s.name for s in found} == set(re.findall(r"\bpocketkv_\w+", query))
    labels: set[str] = set(TARGET_LABELS)
    for selector in found:
        assert selector.name in known, title
        labels |= set(known[selector.name])
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= {*known[selector.name], *TARGET_LABELS}, title
    for group in re.findall(r"\bby \(([^)]*)\)", query):
        assert {label.strip() for label in group.split(",")} <= labels, title


def test_there_is_what_an_operator_asks_for() -> None:
    named = {name for _, query in queries() for name in re.findall(r"pocketkv_[a-z]+", query)}
    assert {"pocketkv_job", "pocketkv_tier", "pocketkv_moves", "pocketkv_command"} <= named
    alerts = {rule["alert"].removeprefix("PocketKV") for rule in rules()}
    assert {
        "JobNearQuota",
        "TierSaturated",
        "DrainStuck",
        "ServerLost",
        "ControllerWithoutLeader",
    } <= alerts


def test_each_alert_says_what_is_wrong_and_how_bad_it_is() -> None:
    guide = (charts.ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    for rule in rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"]["summary"].endswith(".")
        assert rule["annotations"]["description"].endswith(".")
        assert f"`{rule['alert']}`" in guide, "the run-book does not have it"
        # Labels that its texts name must be left by its query.
        for label in re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])):
            assert all(label in group for group in re.findall(r"by \(([^)]*)\)", rule["expr"]))


def test_panels_do_not_overlap_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["description"]
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert at["x"] + at["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def test_grafana_and_prometheus_get_them() -> None:
    resources = charts.render(charts.VALUES["watched"])
    dashboard = charts.of_kind(resources, "ConfigMap")["pocketkv-dashboard"]
    assert dashboard["metadata"]["labels"]["grafana_dashboard"] == "1"
    assert json.loads(dashboard["data"]["pocketkv.json"])["title"] == "PocketKV"
    [rule] = charts.of_kind(resources, "PrometheusRule").values()
    assert rule["spec"]["groups"] == yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"]
    [monitor] = charts.of_kind(resources, "PodMonitor").values()
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    # `job` is a label of ours, which Prometheus would else rename.
    assert endpoint["honorLabels"] is True
    for spec in charts.pod_specs(resources).values():
        for container in spec["containers"]:
            names = [port["name"] for port in container.get("ports", [])]
            assert not names or endpoint["port"] in names
