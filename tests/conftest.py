"""What all tests share: how Hypothesis searches. Markers and warnings are set in pyproject.toml."""

from __future__ import annotations

from hypothesis import settings

# One example may meet a busy machine, so only pytest's own timeout of a whole test counts.
settings.register_profile("pocketkv", deadline=None, print_blob=True)
settings.load_profile("pocketkv")
