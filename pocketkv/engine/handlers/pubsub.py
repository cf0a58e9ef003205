"""Pub/sub: what is published on a channel reaches all of the job's clients that have subscribed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import Glob, parse_int_within
from pocketkv.engine.commands import ALL_KEYS, ONE_KEY, command, not_callable
from pocketkv.engine.errors import (
    CLUSTER_DOWN,
    SYNTAX,
    CommandError,
    no_permission,
    wrong_subcommand,
)
from pocketkv.engine.gate import check_slot
from pocketkv.engine.help_text import help_lines
from pocketkv.engine.pubsub import Kind, PubSub, all_of, pubsub_of
from pocketkv.resp.replies import NO_REPLY, OK, Deferred, Push, Reply, Several
from pocketkv.slots import key_slot

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_FLAGS: Final = "pubsub noscript loading stale"
_DENY_BLOCKING: Final = b"ERR SSUBSCRIBE isn't allowed for a DENY BLOCKING client"
_COUNT_RANGE: Final = b"ERR count is out of range"
_KINDS: Final = {b"CHANNEL": Kind.CHANNEL, b"PATTERN": Kind.PATTERN, b"SHARD": Kind.SHARD}
_CLIENTS_MAX: Final = 1 << 31

# --- subscribing -------------------------------------------------------------------------------


@command(
    "SUBSCRIBE",
    arity=-2,
    flags=_FLAGS,
    group="pubsub",
    since="2.0.0",
    complexity="O(N) where N is the number of channels",
    summary="Has the connection told of messages that are published on channels.",
    usage="channel [channel ...]",
)
def subscribe(session: Session, request: list[bytes]) -> Reply:
    """A message for each channel."""
    return _subscribe(session, request, Kind.CHANNEL, b"subscribe")


@command(
    "PSUBSCRIBE",
    arity=-2,
    flags=_FLAGS,
    group="pubsub",
    since="2.0.0",
    complexity="O(N) where N is the number of patterns",
    summary="Has the connection told of messages on channels whose names fit patterns.",
    usage="pattern [pattern ...]",
)
def psubscribe(session: Session, request: list[bytes]) -> Reply:
    """A message for each pattern."""
    return _subscribe(session, request, Kind.PATTERN, b"psubscribe")


@command(
    "SSUBSCRIBE",
    arity=-2,
    flags=_FLAGS,
    group="pubsub",
    since="7.0.0",
    complexity="O(N) where N is the number of channels",
    summary="Has the connection told of messages on channels of this server's slots.",
    usage="shardchannel [shardchannel ...]",
    keys=ALL_KEYS,
    key_flags="not_key",
)
def ssubscribe(session: Session, request: list[bytes]) -> Reply:
    """A message for each channel."""
    if session.denies_blocking:
        raise CommandError(_DENY_BLOCKING)
    return _subscribe(session, request, Kind.SHARD, b"ssubscribe")


def _subscribe(session: Session, request: list[bytes], kind: Kind, word: bytes) -> Reply:
    _require_part_of_job(session)
    pubsub = pubsub_of(session)
    waits: list[Deferred | None] = []
    messages: list[Push] = []
    for name in request[1:]:
        waits.append(pubsub.subscribe(session, kind, name))
        messages.append(Push([word, name, _count(session, kind)]))
    return all_of(waits, _confirmed(session, messages))


def _require_part_of_job(session: Session) -> None:
    """Refuse to subscribe where nothing will be told: at a server without slots of the job.

    Raises:
        CommandError: CLUSTERDOWN, upon which a client looks at the job's map again.
    """
    space = session.space
    if not space.owns_all and session.node.role == "storage" and 1 not in space.given:
        raise CommandError(CLUSTER_DOWN)


def _count(session: Session, kind: Kind) -> int:
    return 0 if session.subscriptions is None else session.subscriptions.count(kind)


def _confirmed(session: Session, messages: list[Push]) -> Reply:
    """What tells of subscriptions: even who wants no replies is told."""
    if not (session.reply_off or session.reply_skip):
        return messages[0] if len(messages) == 1 else Several(list(messages))
    for message in messages:
        session.transport.push(message)
    return NO_REPLY


@command(
    "UNSUBSCRIBE",
    arity=-1,
    flags=_FLAGS,
    group="pubsub",
    since="2.0.0",
    complexity="O(N) where N is the number of channels",
    summary="Ends subscriptions to channels, or to all.",
    usage="[channel [channel ...]]",
)
def unsubscribe(session: Session, request: list[bytes]) -> Reply:
    """A message for each channel."""
    return _unsubscribe(session, request, Kind.CHANNEL, b"unsubscribe")


@command(
    "PUNSUBSCRIBE",
    arity=-1,
    flags=_FLAGS,
    group="pubsub",
    since="2.0.0",
    complexity="O(N) where N is the number of patterns",
    summary="Ends subscriptions to patterns, or to all.",
    usage="[pattern [pattern ...]]",
)
def punsubscribe(session: Session, request: list[bytes]) -> Reply:
    """A message for each pattern."""
    return _unsubscribe(session, request, Kind.PATTERN, b"punsubscribe")


@command(
    "SUNSUBSCRIBE",
    arity=-1,
    flags=_FLAGS,
    group="pubsub",
    since="7.0.0",
    complexity="O(N) where N is the number of channels",
    summary="Ends subscriptions to sharded channels, or to all.",
    usage="[shardchannel [shardchannel ...]]",
    keys=ALL_KEYS,
    key_flags="not_key",
)
def sunsubscribe(session: Session, request: list[bytes]) -> Reply:
    """A message for each channel."""
    return _unsubscribe(session, request, Kind.SHARD, b"sunsubscribe")


def _unsubscribe(session: Session, request: list[bytes], kind: Kind, word: bytes) -> Reply:
    pubsub = pubsub_of(session)
    names = request[1:]
    if not names and session.subscriptions is not None:
        names = list(session.subscriptions.names[kind])
    messages: list[Push] = []
    for name in names:
        pubsub.unsubscribe(session, kind, name)
        messages.append(Push([word, name, _count(session, kind)]))
    if not messages:
        messages.append(Push([word, None, _count(session, kind)]))
    return _confirmed(session, messages)


# --- publishing --------------------------------------------------------------------------------


@command(
    "PUBLISH",
    arity=3,
    flags="pubsub loading stale fast",
    group="pubsub",
    since="2.0.0",
    complexity="O(N+M) where N is the number of subscribers and M the number of patterns",
    summary="Tells all of the job that have subscribed to a channel.",
    usage="channel message",
)
def publish(session: Session, request: list[bytes]) -> Reply:
    """How many were told; in scripts, which do not wait, of those that this server tells itself."""
    space = session.space
    pubsub = space.pubsub
    told = 0 if pubsub is None else pubsub.publish(request[1], request[2])
    forwarder = session.node.forwarder
    if forwarder is None:
        return told
    elsewhere = forwarder.forward(space, request[1], request[2])
    if elsewhere is None or session.in_script:
        return told
    return _sum(told, elsewhere)


def _sum(told: int, elsewhere: Deferred) -> Reply:
    answer = Deferred(exclusive=False)

    def on_known() -> None:
        count = elsewhere.reply
        assert isinstance(count, int)  # What a `Forwarder` answers.
        answer.complete(told + count)

    elsewhere.listen(on_known)
    return answer


@command(
    "SPUBLISH",
    arity=3,
    flags="pubsub loading stale fast",
    group="pubsub",
    since="7.0.0",
    complexity="O(N) where N is the number of subscribers",
    summary="Tells all that have subscribed to a sharded channel.",
    usage="shardchannel message",
    keys=ONE_KEY,
    key_flags="not_key",
)
def spublish(session: Session, request: list[bytes]) -> Reply:
    """How many were told."""
    pubsub = session.space.pubsub
    return 0 if pubsub is None else pubsub.publish_shard(request[1], request[2])


# --- who is there ------------------------------------------------------------------------------

command(
    "PUBSUB",
    arity=-2,
    flags="",
    group="pubsub",
    since="2.8.0",
    complexity="Depends on subcommand.",
    summary="A container for commands about channels.",
)(not_callable)

_ASKS: Final = "pubsub loading stale"


@command(
    "PUBSUB|CHANNELS",
    arity=-2,
    flags=_ASKS,
    group="pubsub",
    since="2.8.0",
    complexity="O(N) where N is the number of channels",
    summary="The channels that somebody has subscribed to.",
    usage="[pattern]",
)
def pubsub_channels(session: Session, request: list[bytes]) -> Reply:
    """Their names, in no order."""
    return _names(session, request, Kind.CHANNEL)


@command(
    "PUBSUB|SHARDCHANNELS",
    arity=-2,
    flags=_ASKS,
    group="pubsub",
    since="7.0.0",
    complexity="O(N) where N is the number of channels",
    summary="The sharded channels that somebody has subscribed to.",
    usage="[pattern]",
)
def pubsub_shardchannels(session: Session, request: list[bytes]) -> Reply:
    """Their names, in no order."""
    return _names(session, request, Kind.SHARD)


def _names(session: Session, request: list[bytes], kind: Kind) -> Reply:
    if len(request) > 3:
        raise wrong_subcommand("pubsub", request[1])
    pubsub = session.space.pubsub
    names = [] if pubsub is None else list(pubsub.subscribers[kind])
    if len(request) == 3:
        glob = Glob(request[2])
        names = [name for name in names if glob.matches(name)]
    return list(names)


@command(
    "PUBSUB|NUMSUB",
    arity=-2,
    flags=_ASKS,
    group="pubsub",
    since="2.8.0",
    complexity="O(N) where N is the number of channels",
    summary="How many have subscribed to channels.",
    usage="[channel [channel ...]]",
)
def pubsub_numsub(session: Session, request: list[bytes]) -> Reply:
    """Each channel and its number, without those who subscribed to patterns."""
    return _numbers(session, request, Kind.CHANNEL)


@command(
    "PUBSUB|SHARDNUMSUB",
    arity=-2,
    flags=_ASKS,
    group="pubsub",
    since="7.0.0",
    complexity="O(N) where N is the number of channels",
    summary="How many have subscribed to sharded channels.",
    usage="[shardchannel [shardchannel ...]]",
)
def pubsub_shardnumsub(session: Session, request: list[bytes]) -> Reply:
    """Each channel and its number."""
    return _numbers(session, request, Kind.SHARD)


def _numbers(session: Session, request: list[bytes], kind: Kind) -> Reply:
    pubsub = session.space.pubsub
    reply: list[Reply] = []
    for name in request[2:]:
        reply += [name, 0 if pubsub is None else sum(pubsub.counts(kind, name))]
    return reply


@command(
    "PUBSUB|NUMPAT",
    arity=2,
    flags=_ASKS,
    group="pubsub",
    since="2.8.0",
    complexity="O(1)",
    summary="How many patterns somebody has subscribed to.",
)
def pubsub_numpat(session: Session, request: list[bytes]) -> Reply:
    """Each pattern counts once."""
    pubsub = session.space.pubsub
    return 0 if pubsub is None else len(pubsub.subscribers[Kind.PATTERN])


@command(
    "PUBSUB|HELP",
    arity=2,
    flags="loading stale",
    group="pubsub",
    since="6.2.0",
    complexity="O(1)",
    summary="What subcommands there are.",
)
def pubsub_help(session: Session, request: list[bytes]) -> Reply:
    """Two lines for each."""
    return help_lines(b"pubsub")


# --- between servers ---------------------------------------------------------------------------


def _require_proxied(session: Session, name: str) -> None:
    if not session.proxied:
        raise no_permission(name)


@command(
    "POCKETKV.PUBLISH",
    arity=4,
    flags="pubsub admin noscript loading stale",
    group="pocketkv",
    since="0.3.0",
    complexity="O(N+M) where N is the number of subscribers and M the number of patterns",
    summary="Tells the clients of this server what was published on another one.",
    usage="job channel message",
)
def internal_publish(session: Session, request: list[bytes]) -> Reply:
    """How many were told; no router is, since it listens at the other server too."""
    _require_proxied(session, "pocketkv.publish")
    # One connection carries messages of all jobs.
    space = session.node.keyspace.spaces.get(request[1].decode("utf-8", "surrogateescape"))
    if space is None or space.pubsub is None:
        return 0
    return space.pubsub.publish(request[2], request[3], listeners=False)


@command(
    "POCKETKV.LISTEN",
    arity=4,
    flags="pubsub admin noscript loading stale",
    group="pocketkv",
    since="0.3.0",
    complexity="O(1)",
    summary="Has a router told what is published, for so many of its clients; 0: not any more.",
    usage="<CHANNEL | PATTERN | SHARD> name count",
)
def internal_listen(session: Session, request: list[bytes]) -> Reply:
    """OK; messages come as to any subscriber. A sharded channel is listened to at its slot's."""
    _require_proxied(session, "pocketkv.listen")
    kind = _KINDS.get(request[1].upper())
    if kind is None:
        raise CommandError(SYNTAX)
    count = parse_int_within(request[3], 0, _CLIENTS_MAX, _COUNT_RANGE)
    if count and kind == Kind.SHARD:
        check_slot(session, key_slot(request[2]))
    pubsub_of(session).listen(session, kind, request[2], count)
    return OK


@command(
    "POCKETKV.PUBSUB",
    arity=-2,
    flags="pubsub admin noscript loading stale",
    group="pocketkv",
    since="0.3.0",
    complexity="O(N) where N is the number of channels",
    summary="Tells a router which channels there are here, or how many have subscribed.",
    usage="<CHANNELS | PATTERNS | SHARDCHANNELS | NUMSUB | SHARDNUMSUB> [name [name ...]]",
)
def internal_pubsub(session: Session, request: list[bytes]) -> Reply:
    """Names; or for each name how many clients of this server, and of routers."""
    _require_proxied(session, "pocketkv.pubsub")
    pubsub = pubsub_of(session)
    word = request[1].upper()
    if word in _NAMES_OF:
        return list(pubsub.subscribers[_NAMES_OF[word]])
    if word not in _NUMBERS_OF:
        raise CommandError(SYNTAX)
    return _pairs(pubsub, _NUMBERS_OF[word], request[2:])


def _pairs(pubsub: PubSub, kind: Kind, names: list[bytes]) -> Reply:
    return [list(pubsub.counts(kind, name)) for name in names]


_NAMES_OF: Final = {
    b"CHANNELS": Kind.CHANNEL,
    b"PATTERNS": Kind.PATTERN,
    b"SHARDCHANNELS": Kind.SHARD,
}
_NUMBERS_OF: Final = {b"NUMSUB": Kind.CHANNEL, b"SHARDNUMSUB": Kind.SHARD}
