"""A job's users beside the one that has its token, and who was refused what.

A client logs in as one of them by ``AUTH job-id/user password``, or ``AUTH user password`` in the
job `default`. Whoever has the job's token is the user ``default`` of the job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pocketkv.engine.client_list import describe
from pocketkv.engine.pubsub import Kind
from pocketkv.engine.users import DEFAULT_USER, User, default_user, user_of
from pocketkv.jobs import DEFAULT_JOB_ID
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.keyspace import JobSpace, Keyspace
    from pocketkv.engine.node import Node
    from pocketkv.engine.session import Session

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
        self.users: dict[str, User] = {DEFAULT_USER: default_user()}
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
    """The users of a client's job."""
    return acl_in(session.space)


def acl_in(space: JobSpace) -> Acl:
    """The users of a job, made when they are first asked for."""
    if space.acl is None:
        space.acl = Acl()
    return space.acl


def follow_users(node: Node, job_id: str, wanted: Mapping[str, str]) -> None:
    """Have just these users of a job: what each may do, by name, as `User.rules_text` tells it."""
    acl = acl_in(node.keyspace.open(job_id))
    users = {name: user_of(name, rules) for name, rules in wanted.items()}
    users.setdefault(DEFAULT_USER, default_user())
    for name in [name for name in acl.users if name not in users]:
        remove_user(node, job_id, acl, name)
    for user in users.values():
        put_user(node, job_id, acl, user)


def put_user(node: Node, job_id: str, acl: Acl, user: User) -> None:
    """Have a user be so from now on, and those who are connected as it do no more than it may."""
    known = acl.users.get(user.name)
    if known is None:
        acl.users[user.name] = user
        return
    if known.rules_text() == user.rules_text():
        return
    known.take_over(user)
    for session in _connected_as(node, job_id, user.name):
        session.become(known)
        if session.subscriptions and not _may_hear(session, known):
            session.transport.close()


def remove_user(node: Node, job_id: str, acl: Acl, name: str, asker: Session | None = None) -> bool:
    """Remove a user, and close its connections; false if there is none.

    What is due is still sent to the one that `asker` has; to all, if nobody knows who has asked.
    """
    if acl.users.pop(name, None) is None:
        return False
    for session in _connected_as(node, job_id, name):
        if session.blocked is None and asker in (None, session):
            session.transport.close_when_sent()
        else:
            session.transport.close()
    return True


def _connected_as(node: Node, job_id: str, name: str) -> list[Session]:
    sessions = node.sessions_of(job_id)
    return [s for s in sessions if s.user_name == name and not s.admin and not s.proxied]


def _may_hear(session: Session, user: User) -> bool:
    assert session.subscriptions is not None  # The caller has looked.
    names = session.subscriptions.names
    return all(
        user.allows_channel(name, is_pattern=kind is Kind.PATTERN)
        for kind in Kind
        for name in names[kind]
    )


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
