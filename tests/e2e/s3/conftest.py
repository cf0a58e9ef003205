"""Whole clusters that use S3: moto's, in this process."""

from __future__ import annotations

from tests.tiers.s3.conftest import (  # noqa: F401 - they are fixtures here
    bucket,
    credentials,
    endpoint,
    moto_endpoint,
    names,
    proxy,
    s3,
)
