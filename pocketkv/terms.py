"""A job's terms: its users and its own settings, which are the same on all of its nodes.

The controller keeps them with the job and tells every member, like maps: whole, under an epoch. A
job without terms has one user, who has its token, and the settings that all jobs begin with.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from pocketkv.limits import TERMS_BYTES_MAX

# What an entry takes beside its text, so that many small ones have an end.
_ENTRY_BYTES: Final = 32


class TermsError(ValueError):
    """Terms that cannot be; the message is one line."""


@dataclass(frozen=True)
class Terms:
    """The terms of one job. Treat them as immutable.

    Attributes:
        job_id: Whose they are.
        epoch: When they were changed; newer ones replace older ones.
        users: What each may do, by name, in the words of ``ACL SETUSER``, passwords hashed.
        settings: Values by name, as ``CONFIG SET`` takes them.
    """

    job_id: str
    epoch: int = 0
    users: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_text(self.job_id)
        if not self.job_id:
            raise TermsError("terms of no job")
        if type(self.epoch) is not int or self.epoch < 0:
            raise TermsError("the epoch of terms is not 0 or more")
        size = 0
        for entries in (self.users, self.settings):
            for name, text in entries.items():
                _check_text(name)
                _check_text(text)
                size += len(name) + len(text) + _ENTRY_BYTES
        if size > TERMS_BYTES_MAX:
            raise TermsError(f"users and settings of a job take at most {TERMS_BYTES_MAX} bytes")

    def with_user(self, name: str, rules: str) -> Terms:
        """Return the terms after a user was made or changed.

        Raises:
            TermsError: They are too many.
        """
        return replace(self, users={**self.users, name: rules})

    def without_users(self, names: Iterable[str]) -> Terms:
        """Return the terms after users were removed."""
        gone = set(names)
        return replace(self, users={n: text for n, text in self.users.items() if n not in gone})

    def with_settings(self, settings: Mapping[str, str]) -> Terms:
        """Return the terms after settings were changed.

        Raises:
            TermsError: They are too long.
        """
        return replace(self, settings={**self.settings, **settings})

    def as_json(self) -> dict[str, Any]:
        """Return the terms as what `json.dumps` takes."""
        return {
            "job_id": self.job_id,
            "epoch": self.epoch,
            "users": dict(self.users),
            "settings": dict(self.settings),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Terms:
        """Return the terms of what `as_json` returned.

        Raises:
            TermsError: It is something else.
        """
        try:
            return cls(
                document["job_id"],
                document["epoch"],
                dict(document["users"]),
                dict(document["settings"]),
            )
        except TermsError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TermsError(f"not a job's terms: {error}") from error


def _check_text(value: object) -> None:
    if not isinstance(value, str):
        raise TermsError("a job, a user or a setting is not a text")
