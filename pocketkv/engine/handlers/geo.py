"""Geo commands on single places. Places are members of a sorted set, whose scores are geohashes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import parse_double
from pocketkv.engine.commands import ONE_KEY, command
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.geohash import (
    LATITUDE_MAX,
    LONGITUDE_MAX,
    decode,
    distance_m,
    encode,
    text_of,
)
from pocketkv.engine.handlers.sorted_sets import CH, NX, XX, put_scores, read_sorted_set
from pocketkv.resp.replies import NULL_ARRAY, Encoded, Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_UNIT: Final = b"ERR unsupported unit provided. please use M, KM, FT, MI"
_OPTIONS: Final = {b"NX": NX, b"XX": XX, b"CH": CH}
_UNITS_M: Final = {b"M": 1.0, b"KM": 1000.0, b"FT": 0.3048, b"MI": 1609.34}


def parse_place(longitude: bytes, latitude: bytes) -> tuple[float, float]:
    """A longitude and a latitude.

    Raises:
        CommandError: They are no numbers, or no place is there.
    """
    place = parse_double(longitude), parse_double(latitude)
    if abs(place[0]) > LONGITUDE_MAX or abs(place[1]) > LATITUDE_MAX:
        raise CommandError(b"ERR invalid longitude,latitude pair %f,%f" % place)
    return place


def parse_unit(text: bytes) -> float:
    """A unit of length, in metres.

    Raises:
        CommandError: It is none.
    """
    unit_m = _UNITS_M.get(text.upper())
    if unit_m is None:
        raise CommandError(_UNIT)
    return unit_m


def degrees_reply(session: Session, degrees: float) -> Reply:
    """A longitude or latitude, with up to 17 decimals."""
    text = (b"%.17f" % degrees).rstrip(b"0").rstrip(b".")
    if text == b"-0":
        text = b"0"
    return Encoded(b",%b\r\n" % text) if session.protocol == 3 else text


@command(
    "GEOADD",
    arity=-5,
    flags="write denyoom",
    group="geo",
    since="3.2.0",
    complexity="O(log(N)) for each place, where N is the size of the sorted set",
    summary="Adds places to a sorted set, or moves them.",
    usage="key [NX | XX] [CH] longitude latitude member [longitude latitude member ...]",
    keys=ONE_KEY,
    key_flags="RW update",
)
def geoadd(session: Session, request: list[bytes]) -> Reply:
    """Answers how many places are new (CH: or moved)."""
    options = 0
    first = 2
    while first < len(request):
        option = _OPTIONS.get(request[first].upper())
        if option is None:
            break
        options |= option
        first += 1
    count = len(request) - first
    if count == 0 or count % 3 or (options & NX and options & XX):
        raise CommandError(SYNTAX)
    scores = [
        float(encode(*parse_place(request[i], request[i + 1])))
        for i in range(first, len(request), 3)
    ]
    return put_scores(session, request[1], scores, request[first + 2 :: 3], options)


@command(
    "GEODIST",
    arity=-4,
    flags="readonly",
    group="geo",
    since="3.2.0",
    complexity="O(1)",
    summary="The distance of two places.",
    usage="key member1 member2 [M | KM | FT | MI]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def geodist(session: Session, request: list[bytes]) -> Reply:
    """Answers it with four decimals, or null if one of the places is not there."""
    unit_m = parse_unit(request[4]) if len(request) == 5 else 1.0
    if len(request) > 5:
        raise CommandError(SYNTAX)
    value = read_sorted_set(session, request[1])
    if value is None:
        return None
    score, other = value.score(request[2]), value.score(request[3])
    if score is None or other is None:
        return None
    return b"%.4f" % (distance_m(*decode(score), *decode(other)) / unit_m)


@command(
    "GEOHASH",
    arity=-2,
    flags="readonly",
    group="geo",
    since="3.2.0",
    complexity="O(1) for each place",
    summary="The geohashes of places.",
    usage="key member [member ...]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def geohash(session: Session, request: list[bytes]) -> Reply:
    """Answers eleven characters, or null, for each."""
    value = read_sorted_set(session, request[1])
    scores = [None if value is None else value.score(member) for member in request[2:]]
    return [None if score is None else text_of(score) for score in scores]


@command(
    "GEOPOS",
    arity=-2,
    flags="readonly",
    group="geo",
    since="3.2.0",
    complexity="O(1) for each place",
    summary="The longitudes and latitudes of places.",
    usage="key member [member ...]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def geopos(session: Session, request: list[bytes]) -> Reply:
    """Answers a pair, or null, for each."""
    value = read_sorted_set(session, request[1])
    found: list[Reply] = []
    for member in request[2:]:
        score = None if value is None else value.score(member)
        if score is None:
            found.append(NULL_ARRAY)
        else:
            found.append([degrees_reply(session, degrees) for degrees in decode(score)])
    return found
