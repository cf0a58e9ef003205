"""A job's users and settings in a cluster: changed by the controller, followed by every node.

What a client changes goes to the controller, which applies it, remembers it with the job, and tells
every member. The client is answered when all of them know. A server without a controller changes
what it has, and forgets it when it stops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from pocketkv.engine.acl import follow_users
from pocketkv.engine.errors import CommandError
from pocketkv.engine.settings import follow_job_settings
from pocketkv.resp.replies import Deferred, ErrorReply, Reply
from pocketkv.terms import Terms

if TYPE_CHECKING:
    from pocketkv.engine.node import Node
    from pocketkv.engine.session import Session

# Has the controller change a job's terms: a MEMBER command with the job's id as its first argument.
# Is told when all members know, or why not.
TermKeeper: TypeAlias = "Callable[[list[bytes], Callable[[CommandError | None], None]], None]"

_IN_TRANSACTION: Final = (
    b"ERR what all of a job's servers are to know is not changed in a transaction or script"
)


def keep_terms(session: Session, request: list[bytes], reply: Reply) -> Deferred:
    """Have the controller change the terms of a session's job.

    Args:
        session: Whose job it is.
        request: The MEMBER command and its arguments but for the job's id.
        reply: What is answered when all members know.

    Raises:
        CommandError: A transaction or a script does not wait.
    """
    keeper = session.node.term_keeper
    assert keeper is not None  # The caller has looked.
    if session.denies_blocking:
        raise CommandError(_IN_TRANSACTION)
    deferred = Deferred(exclusive=True)

    def on_answer(error: CommandError | None) -> None:
        deferred.complete(reply if error is None else ErrorReply(error.text))

    name, *arguments = request
    keeper([name, session.job_id.encode(), *arguments], on_answer)
    return deferred


def follow_terms(node: Node) -> None:
    """Have the users and settings of jobs that the topology tells of since the last time."""
    changed, node.topology.changed_terms = node.topology.changed_terms, set()
    for job_id in changed:
        terms = node.topology.terms.get(job_id, Terms(job_id))
        follow_users(node, job_id, terms.users)
        follow_job_settings(node, job_id, terms.settings)
