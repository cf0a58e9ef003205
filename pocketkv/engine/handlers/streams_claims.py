"""Stream commands: what consumers have not acknowledged, and how others take it over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import INT64_MAX, c_string, parse_int
from pocketkv.engine.changes import tell_noted
from pocketkv.engine.commands import ONE_KEY, command
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.gate import require_memory
from pocketkv.engine.handlers.streams import read_stream
from pocketkv.engine.notifications import STREAM
from pocketkv.engine.stream_entries import signed
from pocketkv.engine.stream_groups import PENDING_BYTES, Consumer, Group
from pocketkv.engine.stream_ids import ID_MAX, format_id, parse_end, parse_id, parse_start
from pocketkv.engine.stream_value import StreamValue
from pocketkv.resp.replies import NULL_ARRAY, Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_NO_GROUP: Final = b"NOGROUP No such key '%b' or consumer group '%b'"
_BAD_IDLE: Final = b"ERR Invalid min-idle-time argument for %b"
_BAD_OPTION: Final = b"ERR Invalid %b option argument for XCLAIM"
_UNKNOWN_OPTION: Final = b"ERR Unrecognized XCLAIM option '%b'"
_COUNT_NOT_POSITIVE: Final = b"ERR COUNT must be > 0"

# With the name.
_SUMMARY_ARGUMENTS: Final = 3
_RANGE_ARGUMENTS_MIN: Final = 6
_RANGE_ARGUMENTS_MAX: Final = 9
_IDLE_ARGUMENTS_MIN: Final = 8

# Entries that XAUTOCLAIM looks at for each that it may answer.
_ATTEMPTS_FACTOR: Final = 10
_CLAIM_COUNT: Final = 100
_CLAIM_COUNT_MAX: Final = INT64_MAX // 16
# Deliveries that are looked through at a time.
_STEP: Final = 256
# More forced deliveries than these are looked at whether there is memory for them.
_MANY_CLAIMS: Final = 64


def _find_group(session: Session, request: list[bytes]) -> tuple[StreamValue, Group]:
    value = read_stream(session.db, request[1])
    group = None if value is None else value.groups.get(request[2])
    if value is None or group is None:
        raise CommandError(_NO_GROUP % (c_string(request[1]), c_string(request[2])))
    return value, group


# --- XPENDING ----------------------------------------------------------------------------------


@command(
    "XPENDING",
    arity=-3,
    flags="readonly",
    group="stream",
    since="5.0.0",
    complexity="O(N) where N is the number of deliveries that are looked at, or of consumers",
    summary="What was delivered in a group and not acknowledged.",
    usage="key group [[IDLE min-idle-time] start end count [consumer]]",
    keys=ONE_KEY,
    key_flags="RO access",
    tips="nondeterministic_output",
)
def xpending(session: Session, request: list[bytes]) -> Reply:
    """Answers how many there are, the first, the last and whose; or a part of them one by one."""
    count = len(request)
    if count == _SUMMARY_ARGUMENTS:
        return _pending_summary(_find_group(session, request)[1])
    if not _RANGE_ARGUMENTS_MIN <= count <= _RANGE_ARGUMENTS_MAX:
        raise CommandError(SYNTAX)
    at = 3
    idle_ms = 0
    if request[3].upper() == b"IDLE":
        idle_ms = parse_int(request[4])
        if count < _IDLE_ARGUMENTS_MIN:
            raise CommandError(SYNTAX)
        at = 5
    wanted = max(0, parse_int(request[at + 2]))
    start = parse_start(request[at])
    end = parse_end(request[at + 1])
    _, group = _find_group(session, request)
    pending = group.pending
    if at + 3 < count:
        consumer = group.consumers.get(request[at + 3])
        if consumer is None:
            return []
        pending = consumer.pending
    now_ms = session.node.clock.now_ms
    found: list[Reply] = []
    while len(found) < wanted:
        some = pending.some(start, end, min(wanted, _STEP))
        if not some:
            break
        for entry_id, delivery in some:
            elapsed_ms = now_ms - delivery.delivered_ms
            if (idle_ms and elapsed_ms < idle_ms) or len(found) == wanted:
                continue
            found.append(
                [
                    format_id(entry_id),
                    delivery.consumer.name,
                    max(0, elapsed_ms),
                    delivery.count,
                ]
            )
        start = some[-1][0] + 1
    return found


def _pending_summary(group: Group) -> Reply:
    pending = group.pending
    if len(pending) == 0:
        return [0, None, None, NULL_ARRAY]
    consumers: list[Reply] = []
    for name in group.consumer_names():
        count = len(group.consumers[name].pending)
        if count:
            consumers.append([name, b"%d" % count])
    return [len(pending), format_id(pending.first()), format_id(pending.last()), consumers]


# --- XCLAIM ------------------------------------------------------------------------------------


class _Claim:
    """The options of XCLAIM.

    Attributes:
        idle_ms: How long a delivery must have been.
        ids: The entries.
        delivered_ms: When they are said to be delivered.
        count: How often, if not once more; -1: not given.
        forced: Whether entries that nobody has are delivered, too.
        ids_only: JUSTID.
        last_id: What the group is said to have read, at least.
    """

    __slots__ = ("count", "delivered_ms", "forced", "idle_ms", "ids", "ids_only", "last_id")

    def __init__(self, request: list[bytes], now_ms: int) -> None:
        self.idle_ms = max(0, parse_int(request[4], _BAD_IDLE % b"XCLAIM"))
        self.ids: list[int] = []
        self.delivered_ms = now_ms
        self.count = -1
        self.forced = False
        self.ids_only = False
        self.last_id = 0
        i = 5
        while i < len(request):
            try:
                self.ids.append(parse_id(request[i]))
            except CommandError:
                break
            i += 1
        self._parse_options(request, i, now_ms)

    def _parse_options(self, request: list[bytes], i: int, now_ms: int) -> None:
        time_ms = -1
        while i < len(request):
            option = request[i].upper()
            has_argument = i + 1 < len(request)
            if option == b"FORCE":
                self.forced = True
            elif option == b"JUSTID":
                self.ids_only = True
            elif option in (b"IDLE", b"TIME", b"RETRYCOUNT") and has_argument:
                i += 1
                number = parse_int(request[i], _BAD_OPTION % option)
                if option == b"RETRYCOUNT":
                    self.count = max(-1, number)
                else:
                    time_ms = number if option == b"TIME" else now_ms - number
            elif option == b"LASTID" and has_argument:
                i += 1
                self.last_id = parse_id(request[i])
            else:
                raise CommandError(_UNKNOWN_OPTION % c_string(request[i]))
            i += 1
        # A time that cannot be, as of a clock that is ahead, is now.
        self.delivered_ms = time_ms if 0 <= time_ms <= now_ms else now_ms


@command(
    "XCLAIM",
    arity=-6,
    flags="write fast",
    group="stream",
    since="5.0.0",
    complexity="O(log N) for each entry, where N is the number of the group's deliveries",
    summary="Takes over entries that were delivered to others.",
    usage="key group consumer min-idle-time id [id ...] [IDLE ms] [TIME unix-time-milliseconds]"
    " [RETRYCOUNT count] [FORCE] [JUSTID] [LASTID id]",
    keys=ONE_KEY,
    key_flags="RW update",
    tips="nondeterministic_output",
)
def xclaim(session: Session, request: list[bytes]) -> Reply:
    """Answers the entries that were taken over, with JUSTID their ids."""
    value, group = _find_group(session, request)
    now_ms = session.node.clock.now_ms
    claim = _Claim(request, now_ms)
    if claim.forced and len(claim.ids) > _MANY_CLAIMS:
        require_memory(session, PENDING_BYTES * len(claim.ids))
    db = session.db
    key = request[1]
    before_bytes = value.size_bytes
    if claim.last_id > group.last_id:
        value.set_group(group.name, claim.last_id, group.entries_read)
    found: list[Reply] = []
    claimed: list[int] = []
    consumer = None
    for entry_id in claim.ids:
        pending = group.pending.get(entry_id)
        if entry_id not in value:
            # Nobody can have it any more.
            value.settle(group, [entry_id])
            continue
        if pending is None:
            if not claim.forced:
                continue
            count = 1
        else:
            if claim.idle_ms and now_ms - pending.delivered_ms < claim.idle_ms:
                continue
            count = pending.count
        if claim.count >= 0:
            count = claim.count
        elif not claim.ids_only:
            count = signed(count + 1)
        if consumer is None:
            consumer = _claimer(session, request, value, group)
        value.deliver(group, entry_id, consumer, claim.delivered_ms, count)
        claimed.append(entry_id)
        found.append(format_id(entry_id) if claim.ids_only else value.entry(entry_id))
    value.note_deliveries(group, claimed)
    tell_noted(db, key, value.size_bytes - before_bytes)
    return found


def _claimer(session: Session, request: list[bytes], value: StreamValue, group: Group) -> Consumer:
    """The consumer who claims something, and perhaps is new."""
    count = len(group.consumers)
    consumer = value.see_consumer(group, request[3], session.node.clock.now_ms)
    if len(group.consumers) != count:
        session.db.notify(STREAM, b"xgroup-createconsumer", request[1])
    return consumer


@command(
    "XAUTOCLAIM",
    arity=-6,
    flags="write fast",
    group="stream",
    since="6.2.0",
    complexity="O(1) if the count is small",
    summary="Takes over entries that were delivered to others a while ago, some at a time.",
    usage="key group consumer min-idle-time start [COUNT count] [JUSTID]",
    keys=ONE_KEY,
    key_flags="RW delete",
    tips="nondeterministic_output",
)
def xautoclaim(session: Session, request: list[bytes]) -> Reply:
    """Answers where to go on, what was taken over, and the ids of entries that are no more."""
    idle_ms = max(0, parse_int(request[4], _BAD_IDLE % b"XAUTOCLAIM"))
    start = parse_start(request[5])
    count = _CLAIM_COUNT
    ids_only = False
    i = 6
    while i < len(request):
        option = request[i].upper()
        if option == b"COUNT" and i + 1 < len(request):
            i += 1
            count = parse_int(request[i], _COUNT_NOT_POSITIVE)
            if not 1 <= count <= _CLAIM_COUNT_MAX:
                raise CommandError(_COUNT_NOT_POSITIVE)
        elif option == b"JUSTID":
            ids_only = True
        else:
            raise CommandError(SYNTAX)
        i += 1
    value, group = _find_group(session, request)
    before_bytes = value.size_bytes
    now_ms = session.node.clock.now_ms
    consumer = None
    claimed: list[int] = []
    gone: list[int] = []
    attempts = count * _ATTEMPTS_FACTOR
    following = start
    while attempts > 0 and count > 0:
        some = group.pending.some(following, ID_MAX, min(attempts, _STEP))
        if not some:
            break
        for entry_id, pending in some:
            if attempts == 0 or count == 0:
                break
            attempts -= 1
            following = entry_id + 1
            if entry_id not in value:
                gone.append(entry_id)
                count -= 1
                continue
            if idle_ms and now_ms - pending.delivered_ms < idle_ms:
                continue
            if consumer is None:
                consumer = _claimer(session, request, value, group)
            times = pending.count if ids_only else signed(pending.count + 1)
            value.deliver(group, entry_id, consumer, now_ms, times)
            claimed.append(entry_id)
            count -= 1
    value.settle(group, gone)
    value.note_deliveries(group, claimed)
    tell_noted(session.db, request[1], value.size_bytes - before_bytes)
    rest = group.pending.some(following, ID_MAX, 1)
    found = [format_id(i) if ids_only else value.entry(i) for i in claimed]
    return [format_id(rest[0][0]) if rest else b"0-0", found, [format_id(i) for i in gone]]
