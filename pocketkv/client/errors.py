"""What the users' client raises: one family, whatever redis-py and the servers call it."""

from __future__ import annotations


class PocketError(Exception):
    """Base of everything that the client raises; the message is one line."""


class InvalidArgumentError(PocketError, ValueError):
    """An argument cannot be right; nothing was sent."""


class FileTooLargeError(InvalidArgumentError):
    """The file is larger than a value can be; nothing was sent."""


class ServerUnavailableError(PocketError):
    """No server answered in time, after all retries."""


class AccessDeniedError(PocketError):
    """The token or the administrator's password is wrong or missing, or the job has ended."""


class JobNotFoundError(PocketError):
    """There is no such job (any more)."""


class FileMissingError(PocketError, LookupError):
    """There is no file under this key."""


class OutOfSpaceError(PocketError):
    """The job is at its quota, or the server is full; nothing was stored."""


class RetainNotAvailableError(PocketError):
    """The cluster cannot keep files after their job's end yet; nothing was stored."""


class CommandRefusedError(PocketError):
    """The server answered with another error; the message is the server's."""
