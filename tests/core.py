"""Which hot path the tests run on: plain Python, or the compiled one (`make test-compiled`)."""

from __future__ import annotations

import pytest

from pocketkv.resp import parser

IS_COMPILED = not (parser.__file__ or "").endswith(".py")

plain_only = pytest.mark.skipif(
    IS_COMPILED, reason="replaces a method, and compiled classes are immutable"
)
