from __future__ import annotations

from dataclasses import replace

import pytest

from pocketkv.catalog import load_catalog
from pocketkv.controller.accounts import Account, rate_per_hour, rates_per_hour
from pocketkv.jobs import Hints
from pocketkv.placement import PlacementMap, assign_slots
from tests.controller.builders import GIB, MIB, server

HOUR_MS = 3_600_000


def test_an_account_grows_by_its_rate_and_never_shrinks() -> None:
    account = Account(0).at_rate(2.0, 0).at_rate(1.0, HOUR_MS)
    assert account.total(2 * HOUR_MS) == pytest.approx(3.0)
    assert account.total(0) == pytest.approx(2.0)


def test_a_job_pays_for_what_it_has_in_s3() -> None:
    catalog = load_catalog()
    assert catalog.s3 is not None
    servers = {"a": server("a")}
    placement = PlacementMap("j", 1, assign_slots({"a": 1}, None), {"a": GIB}, {"a": 1.0})
    hints = Hints(capacity_bytes=GIB)
    without = rates_per_hour(hints, catalog, placement, servers, {})
    rates = rates_per_hour(hints, catalog, placement, servers, {}, 730 * GIB)
    assert rates == {**without, "s3": pytest.approx(catalog.s3.price_per_gb_month)}
    total = rate_per_hour(hints, catalog, placement, servers, {}, 730 * GIB)
    assert total == pytest.approx(without["dram"] + catalog.s3.price_per_gb_month)
    # Where nobody says what it costs, it is not guessed.
    unpriced = replace(catalog, s3=None)
    assert rates_per_hour(hints, unpriced, placement, servers, {}, 730 * GIB) == without


def test_a_job_pays_for_its_share_of_each_machine_type() -> None:
    catalog = load_catalog()
    servers = {
        "a": server("a", machine_type="r7g.large"),
        "b": server("b", machine_type="r6i.large"),
        "n": server("n", "nvme"),
    }
    ranges = assign_slots({"a": 1, "b": 1, "n": 2}, None)
    quotas = {"a": GIB, "b": GIB, "n": 2 * GIB}
    placement = PlacementMap("j", 1, ranges, quotas, {"a": 1.0, "b": 1.0, "n": 2.0})
    hints = Hints(capacity_bytes=4 * GIB, throughput_bytes_s=MIB)
    rates = rates_per_hour(hints, catalog, placement, servers, {"n": 3 * GIB})
    cheap = catalog.machine("dram", "r7g.large").cost_per_hour(GIB)
    dear = catalog.machine("dram", "r6i.large").cost_per_hour(GIB)
    assert cheap != dear
    assert rates == {
        "dram": pytest.approx(cheap + dear),
        # It uses more there than is kept for it.
        "nvme": pytest.approx(catalog.tier("nvme").reference.cost_per_hour(3 * GIB)),
    }
    total = rate_per_hour(hints, catalog, placement, servers, {"n": 3 * GIB})
    assert total == pytest.approx(sum(rates.values()))
