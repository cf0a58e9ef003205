"""One node, router or storage server, as the commands see it: identity, clients, counts, maps.

A node is made by its plane's shell, which also moves its clock; nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from pocketkv import limits
from pocketkv.engine.acl import default_accepts, is_open, named
from pocketkv.engine.client_list import ADMIN_USER
from pocketkv.engine.commands import Command
from pocketkv.engine.errors import write_refusal
from pocketkv.engine.keyspace import DEFAULT_JOB, Clock, Keyspace
from pocketkv.engine.latency import LatencyMonitor
from pocketkv.engine.pauses import Pause, unpause
from pocketkv.engine.session import Session
from pocketkv.engine.settings import Settings
from pocketkv.engine.stats import LATENCY_BUCKETS, CommandStats, SlowLog, shown
from pocketkv.engine.timers import Timer, Timers
from pocketkv.engine.topology import Topology
from pocketkv.lua.slices import Workers
from pocketkv.resp.replies import Deferred, ErrorReply, Reply, ScriptErrorReply
from pocketkv.stopwatch import Stopwatch
from pocketkv.tokens import verify_job_token, verify_password

if TYPE_CHECKING:
    from pocketkv.engine.blocking import Blocked
    from pocketkv.engine.defragment import Defragmenter
    from pocketkv.engine.fetching import Fetcher, Stepper
    from pocketkv.engine.job_terms import TermKeeper
    from pocketkv.engine.long_runs import LongRun
    from pocketkv.engine.medium import MediumFigures
    from pocketkv.engine.moving import Moves
    from pocketkv.engine.pubsub import Forwarder, Listening
    from pocketkv.engine.retention import Retaining
    from pocketkv.engine.session import Transport
    from pocketkv.engine.tracking import Tracking
    from pocketkv.engine.users import User
    from pocketkv.engine.waiters import Waiters

# The Redis version whose behaviour is offered; clients decide by it what they may send.
REDIS_VERSION: Final = "7.0.15"
# What is in a transaction is logged by itself; the others may hold passwords.
_NEVER_SLOW: Final = frozenset(("auth", "exec", "hello"))
_LAST_BUCKET: Final = LATENCY_BUCKETS - 1
# Within so many bytes a code must end, or Redis counts the error as ERR.
_CODE_BYTES_MAX: Final = 31


@dataclass(slots=True)
class ProcessFigures:
    """What the operating system knows of this process; refreshed by the shell, shown by INFO."""

    pid: int = 0
    rss_bytes: int = 0
    rss_peak_bytes: int = 0
    # Of the resident memory, what is no file's.
    anonymous_bytes: int = 0
    cpu_user_s: float = 0.0
    cpu_system_s: float = 0.0
    machine_memory_bytes: int = 0
    operating_system: str = ""
    python_version: str = ""


def _no_entropy(size: int) -> bytes:
    raise RuntimeError("nobody has said where secrets come from")


class Node:
    """A running server.

    Args:
        node_id: 40 hex digits, as Redis Cluster's node ids.
        role: ``storage``, ``router`` or ``controller``.
        keyspace: What it stores; a router's stays empty.
        topology: What it knows of the cluster.
        timer_ns: A monotonic clock, for latencies.
        stopwatch: The same, as the gate reads it.
        secret: The cluster's secret, by which tokens are verified; empty: there are no jobs.
        require_auth: Whether a connection must authenticate before it does anything.
        admin_password: What ``AUTH admin`` demands; empty: everybody may administer.

    Attributes:
        clock: Time of the round under way, moved by the shell.
        sessions: Connected clients by id.
        command_stats: Counts by command name.
        error_stats: Error replies by code.
        settings: What CONFIG GET shows and CONFIG SET changes (see `engine.settings`).
        timers: What is to be done later; the shell sees to it that it is.
        blocked_clients: Sessions that wait in a blocking command.
        ready_waiters: Those of jobs in which keys changed that clients wait for, or keep copies
            of: to be served after the command under way.
        pauses: CLIENT PAUSE under way, by job id (see `engine.pauses`).
        monitors: Clients that are shown what is asked: MONITOR.
    """

    def __init__(
        self,
        *,
        node_id: str,
        role: str,
        tier: str,
        keyspace: Keyspace,
        topology: Topology,
        timer_ns: Callable[[], int],
        secret: bytes = b"",
        require_auth: bool = False,
        admin_password: bytes = b"",
        host: str = "127.0.0.1",
        port: int = 0,
        clustered: bool = False,
    ) -> None:
        self.id = node_id
        self.role = role
        self.tier = tier
        self.keyspace = keyspace
        self.clock: Clock = keyspace.clock
        self.topology = topology
        self.timer_ns = timer_ns
        self.stopwatch = Stopwatch(timer_ns)
        # When the command under way began, by the stopwatch.
        self.call_started_ns = 0
        self.secret = secret
        self.require_auth = require_auth
        self.admin_password = admin_password
        self.host = host
        self.port = port
        # Whether direct clients may meet MOVED here (INFO's redis_mode, HELLO's mode).
        self.clustered = clustered
        self.started_ms = self.clock.now_ms
        # When a client last asked to have everything saved.
        self.saved_ms = self.started_ms
        self.sessions: dict[int, Session] = {}
        self._start_counts()
        self.slow_log = SlowLog()
        self.latency = LatencyMonitor()
        # Calls that take so long are noted by it; 0: none are.
        self.latency_threshold_ns = 0
        self.settings: Settings = Settings()
        self.timers = Timers(self.clock)
        self.blocked_clients = 0
        # Those whose keys changed, and who are to try them after the command under way.
        self.ready_waiters: list[Waiters | Tracking] = []
        # Those who were served, and are to be answered after the next commit.
        self.unsettled: list[tuple[Deferred, Reply]] = []
        # The timer by which idle clients are looked for, while `timeout` is set.
        self.idle_sweep: Timer | None = None
        # What CONFIG SET maxmemory 0 goes back to.
        self.memory_bytes = keyspace.memory_bytes
        self.pauses: dict[str, Pause] = {}
        # Scripts that take long, by job (see `engine.long_runs`), and who executes scripts.
        self.long_runs: dict[str, LongRun] = {}
        self.workers = Workers()
        # Takes what scripts have to say for the log: the job, a level of Redis's, the text.
        self.script_log: Callable[[str, int, bytes], None] | None = None
        self.monitors: list[Session] = []
        self.process = ProcessFigures()
        self._start_without_plane()
        self._start_writing()
        self.bulk_bytes_max = limits.BULK_BYTES_MAX
        self.request_bytes_max = limits.REQUEST_BYTES_MAX
        # How long a string may become that is written in pieces; 0: no longer than one argument.
        self.value_bytes_max = 0
        self._next_session_id = 0

    def _start_counts(self) -> None:
        self.connections_received = 0
        self.connections_rejected = 0
        self.command_stats: dict[str, CommandStats] = {}
        self.error_stats: dict[str, int] = {}
        self.commands_processed = 0
        # Of those that failed so far: how many, and why and when the last one did.
        self.write_errors = 0
        self.last_write_error = ""
        self.last_write_error_ms = 0

    def _start_writing(self) -> None:
        # Why the last commit failed, until one succeeds.
        self.write_error: ErrorReply | None = None
        # Whether writes are to be refused until there are replicas, which there never are.
        self.lacks_replicas = False
        self._changes_seen = 0

    def _start_without_plane(self) -> None:
        """Have none of what the server's plane sets later."""
        # Reads what is not in memory, where there is a store beside it; set by the plane.
        self.fetcher: Fetcher | None = None
        self.stepper: Stepper | None = None
        # Has the controller know that a job retains keys, and carries slots; set as the above.
        self.retaining: Retaining | None = None
        self.moves: Moves | None = None
        # Has the controller change what a job says of its users and settings; set as the above.
        self.term_keeper: TermKeeper | None = None
        # Publish to the job's other servers, and listen at them for clients here (see `pubsub`).
        self.forwarder: Forwarder | None = None
        self.listening: Listening | None = None
        # Gives bytes that nobody can guess; set by the shell.
        self.entropy: Callable[[int], bytes] = _no_entropy
        # Keeps memory compact, where there is anything stored.
        self.defragmenter: Defragmenter | None = None
        # Tells of the medium under the values, for INFO and metrics; set by the plane.
        self.medium = ""
        self.medium_figures: Callable[[], MediumFigures] | None = None

    # --- clients -------------------------------------------------------------------------------

    def open_session(self, transport: Transport, address: str, local_address: str) -> Session:
        """The session of a new connection."""
        self._next_session_id += 1
        self.connections_received += 1
        session = Session(self, self._next_session_id, transport, address, local_address)
        self.sessions[session.id] = session
        return session

    def close_session(self, session: Session) -> None:
        """The connection is gone."""
        session.unwatch()
        if self.sessions.pop(session.id, None) is not None:
            session.stop_listening()
            stats = session.space.stats
            stats.received_bytes += session.transport.received_bytes
            stats.sent_bytes += session.transport.sent_bytes

    def accepts(self, user: str, password: bytes) -> bool:
        """Whether a user's password (a job's token) is right, and the job is known here."""
        if user == DEFAULT_JOB and not self.require_auth:
            return default_accepts(self.keyspace, password)
        if not self.secret or user not in self.topology.placements:
            return False
        return verify_job_token(self.secret, user, password.decode("ascii", "replace"))

    def awaits_map_of(self, job_id: str, token: bytes) -> bool:
        """Whether a token was given to a job that this node, which knows of none, may hear of."""
        if not self.secret or self.topology.epoch:
            return False
        return verify_job_token(self.secret, job_id, token.decode("ascii", "replace"))

    @property
    def is_open(self) -> bool:
        """Whether the user that needs no name needs no password either."""
        return is_open(self.keyspace)

    def user_named(self, login: str) -> tuple[str, User] | None:
        """The job and the user that a name at AUTH means; ``None``: there is no such user."""
        return named(self.keyspace, login)

    def accepts_admin(self, user: str, password: bytes) -> bool:
        """Whether this is the administrator; nobody is where there is no such password."""
        if user != ADMIN_USER or not self.admin_password:
            return False
        return verify_password(self.admin_password, password)

    @property
    def alone(self) -> bool:
        """Whether this is a storage server without a controller, which nobody else relies on."""
        return self.role == "storage" and not self.clustered

    def memory_limit_bytes(self, job_id: str) -> int:
        """What a job may use on this server; at a router, on all of its servers together."""
        if self.role == "storage":
            memory_bytes = self.keyspace.memory_bytes
            quota_bytes = self.keyspace.open(job_id).quota_bytes
            return memory_bytes if quota_bytes is None else min(quota_bytes, memory_bytes)
        placement = self.topology.placements.get(job_id)
        limit_bytes = 0
        for server in self.topology.job_servers(job_id):
            quota_bytes = None if placement is None else placement.quotas.get(server.id)
            limit_bytes += server.capacity_bytes if quota_bytes is None else quota_bytes
        # What the job's clients have set through this router.
        own_bytes = self.keyspace.open(job_id).limit_bytes
        return min(own_bytes, limit_bytes) if own_bytes else limit_bytes

    def sessions_of(self, job_id: str) -> list[Session]:
        """The clients of one job."""
        return [s for s in self.sessions.values() if s.job_id == job_id]

    def serve_waiters(self) -> None:
        """Let clients that wait for keys try those that have changed, at the end of a command.

        Those of a job whose script is in between two slices wait for its end.
        """
        held: list[Waiters | Tracking] = []
        while self.ready_waiters:
            waiters = self.ready_waiters.pop(0)
            if waiters.space.job_id in self.long_runs:
                held.append(waiters)
            else:
                waiters.serve()
        self.ready_waiters = held

    def settle_waiters(self) -> None:
        """`serve_waiters` where there is no command; what it changed is committed."""
        self.serve_waiters()
        if self.unsettled:
            self.commit()

    def answer(self, blocked: Blocked, reply: Reply) -> None:
        """Answer a client that waited, once what it took was taken for good."""
        store = self.keyspace.store
        if store is None or not store.durable:
            blocked.finish(reply)
        else:
            self.unsettled.append((blocked.detach(), reply))

    def _settle(self, error: ErrorReply | None) -> None:
        """Answer those whose answers waited for a commit, which may have failed."""
        unsettled, self.unsettled = self.unsettled, []
        for deferred, reply in unsettled:
            deferred.complete(reply if error is None else error)

    # --- the store -----------------------------------------------------------------------------

    def commit(self) -> ErrorReply | None:
        """Have what was changed stand on the store before it is acknowledged.

        Returns:
            Why it cannot: IOERR, or OOM if it is full. What was changed is tried again next time.
        """
        changes = self.keyspace.changes
        if changes == self._changes_seen:
            # Nothing of what may have failed is the concern of whoever only reads.
            if self.unsettled:
                self._settle(None)
            return None
        self._changes_seen = changes
        return self.retry_commit()

    def retry_commit(self) -> ErrorReply | None:
        """`commit`, whether anything was changed since the last one or not."""
        try:
            self.keyspace.commit()
        except OSError as error:
            self.write_error = write_refusal(error)
            self.write_failed(error)
        else:
            self.write_error = None
        if self.unsettled:
            self._settle(self.write_error)
        return self.write_error

    def write_failed(self, error: OSError) -> None:
        """Note that the medium did not take something, for INFO and metrics."""
        self.write_errors += 1
        self.last_write_error = error.strerror or str(error)
        self.last_write_error_ms = self.clock.now_ms

    # --- maps ----------------------------------------------------------------------------------

    def end_job(self, job_id: str) -> None:
        """The job is over: its keys are dropped and its clients sent away.

        What a client asked before is still answered, such as the very command that ended its job;
        one that blocks would never be.
        """
        for session in self.sessions_of(job_id):
            if session.blocked is not None:
                session.transport.close()
            else:
                session.transport.close_when_sent()
        unpause(self, job_id)
        if job_id in self.long_runs:
            self.long_runs[job_id].kill(b"ERR the job has ended")
        self.keyspace.drop(job_id)

    # --- counts --------------------------------------------------------------------------------

    def record_call(
        self,
        session: Session,
        command: Command,
        request: list[bytes],
        duration_ns: int,
        reply: Reply,
    ) -> None:
        """Count a call that reached its handler."""
        stats = self.command_stats.get(command.name)
        if stats is None:
            stats = self.command_stats[command.name] = CommandStats()
        stats.calls += 1
        stats.total_ns += duration_ns
        bucket = 0
        while duration_ns >> bucket and bucket < _LAST_BUCKET:
            bucket += 1
        stats.buckets[bucket] += 1
        self.commands_processed += 1
        session.space.stats.commands += 1
        if isinstance(reply, ErrorReply):
            stats.failed += 1
            self._count_error(reply)
        if 0 < self.latency_threshold_ns <= duration_ns:
            self.took_long(session, command, duration_ns)
        log = self.slow_log
        # A negative threshold logs nothing.
        if 0 <= log.threshold_us * 1000 < duration_ns and command.name not in _NEVER_SLOW:
            self.record_slow(session, shown(command, request), duration_ns)

    def count_inner(self, command: Command, duration_ns: int) -> None:
        """Count a call that another node has executed within a transaction."""
        stats = self.command_stats.get(command.name)
        if stats is None:
            stats = self.command_stats[command.name] = CommandStats()
        stats.calls += 1
        stats.total_ns += duration_ns
        stats.buckets[min(duration_ns.bit_length(), _LAST_BUCKET)] += 1

    def record_slow(self, session: Session, request: list[bytes], duration_ns: int) -> None:
        """Keep a call in the slow log, if it is slow."""
        log = self.slow_log
        if 0 <= log.threshold_us * 1000 < duration_ns:
            log.add(
                request,
                self.clock.now_s,
                duration_ns // 1000,
                session.address,
                session.name,
                session.job_id,
            )

    def took_long(self, session: Session, command: Command, duration_ns: int) -> None:
        """Have the latency monitor note a call."""
        event = "fast-command" if "fast" in command.flags else "command"
        duration_ms = duration_ns // 1_000_000
        self.latency.add(session.job_id, event, self.clock.now_s, duration_ms)

    def record_wait(
        self, session: Session, command: Command, request: list[bytes], duration_ms: int
    ) -> None:
        """Note a call that only let its client wait, where Redis's would have taken so long."""
        duration_ns = duration_ms * 1_000_000
        if 0 < self.latency_threshold_ns <= duration_ns:
            self.took_long(session, command, duration_ns)
        self.record_slow(session, request, duration_ns)

    def reset_stats(self) -> None:
        """Count commands and errors from zero again: CONFIG RESETSTAT."""
        self.command_stats.clear()
        self.error_stats.clear()
        self.connections_received = 0
        self.connections_rejected = 0
        self.commands_processed = 0

    def record_refusal(self, reply: ErrorReply, command: Command | None) -> None:
        """Count a request that did not reach its handler; `command` is its record if known."""
        if command is not None:
            stats = self.command_stats.get(command.name)
            if stats is None:
                stats = self.command_stats[command.name] = CommandStats()
            stats.rejected += 1
        self._count_error(reply)

    def record_late_error(self, session: Session, reply: ErrorReply) -> None:
        """Count the error that a client was told which had waited in a command."""
        stats = self.command_stats.get(session.last_command)
        if stats is not None:
            stats.failed += 1
        self._count_error(reply)

    def _count_error(self, reply: ErrorReply) -> None:
        """Count an error reply by its code, as INFO errorstats does, unless it has been."""
        if isinstance(reply, ScriptErrorReply) and reply.is_counted:
            return
        end = reply.text.find(b" ", 0, _CODE_BYTES_MAX)
        code = reply.text[:end].decode("ascii", "replace") if end >= 0 else "ERR"
        if code in self.error_stats or len(self.error_stats) < limits.ERROR_CODES_MAX:
            self.error_stats[code] = self.error_stats.get(code, 0) + 1
