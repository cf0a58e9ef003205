"""A job's users beside the one that has its token, and who was refused what.

A client logs in as one of them by ``AUTH job-id/user password``, or ``AUTH user password`` in the
job `default`. Whoever has the job's token is the user ``default`` of the job.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from pocketkv.engine.client_list import describe
from pocketkv.engine.users import User
from pocketkv.jobs import DEFAULT_JOB_ID
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.keyspace import Keyspace
    from pocketkv.engine.session import Session

DEFAULT_USER: Final = "default"
# A refusal that is repeated within this time counts as one more of the same.
_SAME_WITHIN_MS: Final = 60_000


class Refusal:
    """An entry of ACL LOG."""

    __slots__ = ("client", "context", "count", "reason", "updated_ms", "user", "what")

    def __init__(self, reason: bytes, context: bytes, what: bytes, user: str) -> None:
        self.reason = reason
        self.context = context
        self.what = what
        self.user = user
        self.count = 1
        self.updated_ms = 0
        self.client = b""

    def shown(self, now_ms: int) -> Reply:
        """The map that ACL LOG shows."""
        return {
            b"count": self.count,
            b"reason": self.reason,
            b"context": self.context,
            b"object": self.what,
            b"username": self.user.encode("utf-8", "surrogateescape"),
            b"age-seconds": (now_ms - self.updated_ms) / 1000,
            b"client-info": self.client,
        }


class Acl:
    """The users of one job on one node, and what they were refused, the newest first."""

    def __init__(self) -> None:
        default = User(DEFAULT_USER)
        for rule in (b"on", b"nopass", b"~*", b"&*", b"+@all"):
            default.apply(rule)
        self.users: dict[str, User] = {DEFAULT_USER: default}
        self.refusals: deque[Refusal] = deque()
        # What CONFIG SET requirepass was told; only that it may be shown.
        self.shown_password = b""

    @property
    def default(self) -> User:
        """The user that needs no name."""
        return self.users[DEFAULT_USER]

    def note(self, session: Session, reason: bytes, what: bytes, user: str) -> None:
        """Note that something was refused."""
        length_max = session.node.settings.acllog_max_len
        context = b"toplevel"
        if session.in_script:
            context = b"lua"
        elif session.transaction is not None or session.in_exec:
            context = b"multi"
        now_ms = session.node.clock.now_ms
        entry = self._same(reason, context, what, user, now_ms)
        if entry is None:
            entry = Refusal(reason, context, what, user)
        else:
            self.refusals.remove(entry)
            entry.count += 1
        entry.updated_ms = now_ms
        entry.client = describe(session)
        self.refusals.appendleft(entry)
        while len(self.refusals) > length_max:
            self.refusals.pop()

    def _same(
        self, reason: bytes, context: bytes, what: bytes, user: str, now_ms: int
    ) -> Refusal | None:
        for entry in self.refusals:
            same = (entry.reason, entry.context, entry.what, entry.user) == (
                reason,
                context,
                what,
                user,
            )
            if same and now_ms - entry.updated_ms <= _SAME_WITHIN_MS:
                return entry
        return None


def acl_of(session: Session) -> Acl:
    """The users of a client's job, made when they are first asked for."""
    if session.space.acl is None:
        session.space.acl = Acl()
    return session.space.acl


def named(keyspace: Keyspace, login: str) -> tuple[str, User] | None:
    """The job and the user that a name at AUTH means, if it is one of those that jobs have."""
    job_id, slash, name = login.rpartition("/")
    space = keyspace.spaces.get(job_id if slash else DEFAULT_JOB_ID)
    if space is None or space.acl is None or name == DEFAULT_USER:
        # Who that is, tells the job's token.
        return None
    user = space.acl.users.get(name)
    return None if user is None else (space.job_id, user)


def default_accepts(keyspace: Keyspace, password: bytes) -> bool:
    """Whether the user ``default`` of the job `default` may log in with a password."""
    space = keyspace.spaces.get(DEFAULT_JOB_ID)
    return space is None or space.acl is None or space.acl.default.accepts(password)


def is_open(keyspace: Keyspace) -> bool:
    """Whether the user ``default`` of the job `default` needs no password."""
    space = keyspace.spaces.get(DEFAULT_JOB_ID)
    if space is None or space.acl is None:
        return True
    return space.acl.default.enabled and space.acl.default.no_password
