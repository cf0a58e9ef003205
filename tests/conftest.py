"""What all tests share: how Hypothesis searches. Markers and warnings are set in pyproject.toml."""

from __future__ import annotations

import os
import signal

from hypothesis import HealthCheck, settings

# Processes that tests start are interrupted by Ctrl-C, also where whoever started pytest ignores it
# (a shell does for what it runs in the background).
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# One example may meet a busy machine, so only pytest's own timeout of a whole test counts. What CI
# tells must not be a matter of luck: it searches the same examples each time, and new ones are
# found by those who run the tests.
settings.register_profile(
    "pocketkv",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("pocketkv")
