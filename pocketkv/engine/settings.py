"""Settings: what CONFIG GET shows and CONFIG SET changes, over a table of those that exist.

Redis's settings of what PocketKV does not have are taken and shown, and nothing comes of them (see
`unused_settings`). Settings are a node's, so changing one takes an administrator; what
a job may know of its own (its quota) is read through its session.

The values that handlers ask for are attributes of `Settings`, called like the setting with ``_``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from pocketkv import limits
from pocketkv.engine.acl import acl_in
from pocketkv.engine.arguments import INT32_MAX, INT64_MAX, Glob, canonical_integer
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.key_eviction import NO_EVICTION, POLICIES, KeyEviction
from pocketkv.engine.notifications import flag_letters, parse_flags
from pocketkv.engine.pubsub import pubsub_in
from pocketkv.engine.quotas import limit
from pocketkv.engine.setting_kinds import Choice, Number, SettingError, parse_amount, parse_flag
from pocketkv.engine.unused_settings import HIDDEN, UNUSED, UNUSED_ALIASES

if TYPE_CHECKING:
    from pocketkv.engine.keyspace import JobSpace
    from pocketkv.engine.node import Node
    from pocketkv.engine.session import Session

# What goes when memory is made smaller; the rest goes with the writes that come.
_EVICTED_AT_ONCE: Final = 10_000
_IMMUTABLE: Final = "can't set immutable config"
_NOT_MOVED: Final = "Unable to listen on this port: the server stays on the one it began with"
# How often connections are looked at that may have been idle for too long.
_IDLE_SWEEP_MS: Final = 1000


class Settings:
    """The changeable values of one node, each as `_STORED` says."""

    # Encodings of values: the largest that is kept in the compact form.
    set_max_intset_entries: int
    list_max_listpack_size: int
    list_compress_depth: int
    hash_max_listpack_entries: int
    hash_max_listpack_value: int
    zset_max_listpack_entries: int
    zset_max_listpack_value: int
    hll_sparse_max_bytes: int
    stream_node_max_bytes: int
    stream_node_max_entries: int
    # Keys that clients of a job may keep copies of (CLIENT TRACKING); 0: no limit.
    tracking_table_max_keys: int
    # Calls that take so many milliseconds are shown by LATENCY; 0: none.
    latency_monitor_threshold: int
    # Refusals that ACL LOG shows.
    acllog_max_len: int
    # Scripts that run for longer may be killed.
    busy_reply_threshold: int
    # Connections that are idle for longer, in seconds, are closed; 0: none.
    timeout: int

    def __init__(self) -> None:
        # Whether memory is kept compact in the background.
        self.activedefrag = True
        # Which channels a new user hears of.
        self.acl_pubsub_default = b"resetchannels"
        self.maxmemory_policy = NO_EVICTION
        # Whether it was set to 0, which is then shown, as programs put back what they have seen.
        self.is_maxmemory_zero = False
        # Whether scripts may call what they must not: DEBUG SET-DISABLE-DENY-SCRIPTS.
        self.scripts_may_all = False
        # From how many unread bytes on a subscriber is dropped; the soft limit and its time are
        # only shown.
        self.pubsub_limits = (limits.PUSH_BACKLOG_MAX_BYTES, 8 * limits.MIB, 60)
        for name, (_, default) in _STORED.items():
            setattr(self, _attribute(name), default)
        # What was set of `UNUSED`.
        self.unused: dict[str, bytes] = {}


# Settings whose value is kept here, with their defaults, which are Redis's.
_STORED: Final[dict[str, tuple[Number, int]]] = {
    "timeout": (Number(0, INT32_MAX), 0),
    "set-max-intset-entries": (Number(0, INT64_MAX), 512),
    "list-max-listpack-size": (Number(-INT32_MAX - 1, INT32_MAX), -2),
    "list-compress-depth": (Number(0, INT32_MAX), 0),
    "hash-max-listpack-entries": (Number(0, INT64_MAX), 512),
    "hash-max-listpack-value": (Number(0, INT64_MAX, is_amount=True), 64),
    "zset-max-listpack-entries": (Number(0, INT64_MAX), 128),
    "zset-max-listpack-value": (Number(0, INT64_MAX, is_amount=True), 64),
    "hll-sparse-max-bytes": (Number(0, INT64_MAX, is_amount=True), 3000),
    "stream-node-max-bytes": (Number(0, INT64_MAX, is_amount=True), 4096),
    "stream-node-max-entries": (Number(0, INT64_MAX), 100),
    "tracking-table-max-keys": (Number(0, INT64_MAX), 1_000_000),
    "latency-monitor-threshold": (Number(0, INT64_MAX), 0),
    "acllog-max-len": (Number(0, INT64_MAX), 128),
    "busy-reply-threshold": (Number(0, INT64_MAX), 5000),
}

# Redis's other names of the same settings.
_ALIASES: Final = {
    "list-max-ziplist-size": "list-max-listpack-size",
    "hash-max-ziplist-entries": "hash-max-listpack-entries",
    "hash-max-ziplist-value": "hash-max-listpack-value",
    "zset-max-ziplist-entries": "zset-max-listpack-entries",
    "zset-max-ziplist-value": "zset-max-listpack-value",
    "lua-time-limit": "busy-reply-threshold",
    "slave-read-only": "replica-read-only",
    "slaveof": "replicaof",
    **UNUSED_ALIASES,
}


_REPLICAS: Final = ("min-replicas-to-write", "min-replicas-max-lag")


# --- the table ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        read: Its value, as a client of a job sees it.
        parse: Reads a new value, or raises `SettingError`.
        write: Puts a value into force; ``None``: it cannot be changed while the server runs.
        write_in_job: The same of what is each job's own, and its clients may change.
        initial: Its value in a job that has not set it, if all nodes of a cluster are to have the
            job's value (see `job_terms`).
    """

    name: str
    read: Callable[[Session], bytes]
    parse: Callable[[bytes], Any]
    write: Callable[[Node, Any], None] | None = None
    write_in_job: Callable[[Node, JobSpace, Any], None] | None = None
    initial: str | None = None


def _attribute(name: str) -> str:
    return name.replace("-", "_")


def _number(value: int) -> bytes:
    return b"%d" % value


def _stored(name: str, kind: Number) -> Setting:
    attribute = _attribute(name)

    def read(session: Session) -> bytes:
        return _number(getattr(session.node.settings, attribute))

    def write(node: Node, value: int) -> None:
        setattr(node.settings, attribute, value)
        if name == "timeout":
            _sweep_idle_later(node)
        elif name == "latency-monitor-threshold":
            node.latency_threshold_ns = value * 1_000_000

    return Setting(name, read, kind.parse, write)


def _unused(name: str) -> Setting:
    kind, default = UNUSED[name]

    def read(session: Session) -> bytes:
        return session.node.settings.unused.get(name, default)

    def write(node: Node, value: bytes) -> None:
        unused = node.settings.unused
        unused[name] = value
        # Whoever asks for replicas must not be told that something has been written to them.
        wanted, lag = (int(unused.get(of, UNUSED[of][1])) for of in _REPLICAS)
        node.lacks_replicas = wanted > 0 and lag > 0

    return Setting(name, read, kind.shown, write)


def _immutable(name: str, read: Callable[[Session], bytes | str | int]) -> Setting:
    def shown(session: Session) -> bytes:
        value = read(session)
        return value if isinstance(value, bytes) else str(value).encode()

    return Setting(name, shown, bytes, None)


_BAD_OUTPUT_LIMITS: Final = (
    "Error in hard, soft or soft_seconds setting in buffer limit configuration."
)
_OUTPUT_CLASSES: Final = ("normal", "slave", "replica", "pubsub")


def _read_output_limits(session: Session) -> bytes:
    hard, soft, seconds = session.node.settings.pubsub_limits
    others = "normal 0 0 0 slave 268435456 67108864 60"
    return f"{others} pubsub {hard} {soft} {seconds}".encode()


def _parse_output_limits(text: bytes) -> tuple[int, int, int] | None:
    """The limits of subscribers; ``None``: only those of others are named."""
    words = text.split()
    found = None
    if len(words) % 4 or not words:
        raise SettingError("Wrong number of arguments in buffer limit configuration.")
    for i in range(0, len(words), 4):
        kind = words[i].decode("latin-1").lower()
        hard, soft = parse_amount(words[i + 1]), parse_amount(words[i + 2])
        seconds = canonical_integer(words[i + 3])
        if kind not in _OUTPUT_CLASSES or hard is None or soft is None or seconds is None:
            raise SettingError(_BAD_OUTPUT_LIMITS)
        if kind == "pubsub":
            found = hard, soft, seconds
    return found


def _write_output_limits(node: Node, found: tuple[int, int, int] | None) -> None:
    if found is None:
        return
    node.settings.pubsub_limits = found
    for session in node.sessions.values():
        session.limit_pushes()


def _read_maxmemory(session: Session) -> bytes:
    if session.node.settings.is_maxmemory_zero:
        return b"0"
    return _number(session.node.memory_limit_bytes(session.job_id))


def _parse_maxmemory(text: bytes) -> int:
    amount = parse_amount(text)
    if amount is None:
        raise SettingError("argument must be a memory value")
    return amount


def _write_maxmemory(node: Node, memory_bytes: int) -> None:
    # In Redis 0 means no limit; here it means what the server was started with.
    node.keyspace.memory_bytes = memory_bytes or node.memory_bytes
    node.settings.is_maxmemory_zero = memory_bytes == 0
    for space in node.keyspace.spaces.values():
        _evict_some(node, space)


def _evict_some(node: Node, space: JobSpace) -> None:
    """Have some of what is too much go at once, if it may."""
    if node.keyspace.eviction is not None:
        node.keyspace.eviction.make_room(space, 0, keys_max=_EVICTED_AT_ONCE)


def _read_policy(session: Session) -> bytes:
    return session.node.settings.maxmemory_policy.encode()


def _write_policy(node: Node, value: bytes) -> None:
    policy = value.decode()
    node.settings.maxmemory_policy = policy
    keyspace = node.keyspace
    is_fixed = policy == NO_EVICTION
    keyspace.evict_by(None if is_fixed else KeyEviction(policy, keyspace.randomness))


def _write_bulk_bytes_max(node: Node, value: int) -> None:
    node.bulk_bytes_max = value
    for session in node.sessions.values():
        session.limit_input()


def _read_bulk_bytes_max(session: Session) -> bytes:
    return _number(session.node.bulk_bytes_max)


def _write_request_bytes_max(node: Node, value: int) -> None:
    node.request_bytes_max = value
    for session in node.sessions.values():
        session.limit_input()


def _read_request_bytes_max(session: Session) -> bytes:
    return _number(session.node.request_bytes_max)


def _read_slow_threshold(session: Session) -> bytes:
    return _number(session.node.slow_log.threshold_us)


def _read_slow_length(session: Session) -> bytes:
    return _number(session.node.slow_log.length_max)


def _read_port(session: Session) -> int:
    return session.node.port


def _read_host(session: Session) -> str:
    return session.node.host


def _read_clustered(session: Session) -> str:
    return "yes" if session.node.clustered else "no"


def _read_defragment(session: Session) -> bytes:
    return b"yes" if session.node.settings.activedefrag else b"no"


def _write_defragment(node: Node, value: bool) -> None:
    node.settings.activedefrag = value


def _write_slow_threshold(node: Node, value: int) -> None:
    node.slow_log.threshold_us = value


def _write_slow_length(node: Node, value: int) -> None:
    node.slow_log.length_max = value
    node.slow_log.trim()


def _read_password(session: Session) -> bytes:
    acl = session.space.acl
    return b"" if acl is None else acl.shown_password


def _write_password(node: Node, space: JobSpace, password: bytes) -> None:
    """On a server alone: the password of the user ``default``; empty: it needs none."""
    acl = acl_in(space)
    acl.shown_password = password
    acl.default.apply(b"resetpass" if password else b"nopass")
    if password:
        acl.default.apply(b">" + password)


def _write_channels_of_new_users(node: Node, rule: bytes) -> None:
    node.settings.acl_pubsub_default = rule


def _parse_notify_flags(text: bytes) -> int:
    flags = parse_flags(text.decode("latin-1"))
    if flags is None:
        raise SettingError("Invalid event class character. Use 'Ag$lshzxeKEtmdn'.")
    return flags


def _write_notify_flags(node: Node, space: JobSpace, flags: int) -> None:
    # Who hears of it is found when there is something to tell.
    space.notifier = pubsub_in(space, node.listening)
    space.notify_flags = flags


# What is so for as long as the server runs, and Redis would let clients change.
_MAY_BE_REPEATED: Final = frozenset(("bind", "maxclients", "maxmemory", "port", "tls-port"))

_LIVE: Final = (
    Setting("maxmemory", _read_maxmemory, _parse_maxmemory, _write_maxmemory),
    Setting(
        "proto-max-bulk-len",
        _read_bulk_bytes_max,
        Number(limits.MIB, INT64_MAX, is_amount=True).parse,
        _write_bulk_bytes_max,
    ),
    Setting(
        "slowlog-log-slower-than",
        _read_slow_threshold,
        Number(-1, INT64_MAX).parse,
        _write_slow_threshold,
    ),
    Setting(
        "slowlog-max-len",
        _read_slow_length,
        Number(0, INT64_MAX).parse,
        _write_slow_length,
    ),
    Setting(
        "client-output-buffer-limit",
        _read_output_limits,
        _parse_output_limits,
        _write_output_limits,
    ),
    _immutable("databases", lambda session: limits.DATABASES),
    _immutable("port", _read_port),
    _immutable("bind", _read_host),
    _immutable("maxclients", lambda session: limits.CONNECTIONS_MAX),
    _immutable("cluster-enabled", _read_clustered),
    _immutable("tcp-backlog", lambda session: limits.LISTEN_BACKLOG),
    Setting(
        "client-query-buffer-limit",
        _read_request_bytes_max,
        Number(limits.MIB, INT64_MAX, is_amount=True).parse,
        _write_request_bytes_max,
    ),
    _immutable("io-threads", lambda session: 1),
    _immutable("unixsocket", lambda session: ""),
    _immutable("tls-port", lambda session: 0),
    Setting("maxmemory-policy", _read_policy, Choice(POLICIES).shown, _write_policy),
    Setting("requirepass", _read_password, bytes, write_in_job=_write_password),
    Setting(
        "acl-pubsub-default",
        lambda session: session.node.settings.acl_pubsub_default,
        Choice(("resetchannels", "allchannels")).shown,
        _write_channels_of_new_users,
    ),
    _immutable("aclfile", lambda session: ""),
    _immutable("replicaof", lambda session: ""),
    _immutable("daemonize", lambda session: "no"),
    _immutable("supervised", lambda session: "no"),
    Setting(
        "notify-keyspace-events",
        lambda session: flag_letters(session.space.notify_flags).encode(),
        _parse_notify_flags,
        write_in_job=_write_notify_flags,
        initial="",
    ),
    Setting("activedefrag", _read_defragment, parse_flag, _write_defragment),
)

_TABLE: Final[dict[str, Setting]] = {
    setting.name: setting
    for setting in (
        *_LIVE,
        *(_stored(name, kind) for name, (kind, _) in _STORED.items()),
        *map(_unused, UNUSED),
    )
}
_NAMES: Final = {**{name: name for name in _TABLE}, **_ALIASES}


# --- CONFIG GET and CONFIG SET -----------------------------------------------------------------


def find_settings(session: Session, patterns: list[bytes]) -> dict[bytes, bytes]:
    """The values of all settings whose names fit one of the patterns, in any case of letters."""
    found: dict[bytes, bytes] = {}
    for pattern in patterns:
        lowered = pattern.lower()
        exact = _NAMES.get(lowered.decode("latin-1"))
        if exact is not None:
            # Redis shows a name that was given in full as it was given, the first time.
            if not any(shown.lower() == lowered for shown in found):
                found[pattern] = _TABLE[exact].read(session)
            continue
        glob = Glob(lowered)
        for name, real_name in _NAMES.items():
            if name not in HIDDEN and glob.matches(name.encode()):
                found[name.encode()] = _TABLE[real_name].read(session)
    return found


def follow_job_settings(node: Node, job_id: str, wanted: Mapping[str, str]) -> None:
    """Have a job's own settings as its terms say; those that they do not name, as at first."""
    space = node.keyspace.open(job_id)
    for setting in _TABLE.values():
        if setting.write_in_job is not None and setting.initial is not None:
            text = wanted.get(setting.name, setting.initial).encode("utf-8", "surrogateescape")
            setting.write_in_job(node, space, setting.parse(text))


def changes_jobs_only(pairs: list[tuple[bytes, bytes]]) -> bool:
    """Whether all settings that are named are the job's own."""
    settings = [_TABLE.get(_NAMES.get(name.lower().decode("latin-1"), "")) for name, _ in pairs]
    return all(s is not None and s.write_in_job is not None for s in settings)


def change_settings(
    session: Session, pairs: list[tuple[bytes, bytes]], *, leaves_terms: bool = False
) -> list[tuple[bytes, bytes]]:
    """Change several settings, or none of them.

    Returns those that all nodes are to have, which are left as they are if it `leaves_terms`.

    Raises:
        CommandError: A name that there is not, twice the same, or a value that cannot be.
    """
    node = session.node
    settings = _settings_to_change(session, pairs)
    values = []
    for (name, text), setting in zip(pairs, settings, strict=True):
        try:
            values.append(setting.parse(text))
        except SettingError as error:
            raise _failed(name.lower(), str(error)) from None
    left = []
    for (_, text), setting, value in zip(pairs, settings, values, strict=True):
        if leaves_terms and setting.initial is not None:
            left.append((setting.name.encode(), text))
        elif setting.write_in_job is not None:
            setting.write_in_job(node, session.space, value)
        elif setting.name == "maxmemory" and not node.alone:
            # The server's memory is what all of its jobs have; this is the job's own.
            limit(session.space, value)
            _evict_some(node, session.space)
        elif setting.write is not None:
            setting.write(node, value)
    return left


def _may_evict(node: Node, policy: bytes) -> bool:
    """Whether keys may go by a policy: where values have another place, none does."""
    return node.keyspace.store is None or policy.lower() == NO_EVICTION.encode()


def _settings_to_change(session: Session, pairs: list[tuple[bytes, bytes]]) -> list[Setting]:
    node = session.node
    settings: list[Setting] = []
    refusal: CommandError | None = None
    for name, value in pairs:
        real_name = _NAMES.get(name.lower().decode("latin-1"))
        if real_name is None:
            # Redis names the first setting that is wrong, and the last one that it may not change.
            raise refusal or CommandError(
                b"ERR Unknown option or number of arguments for CONFIG SET - '%b'" % name
            )
        setting = _TABLE[real_name]
        is_fixed = setting.write is None and setting.write_in_job is None
        # Programs put back what they have seen.
        is_same = real_name in _MAY_BE_REPEATED and value == setting.read(session)
        if not is_same and is_fixed:
            refusal = _failed(name, _NOT_MOVED if real_name == "port" else _IMMUTABLE)
        elif setting in settings:
            refusal = _failed(name, "duplicate parameter")
        elif is_same:
            pass
        elif real_name == "maxmemory-policy" and not _may_evict(node, value):
            refusal = _failed(name, "what does not fit into memory goes to this server's medium")
        elif real_name == "requirepass" and value and not node.alone:
            refusal = _failed(name, "passwords are the tokens of jobs")
        settings.append(setting)
    if refusal is not None:
        raise refusal
    return settings


def _failed(name: bytes, reason: str) -> CommandError:
    return CommandError(
        b"ERR CONFIG SET failed (possibly related to argument '%b') - %b" % (name, reason.encode())
    )


def parse_pairs(arguments: list[bytes]) -> list[tuple[bytes, bytes]]:
    """Names and values as CONFIG SET has them.

    Raises:
        CommandError: One without the other.
    """
    if len(arguments) % 2:
        raise CommandError(SYNTAX)
    return list(zip(arguments[::2], arguments[1::2], strict=True))


# --- idle connections --------------------------------------------------------------------------


def _sweep_idle_later(node: Node) -> None:
    """See to it that idle connections are closed for as long as `timeout` is set."""
    if node.idle_sweep is not None:
        node.timers.cancel(node.idle_sweep)
        node.idle_sweep = None
    if node.settings.timeout > 0:
        due_ms = node.clock.now_ms + _IDLE_SWEEP_MS
        node.idle_sweep = node.timers.at(due_ms, lambda: _sweep_idle(node))


def _sweep_idle(node: Node) -> None:
    idle_since_ms = node.clock.now_ms - node.settings.timeout * 1000
    for session in list(node.sessions.values()):
        # Who waits in a blocking command is not idle, nor is a router whose clients are.
        if session.last_active_ms < idle_since_ms and not session.blocked and not session.proxied:
            session.transport.close()
    _sweep_idle_later(node)
