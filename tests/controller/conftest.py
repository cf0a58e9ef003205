"""What the tests of the controller's state have in common."""

from __future__ import annotations

import pytest

from pocketkv.controller.policy import placing


@pytest.fixture(autouse=True)
def _jobs_without_hints_are_spread(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Have jobs that say nothing go over several servers, as those do that need more than one.

    The tests beside this file are about what happens to such jobs, and need no hints for it; those
    of the policy itself see it as it is.
    """
    if "policy" not in request.path.parts:
        monkeypatch.setattr(placing, "UNHINTED_SERVERS", 16)
