"""Names in S3: where a store is, and how ids become parts of the names of objects."""

from __future__ import annotations

import re
from typing import Final

from pocketkv.tiers.s3.errors import S3Error

_SCHEME: Final = "s3://"
# What S3 demands of the name of a bucket; the store itself knows the finer points.
_BUCKET: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
# An object's name may have 1024 bytes, and ours need room behind the prefix.
_PREFIX_BYTES_MAX: Final = 512
# Letters that need no escape in any store, but for "!", which begins an escape here.
_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
_ESCAPE: Final = re.compile(r"!([0-9A-F]{2})")


def parse_url(url: str) -> tuple[str, str]:
    """Return bucket and prefix of ``s3://bucket/prefix``; the prefix is empty or ends in "/".

    Raises:
        S3Error: denied: it is not such a URL.
    """
    if not url.startswith(_SCHEME):
        raise S3Error("denied", f"{url!r} is not of the form s3://bucket/prefix")
    bucket, _, prefix = url.removeprefix(_SCHEME).partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise S3Error("denied", f"{bucket!r} in {url!r} cannot be the name of a bucket")
    parts = [part for part in prefix.split("/") if part]
    if any(part in {".", ".."} or not part.isprintable() for part in parts):
        raise S3Error(
            "denied", f"the prefix in {url!r} has a part that stores do not keep as it is"
        )
    prefix = "".join(f"{part}/" for part in parts)
    if len(prefix.encode()) > _PREFIX_BYTES_MAX:
        raise S3Error("denied", f"the prefix in {url!r} is too long")
    return bucket, prefix


def encode_id(identifier: str) -> str:
    """Return an id in letters, digits, "-", "_" and escapes (``!2E``), so without "." and "/".

    Raises:
        ValueError: It is empty.
    """
    if not identifier:
        raise ValueError("an id in S3 must not be empty")
    return "".join(chr(byte) if byte in _PLAIN else f"!{byte:02X}" for byte in identifier.encode())


def decode_id(text: str) -> str:
    """Return the id that `encode_id` has made this of."""
    data = _ESCAPE.sub(lambda found: chr(int(found[1], 16)), text).encode("latin-1")
    return data.decode(errors="replace")
