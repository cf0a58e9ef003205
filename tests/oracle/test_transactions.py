"""Random transactions to a real redis-server and to our engine: the same bytes come back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.commands_transactions import transactions
from tests.oracle.compare import find_leniency
from tests.oracle.examples import EXAMPLES, LENIENCIES, MODULES, compare, compared
from tests.oracle.generate import Request
from tests.oracle.targets import EngineTarget, SocketTarget, StoreTarget

pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


def _is_exact(request: Request) -> bool:
    """Whether a reply within that of EXEC can be compared to the byte, and is refused as early.

    Redis's DEBUG reads its subcommand only when it is executed.
    """
    return find_leniency(request, LENIENCIES) is None and request[0].upper() != b"DEBUG"


_exact = st.one_of([one for module in MODULES for one in module.STRATEGIES]).filter(_is_exact)
sequences = transactions(_exact)


@pytest.fixture(scope="module")
def engine_target() -> EngineTarget:
    return EngineTarget()


@pytest.mark.parametrize("protocol", [2, 3])
@compared(EXAMPLES // 2)
@given(requests=sequences)
def test_every_reply_is_as_redis_s(
    redis_target: SocketTarget,
    engine_target: EngineTarget,
    protocol: int,
    requests: list[Request],
) -> None:
    compare(engine_target, redis_target, requests, protocol)


@pytest.fixture(scope="module")
def store_target() -> StoreTarget:
    return StoreTarget()


@compared(EXAMPLES // 4)
@given(requests=sequences)
def test_every_reply_is_as_redis_s_if_nothing_is_in_memory(
    redis_target: SocketTarget, store_target: StoreTarget, requests: list[Request]
) -> None:
    compare(store_target, redis_target, requests, 2)
