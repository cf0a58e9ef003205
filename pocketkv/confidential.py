"""What only members of a cluster know, and what its administrator does; from files or variables."""

from __future__ import annotations

import re
from typing import Final

from pocketkv.options import ConfigError, Given, Option, parse_path
from pocketkv.tokens import SECRET_BYTES

SECRET_FILE: Final = Option(
    "secret-file",
    parse_path,
    f"file with the cluster's secret, {2 * SECRET_BYTES} hexadecimal digits; or POCKETKV_SECRET",
    "PATH",
)
SECRET_OPTIONS: Final = f"{SECRET_FILE.flag} or POCKETKV_SECRET"
ADMIN_PASSWORD_FILE: Final = Option(
    "admin-password-file",
    parse_path,
    "file with the password that administration of jobs needs; or POCKETKV_ADMIN_PASSWORD",
    "PATH",
)


def cluster_secret(given: Given) -> bytes | None:
    """Return the cluster's secret; None if none was given.

    Raises:
        ConfigError: it is not one, or its file cannot be read.
    """
    found = given.confidential(SECRET_FILE, "POCKETKV_SECRET")
    if found is None:
        return None
    source, text = found
    # The text itself stays out of the message: messages end up in logs.
    digits = text.strip()
    if not re.fullmatch(rf"[0-9a-fA-F]{{{2 * SECRET_BYTES}}}", digits):
        raise ConfigError(f"{source}: a secret is {2 * SECRET_BYTES} hexadecimal digits")
    return bytes.fromhex(digits)


def needed_secret(given: Given) -> bytes:
    """Return the cluster's secret.

    Raises:
        ConfigError: there is none, or it is not one.
    """
    secret = cluster_secret(given)
    if secret is None:
        raise ConfigError(f"{SECRET_OPTIONS} is needed")
    return secret


def admin_password(given: Given) -> str | None:
    """Return the administrator's password; None if none was given.

    Raises:
        ConfigError: it is empty, or its file cannot be read.
    """
    found = given.confidential(ADMIN_PASSWORD_FILE, "POCKETKV_ADMIN_PASSWORD")
    if found is None:
        return None
    source, text = found
    if not text:
        raise ConfigError(f"{source}: the password is empty")
    return text
