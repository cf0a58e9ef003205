"""The same random commands to a real redis-server and to our engine: the same bytes come back.

More examples: ``POCKETKV_ORACLE_EXAMPLES=20000 pytest tests/oracle --timeout=0``.
"""

from __future__ import annotations

import pytest
from hypothesis import given

from tests.oracle.examples import EXAMPLES, compare, compared, sequences
from tests.oracle.generate import Request
from tests.oracle.targets import EngineTarget, SocketTarget, StoreTarget

# A long example that fails must be shown as what it is.
pytestmark = pytest.mark.filterwarnings("ignore:Generating overly large repr")


@pytest.fixture(scope="module")
def engine_target() -> EngineTarget:
    return EngineTarget()


@pytest.mark.parametrize("protocol", [2, 3])
@compared()
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


@pytest.mark.parametrize("protocol", [2, 3])
@compared(EXAMPLES // 2)
@given(requests=sequences)
def test_every_reply_is_as_redis_s_if_nothing_is_in_memory(
    redis_target: SocketTarget,
    store_target: StoreTarget,
    protocol: int,
    requests: list[Request],
) -> None:
    compare(store_target, redis_target, requests, protocol)


def test_a_difference_is_found(redis_target: SocketTarget) -> None:
    class Forgetful(EngineTarget):
        def run(self, requests: list[Request]) -> list[bytes]:
            return super().run([[b"GET", b"b"], *requests[1:]])

    with pytest.raises(AssertionError, match="the reply to "):
        compare(Forgetful(), redis_target, [[b"SET", b"a", b"1"], [b"GET", b"a"]], 2)
