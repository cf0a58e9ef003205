"""What can be wrong with a call to S3."""

from __future__ import annotations

from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["corrupt", "denied", "missing", "unavailable"]


class S3Error(Exception):
    """A call that failed; the value that was to be written is still with its caller.

    Args:
        kind: ``corrupt``: what is stored is not what was written. ``missing``: the object or the
            bucket does not exist. ``unavailable``: no answer, or one that asks to come again;
            later the same call may succeed. ``denied``: S3 refuses, or was not even asked, for
            what only the operator can mend: credentials, permissions, settings.
        text: One line.
    """

    def __init__(self, kind: Kind, text: str) -> None:
        super().__init__(text)
        self.kind: Kind = kind
        self.text = text
