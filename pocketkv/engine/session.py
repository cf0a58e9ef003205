"""The state of one client's connection, and what a handler may ask of the connection itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pocketkv import limits
from pocketkv.engine.errors import NO_MAP, WRONG_PASS, CommandError
from pocketkv.jobs import DEFAULT_JOB_ID
from pocketkv.resp.encoder import Outbox
from pocketkv.resp.handler import RequestHandler
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.database import Database
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.long_runs import LongRun
    from pocketkv.engine.node import Node
    from pocketkv.engine.pubsub import Subscriptions
    from pocketkv.engine.tracking import TrackingClient
    from pocketkv.engine.transactions import Transaction
    from pocketkv.engine.users import User
    from pocketkv.engine.watches import Watch


class Transport(Protocol):
    """A connection as handlers see it (`resp.client_connection.ClientConnection` is one)."""

    fd: int
    outbox: Outbox
    received_bytes: int
    sent_bytes: int

    @property
    def input_bytes(self) -> int:
        """Bytes that were received and not executed yet."""
        ...

    def push(self, reply: Reply) -> None:
        """Send an out-of-band message."""
        ...

    def hand_over(self, handler: RequestHandler) -> None:
        """Have another handler execute the requests, from the next one on."""
        ...

    def restrict_input(self) -> None:
        """Apply the limits for a client that has not authenticated although it must."""
        ...

    def unrestrict_input(self, bulk_bytes_max: int, request_bytes_max: int) -> None:
        """Lift `restrict_input`; arguments and requests may be of such sizes."""
        ...

    def limit_pushes(self, unread_bytes_max: int) -> None:
        """Drop it when it leaves so many bytes unread and is to be sent one more message."""
        ...

    def is_left(self) -> bool:
        """Whether the other side has gone, though nobody may have noticed so far."""
        ...

    def close_when_sent(self) -> None:
        """Serve nothing more, and close when every reply that is due was sent."""
        ...

    def close(self) -> None:
        """Close at once."""
        ...


class Unblockable(Protocol):
    """Why a client waits: an `engine.blocking.Blocked`, or what a router waits for for it."""

    def unblock(self, *, with_error: bool) -> None:
        """CLIENT UNBLOCK."""
        ...


class Session:
    """One client.

    Attributes:
        id: Unique on its node, never used again; CLIENT ID.
        job_id: The job that it is in.
        space, db: The job's keys on this node and the selected database.
        authenticated: Whether it has given a token, or needs none.
        admin: Whether it has given the administrator's password, and so may look at all jobs.
        blocked: The command that it waits in, if it does.
        flips_seen: What `JobSpace.flips` was when a router was last told the job's map.
        wants_migrations: Whether it is told of slots that move: CLIENT MAINT_NOTIFICATIONS.
        proxied: Whether it is one of our own routers, which wants `-MOVED` instead of help.
        denies_blocking: Whether a command that would wait answers at once as if its time were up:
            in a transaction or a script.
        transaction: What it has sent since MULTI; ``None``: it is in none.
        watch: The keys that it watches for its next transaction, if it does.
        long_run: What its transaction's scripts take turns by, while it is executed.
        in_exec: Whether its transaction is executed now.
        in_script: Whether it is no client, but what a script's commands come from.
        reply_off, reply_skip: CLIENT REPLY.
        subscriptions: To channels, if it ever had any.
        tracking: What it is told of keys that it read: CLIENT TRACKING; ``None``: nothing.
        monitoring: Whether it is shown what others ask: MONITOR.
        user_name: Its name in the job; ``default`` is who has the job's token.
        user: What its user may do; ``None``: everything, as most may.
        attended: Whether its use of keys is minded: CLIENT NO-TOUCH, CLIENT TRACKING.
        is_in_job: Whether `space` is set.
        guarded: Whether there is anything that it may not do (see `guard`).
        last_command: Name of the last command's record, or of the one under way.
    """

    __slots__ = (
        "address",
        "admin",
        "attended",
        "authenticated",
        "blocked",
        "created_ms",
        "db",
        "denies_blocking",
        "flips_seen",
        "guarded",
        "id",
        "in_exec",
        "in_script",
        "is_in_job",
        "job_id",
        "last_active_ms",
        "last_command",
        "lib_name",
        "lib_version",
        "local_address",
        "long_run",
        "monitoring",
        "name",
        "no_evict",
        "no_touch",
        "node",
        "proxied",
        "reply_off",
        "reply_skip",
        "space",
        "subscriptions",
        "tracking",
        "transaction",
        "transport",
        "user",
        "user_name",
        "wants_migrations",
        "watch",
    )

    def __init__(
        self, node: Node, session_id: int, transport: Transport, address: str, local_address: str
    ) -> None:
        self.node = node
        self.id = session_id
        self.transport = transport
        self.address = address
        self.local_address = local_address
        self.created_ms = node.clock.now_ms
        self.last_active_ms = self.created_ms
        self.last_command = ""
        self.lib_name = b""
        self.lib_version = b""
        self.proxied = False
        self.flips_seen = 0
        self.blocked: Unblockable | None = None
        self.denies_blocking = False
        self.in_exec = False
        self.in_script = False
        self.long_run: LongRun | None = None
        self.transaction: Transaction | None = None
        self.watch: Watch | None = None
        self.job_id = DEFAULT_JOB_ID
        self.subscriptions: Subscriptions | None = None
        self.tracking: TrackingClient | None = None
        self.monitoring = False
        self.user: User | None = None
        self.user_name = DEFAULT_JOB_ID
        self.is_in_job = False
        self.guarded = False
        self.attended = False
        self.space: JobSpace
        self.db: Database
        self.reset()

    def reset(self) -> None:
        """Be as a new connection is: RESET. Only what the client told of its library stays."""
        self.stop_listening()
        self.name = b""
        self.transaction = None
        self.unwatch()
        self.no_evict = False
        self.no_touch = False
        self.wants_migrations = False
        self.reply_off = False
        self.reply_skip = 0
        self.protocol = 2
        self.admin = False
        self.authenticated = not self.node.require_auth and self.node.is_open
        self.enter_job(DEFAULT_JOB_ID)
        self.select(0)
        self.limit_input()

    def unwatch(self) -> None:
        """Watch no key any more."""
        if self.watch is not None:
            self.watch.end()
            self.watch = None

    def limit_input(self) -> None:
        """Have the connection take no more than this client may send."""
        if self.authenticated:
            node = self.node
            self.transport.unrestrict_input(node.bulk_bytes_max, node.request_bytes_max)
        else:
            self.transport.restrict_input()

    def limit_pushes(self) -> None:
        """Have it dropped from so many unread bytes on, if it has subscribed."""
        hard_bytes = self.node.settings.pubsub_limits[0]
        self.transport.limit_pushes(hard_bytes or limits.BULK_BYTES_MAX)

    @property
    def may_administer(self) -> bool:
        """Whether it may administer jobs and this server: where nobody needs a password, it may."""
        return self.admin or not self.node.admin_password

    @property
    def protocol(self) -> int:
        """The RESP version, 2 or 3."""
        return self.transport.outbox.protocol

    @protocol.setter
    def protocol(self, version: int) -> None:
        self.transport.outbox.protocol = version

    def login(self, user: str, password: bytes) -> None:
        """Move into a job, or become one of its users, or administrator (in the job `default`).

        Redis's user ``default`` means the job `default`, which has no token.

        Raises:
            CommandError: WRONGPASS, or CLUSTERDOWN as long as nobody here knows which jobs there
                are; nothing has changed then.
        """
        job_id, one = user, None
        is_admin = self.node.accepts_admin(user, password)
        if is_admin:
            job_id = DEFAULT_JOB_ID
        elif not self.node.accepts(user, password):
            known = self.node.user_named(user)
            if known is None or not known[1].accepts(password):
                # A client that is told that its token is wrong does not try again.
                is_early = self.node.awaits_map_of(user, password)
                raise CommandError(NO_MAP if is_early else WRONG_PASS)
            job_id, one = known
        self.enter_job(job_id)
        self.become(one)
        self.admin = is_admin
        self.authenticated = True
        self.limit_input()

    def stop_listening(self) -> None:
        """Be told of nothing any more but what is asked for."""
        if self.subscriptions is not None and self.space.pubsub is not None:
            self.space.pubsub.leave(self)
        if self.tracking is not None:
            self.tracking.stop()
        if self.monitoring:
            self.monitoring = False
            self.node.monitors.remove(self)

    def update_guard(self) -> None:
        """What the client may do, or wants minded, has changed."""
        self.attended = self.no_touch or self.tracking is not None
        # What a router passes on, it has looked at, but for what scripts call.
        is_limited = self.user is not None or bool(self.subscriptions)
        self.guarded = is_limited and not self.proxied

    def enter_job(self, job_id: str) -> None:
        """Be in a job, on its database 0; nothing is told of the one before.

        Who is in it already stays on the database that is selected.
        """
        if job_id != self.job_id:
            self.stop_listening()
        elif self.is_in_job:
            self.become(None)
            return
        self.is_in_job = True
        self.job_id = job_id
        self.space = self.node.keyspace.open(job_id)
        self.db = self.space.database(0)
        self.become(None)

    def become(self, user: User | None) -> None:
        """Be one of the job's users; ``None``: the one that needs no name."""
        acl = self.space.acl
        if user is None and acl is not None and not self.proxied:
            user = acl.default
        self.user_name = DEFAULT_JOB_ID if user is None else user.name
        self.user = None if user is None or user.may_everything else user
        self.update_guard()

    def select(self, index: int) -> None:
        """Use another database of the same job."""
        self.db = self.space.database(index)
