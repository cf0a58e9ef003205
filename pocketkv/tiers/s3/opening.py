"""Makes a store, and only then imports boto3: servers that use no S3 need not have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pocketkv.tiers.s3.errors import S3Error
from pocketkv.tiers.s3.options import S3Options

if TYPE_CHECKING:
    from pocketkv.tiers.s3.store import S3Store


def open_store(
    url: str, *, server_id: str | None = None, options: S3Options | None = None
) -> S3Store:
    """Return a store at ``s3://bucket/prefix``; the arguments are those of `S3Store`.

    Raises:
        S3Error: denied: URL or settings are wrong, or boto3 is not installed.
    """
    try:
        from pocketkv.tiers.s3.store import S3Store  # noqa: PLC0415 - boto3 takes long to import
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "pocketkv":
            raise
        raise S3Error(
            "denied", f"S3 needs {error.name}, which `pip install 'pocketkv[s3]'` installs"
        ) from error
    return S3Store(url, server_id=server_id, options=options)
