"""What is wrong with bytes that are no dump."""

from __future__ import annotations


class RdbError(ValueError):
    """Bytes that are no value in Redis's form; what is wrong, in words for developers."""
