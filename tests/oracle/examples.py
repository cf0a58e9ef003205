"""Random sequences of commands of every topic, and how one is run against two servers."""

from __future__ import annotations

import os
import time
from itertools import chain

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.oracle import (
    commands_bitmaps,
    commands_geo,
    commands_hashes,
    commands_hyperloglogs,
    commands_keys,
    commands_lists,
    commands_sets,
    commands_sort,
    commands_sorted_sets,
    commands_streams,
    commands_strings,
)
from tests.oracle.compare import Leniencies, first_difference
from tests.oracle.generate import Request, Requests, resolve_times
from tests.oracle.targets import Target

MODULES = [
    commands_bitmaps,
    commands_hashes,
    commands_hyperloglogs,
    commands_geo,
    commands_keys,
    commands_lists,
    commands_sets,
    commands_sort,
    commands_sorted_sets,
    commands_streams,
    commands_strings,
    commands_geo,
]

EXAMPLES = int(os.environ.get("POCKETKV_ORACLE_EXAMPLES", "250"))

LENIENCIES: Leniencies = {k: v for module in MODULES for k, v in module.LENIENCIES.items()}
_STRATEGIES: list[Requests] = [s for module in MODULES for s in module.STRATEGIES]

# Three lists, because Hypothesis seldom makes one list long.
_a_few = st.lists(st.one_of(_STRATEGIES), max_size=15)
sequences = st.tuples(_a_few, _a_few, _a_few).map(lambda lists: list(chain(*lists)))

# In the end everything is compared: names, values, and what expires.
FINALLY: list[Request] = [[b"DEBUG", b"DIGEST"], [b"DBSIZE"], [b"KEYS", b"*"]]


def compared(examples: int = EXAMPLES) -> settings:
    """So many examples, each of which may be slow on a busy machine."""
    return settings(
        max_examples=max(1, examples),
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


def compare(
    ours: Target,
    theirs: Target,
    requests: list[Request],
    protocol: int,
    finally_: list[Request] | None = None,
) -> None:
    """Run an example against both; fail at the first difference."""
    now_ms = time.time_ns() // 1_000_000
    for target in (ours, theirs):
        target.begin(protocol, now_ms)
    requests = resolve_times(requests) + (FINALLY if finally_ is None else finally_)
    difference = first_difference(requests, ours.run(requests), theirs.run(requests), LENIENCIES)
    assert difference is None, difference
