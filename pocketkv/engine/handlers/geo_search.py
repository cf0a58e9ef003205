"""Geo commands that search an area: GEOSEARCH, and GEORADIUS, which came before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from pocketkv.engine.arguments import parse_double, parse_int
from pocketkv.engine.commands import ONE_KEY, TWO_KEYS, KeySpec, command
from pocketkv.engine.errors import SYNTAX, CommandError
from pocketkv.engine.geohash import Area, decode
from pocketkv.engine.handlers.geo import degrees_reply, parse_place, parse_unit
from pocketkv.engine.handlers.sorted_sets import read_sorted_set, store
from pocketkv.engine.sorted_set_value import SortedSetValue
from pocketkv.resp.replies import Reply

if TYPE_CHECKING:
    from pocketkv.engine.session import Session

_NO_MEMBER: Final = b"ERR could not decode requested zset member"
_COUNT: Final = b"ERR COUNT must be > 0"
_ANY_WITHOUT_COUNT: Final = b"ERR the ANY argument requires COUNT argument"
_RADIUS: Final = b"ERR need numeric radius"
_RADIUS_NEGATIVE: Final = b"ERR radius cannot be negative"
_WIDTH: Final = b"ERR need numeric width"
_HEIGHT: Final = b"ERR need numeric height"
_SIZE_NEGATIVE: Final = b"ERR height or width cannot be negative"
_FROM: Final = b"ERR exactly one of FROMMEMBER or FROMLONLAT can be specified for %b"
_BY: Final = b"ERR exactly one of BYRADIUS and BYBOX can be specified for %b"
_STORED: Final = b"ERR %b is not compatible with WITHDIST, WITHHASH and WITHCOORD options"

# Members that are looked at before it is asked whether enough were found.
_STEP_MEMBERS: Final = 256

# What a command's options may be beside those of all.
_SEARCH: Final = 1
_SEARCH_STORE: Final = 2
_RADIUS_STORE: Final = 4

_COMPLEXITY: Final = (
    "O(N+M*log(M)) where N is the number of places in the boxes around the area and M in the area"
)
_RADIUS_USAGE: Final = (
    "radius <M | KM | FT | MI> [WITHCOORD] [WITHDIST] [WITHHASH] [COUNT count [ANY]] [ASC | DESC]"
)
_STORE_USAGE: Final = " [STORE key] [STOREDIST key]"
_SEARCH_USAGE: Final = (
    "<FROMMEMBER member | FROMLONLAT longitude latitude> "
    "<BYRADIUS radius <M | KM | FT | MI> | BYBOX width height <M | KM | FT | MI>> "
    "[ASC | DESC] [COUNT count [ANY]]"
)


class Search:
    """What is searched for.

    Args:
        value: Where; ``None``: nowhere, but what is asked for must be right nevertheless.
        takes: Options of this command beside those of all.

    Attributes:
        place: The middle.
        unit_m, radius, width, height: The area's size, as for `Area`.
        with_distance, with_hash, with_place: What is told of each place.
        count: How many are wanted, the nearest ones unless `any`; 0: all.
        order: 1: the nearest first, -1: the farthest first, 0: as they are found.
        store_key: Where they are stored; ``None``: nowhere.
        stores_distance: Whether their distances are.
    """

    __slots__ = (
        "any",
        "count",
        "height",
        "is_placed",
        "is_sized",
        "order",
        "place",
        "radius",
        "store_key",
        "stores_distance",
        "takes",
        "unit_m",
        "value",
        "width",
        "with_distance",
        "with_hash",
        "with_place",
    )

    def __init__(self, value: SortedSetValue | None, takes: int) -> None:
        self.value = value
        self.takes = takes
        self.place = (0.0, 0.0)
        self.is_placed = b""
        self.is_sized = b""
        self.unit_m = 1.0
        self.radius = 0.0
        self.width = -1.0
        self.height = 0.0
        self.with_distance = False
        self.with_hash = False
        self.with_place = False
        self.count = 0
        self.any = False
        self.order = 0
        self.store_key: bytes | None = None
        self.stores_distance = False

    # --- arguments -----------------------------------------------------------------------------

    def set_member(self, member: bytes) -> None:
        """Search around a member."""
        if self.value is None:
            return
        score = self.value.score(member)
        if score is None:
            raise CommandError(_NO_MEMBER)
        self.place = decode(score)

    def set_radius(self, radius: bytes, unit: bytes) -> None:
        """Search a circle."""
        self.radius = parse_double(radius, _RADIUS)
        if self.radius < 0:
            raise CommandError(_RADIUS_NEGATIVE)
        self.unit_m = parse_unit(unit)

    def set_box(self, width: bytes, height: bytes, unit: bytes) -> None:
        """Search a box."""
        self.width = parse_double(width, _WIDTH)
        self.height = parse_double(height, _HEIGHT)
        if self.width < 0 or self.height < 0:
            raise CommandError(_SIZE_NEGATIVE)
        self.unit_m = parse_unit(unit)

    def parse(self, request: list[bytes], first: int) -> None:
        """Read the options.

        Raises:
            CommandError: Unknown, wrong, or not together.
        """
        i = first
        while i < len(request):
            option = request[i].upper()
            left = len(request) - i - 1
            if option == b"COUNT" and left >= 1:
                self.count = parse_int(request[i + 1])
                if self.count <= 0:
                    raise CommandError(_COUNT)
                i += 1
            elif not self._take_flag(option):
                taken = self._take_area(option, request, i, left) or self._take_store(
                    option, request, i, left
                )
                if not taken:
                    raise CommandError(SYNTAX)
                i += taken
            i += 1
        self._check(request)

    def _take_flag(self, option: bytes) -> bool:
        """Take an option that has no argument; false if it is none of these."""
        if option == b"WITHDIST":
            self.with_distance = True
        elif option == b"WITHHASH":
            self.with_hash = True
        elif option == b"WITHCOORD":
            self.with_place = True
        elif option == b"ANY":
            self.any = True
        elif option == b"ASC":
            self.order = 1
        elif option == b"DESC":
            self.order = -1
        elif option == b"STOREDIST" and self.takes & _SEARCH_STORE:
            self.stores_distance = True
        else:
            return False
        return True

    def _take_area(self, option: bytes, request: list[bytes], i: int, left: int) -> int:
        """Take a place or a size: how many arguments it has, 0 if it is none."""
        if not self.takes & (_SEARCH | _SEARCH_STORE):
            return 0
        if option == b"FROMMEMBER" and left >= 1 and self.is_placed in (b"", option):
            self.set_member(request[i + 1])
            self.is_placed = option
            return 1
        if option == b"FROMLONLAT" and left >= 2 and self.is_placed in (b"", option):
            self.place = parse_place(request[i + 1], request[i + 2])
            self.is_placed = option
            return 2
        if option == b"BYRADIUS" and left >= 2 and self.is_sized in (b"", option):
            self.set_radius(request[i + 1], request[i + 2])
            self.is_sized = option
            return 2
        if option == b"BYBOX" and left >= 3 and self.is_sized in (b"", option):
            self.set_box(request[i + 1], request[i + 2], request[i + 3])
            self.is_sized = option
            return 3
        return 0

    def _take_store(self, option: bytes, request: list[bytes], i: int, left: int) -> int:
        """Take where results are stored: how many arguments it has, 0 if it is something else."""
        if option not in (b"STORE", b"STOREDIST") or not self.takes & _RADIUS_STORE or left < 1:
            return 0
        self.store_key = request[i + 1]
        self.stores_distance = option == b"STOREDIST"
        return 1

    def _check(self, request: list[bytes]) -> None:
        if self.store_key is not None and (self.with_distance or self.with_hash or self.with_place):
            searches = self.takes & _SEARCH_STORE
            name = b"GEOSEARCHSTORE" if searches else b"STORE option in GEORADIUS"
            raise CommandError(_STORED % name)
        if self.takes & (_SEARCH | _SEARCH_STORE):
            name = request[0].split(b"\0", 1)[0]
            if not self.is_placed:
                raise CommandError(_FROM % name)
            if not self.is_sized:
                raise CommandError(_BY % name)
        if self.any and not self.count:
            raise CommandError(_ANY_WITHOUT_COUNT)

    # --- searching -----------------------------------------------------------------------------

    def run(self) -> list[Found]:
        """The places that are wanted, in the order that is wanted."""
        found = self._find()
        order = self.order
        if not order and self.count and not self.any:
            order = 1
        if order:
            found.sort(key=_distance_of, reverse=order < 0)
        return found[: self.count] if self.count else found

    def _find(self) -> list[Found]:
        area = Area(
            *self.place,
            self.unit_m,
            radius=self.radius,
            width=self.width,
            height=self.height,
        )
        enough = self.count if self.any else 0
        value = self.value
        assert value is not None  # Nothing is searched where nothing is.
        found: list[Found] = []
        for low, high in area.score_ranges():
            start = value.rank_of_score(float(low), False)
            stop = value.rank_of_score(float(high), False)
            for first in range(start, stop, _STEP_MEMBERS):
                last = min(stop, first + _STEP_MEMBERS)
                scores = value.scores_between(first, last)
                for offset, score in enumerate(scores):
                    longitude, latitude = decode(score)
                    distance_m = area.distance_within_m(longitude, latitude)
                    if distance_m >= 0:
                        (member,) = value.members_between(first + offset, first + offset + 1)
                        found.append(Found(member, score, distance_m, longitude, latitude))
                        if len(found) == enough:
                            return found
        return found


class Found:
    """A place that was found."""

    __slots__ = ("distance_m", "latitude", "longitude", "member", "score")

    def __init__(
        self, member: bytes, score: float, distance_m: float, longitude: float, latitude: float
    ) -> None:
        self.member = member
        self.score = score
        self.distance_m = distance_m
        self.longitude = longitude
        self.latitude = latitude


def _distance_of(found: Found) -> float:
    return found.distance_m


def _answer(session: Session, search: Search) -> Reply:
    """Search, and store or answer what was found."""
    if search.store_key is not None:
        return _store(session, search, search.store_key)
    if search.value is None:
        return []
    replies: list[Reply] = []
    is_told_more = search.with_distance or search.with_hash or search.with_place
    for found in search.run():
        if not is_told_more:
            replies.append(found.member)
            continue
        reply: list[Reply] = [found.member]
        if search.with_distance:
            reply.append(b"%.4f" % (found.distance_m / search.unit_m))
        if search.with_hash:
            reply.append(int(found.score))
        if search.with_place:
            place = (found.longitude, found.latitude)
            reply.append([degrees_reply(session, degrees) for degrees in place])
        replies.append(reply)
    return replies


def _store(session: Session, search: Search, key: bytes) -> Reply:
    scores: dict[bytes, float] = {}
    if search.value is not None:
        for found in search.run():
            distance = found.distance_m / search.unit_m
            scores[found.member] = distance if search.stores_distance else found.score
    event = b"geosearchstore" if search.takes & _SEARCH_STORE else b"georadiusstore"
    return store(session, key, scores, event)


# --- commands ----------------------------------------------------------------------------------


@command(
    "GEOSEARCH",
    arity=-7,
    flags="readonly",
    group="geo",
    since="6.2.0",
    complexity=_COMPLEXITY,
    summary="The places of a sorted set that are within a circle or a box.",
    usage=f"key {_SEARCH_USAGE} [WITHCOORD] [WITHDIST] [WITHHASH]",
    keys=ONE_KEY,
    key_flags="RO access",
)
def geosearch(session: Session, request: list[bytes]) -> Reply:
    """Answers members, perhaps with where and how far away they are."""
    search = Search(read_sorted_set(session, request[1]), _SEARCH)
    search.parse(request, 2)
    return _answer(session, search)


@command(
    "GEOSEARCHSTORE",
    arity=-8,
    flags="write denyoom",
    group="geo",
    since="6.2.0",
    complexity=_COMPLEXITY,
    summary="Stores the places of a sorted set that are within a circle or a box.",
    usage=f"destination source {_SEARCH_USAGE} [STOREDIST]",
    keys=TWO_KEYS,
    key_flags="OW update @1; RO access @2",
)
def geosearchstore(session: Session, request: list[bytes]) -> Reply:
    """Answers how many there are."""
    search = Search(read_sorted_set(session, request[2]), _SEARCH_STORE)
    search.store_key = request[1]
    search.parse(request, 3)
    return _answer(session, search)


def _keys_with_store(request: list[bytes], first: int) -> list[int]:
    """The positions of the key, and of the one where results are stored, named from `first` on."""
    stored = 0
    i = first
    while i < len(request) - 1:
        if request[i].upper() in (b"STORE", b"STOREDIST"):
            stored = i + 1
            i += 1
        i += 1
    return [1, stored] if stored else [1]


def _keys_of_georadius(request: list[bytes]) -> list[int]:
    return _keys_with_store(request, 5)


_RADIUS_KEYS: Final = KeySpec(1, 1, 1, _keys_of_georadius)


def _radius_flags(first: int) -> str:
    return f"RO access @1; OW update @STORE:{first} 0 1 0; OW update @STOREDIST:{first} 0 1 0"


@command(
    "GEORADIUS",
    arity=-6,
    flags="write denyoom",
    group="geo",
    since="3.2.0",
    complexity=_COMPLEXITY,
    summary="The places of a sorted set that are within a circle around a place.",
    usage=f"key longitude latitude {_RADIUS_USAGE}{_STORE_USAGE}",
    keys=_RADIUS_KEYS,
    key_flags=_radius_flags(6),
)
def georadius(session: Session, request: list[bytes]) -> Reply:
    """Answers members, perhaps with where and how far away they are, or how many were stored."""
    return _around_place(session, request, _RADIUS_STORE)


@command(
    "GEORADIUS_RO",
    arity=-6,
    flags="readonly",
    group="geo",
    since="3.2.10",
    complexity=_COMPLEXITY,
    summary="The places of a sorted set that are within a circle around a place.",
    usage=f"key longitude latitude {_RADIUS_USAGE}",
    keys=ONE_KEY,
    key_flags="RO access",
)
def georadius_ro(session: Session, request: list[bytes]) -> Reply:
    """Answers members, perhaps with where and how far away they are."""
    return _around_place(session, request, 0)


def _around_place(session: Session, request: list[bytes], takes: int) -> Reply:
    search = Search(read_sorted_set(session, request[1]), takes)
    search.place = parse_place(request[2], request[3])
    search.set_radius(request[4], request[5])
    search.parse(request, 6)
    return _answer(session, search)


@command(
    "GEORADIUSBYMEMBER",
    arity=-5,
    flags="write denyoom",
    group="geo",
    since="3.2.0",
    complexity=_COMPLEXITY,
    summary="The places of a sorted set that are within a circle around one of them.",
    usage=f"key member {_RADIUS_USAGE}{_STORE_USAGE}",
    keys=_RADIUS_KEYS,
    key_flags=_radius_flags(5),
)
def georadiusbymember(session: Session, request: list[bytes]) -> Reply:
    """Answers members, perhaps with where and how far away they are, or how many were stored."""
    return _around_member(session, request, _RADIUS_STORE)


@command(
    "GEORADIUSBYMEMBER_RO",
    arity=-5,
    flags="readonly",
    group="geo",
    since="3.2.10",
    complexity=_COMPLEXITY,
    summary="The places of a sorted set that are within a circle around one of them.",
    usage=f"key member {_RADIUS_USAGE}",
    keys=ONE_KEY,
    key_flags="RO access",
)
def georadiusbymember_ro(session: Session, request: list[bytes]) -> Reply:
    """Answers members, perhaps with where and how far away they are."""
    return _around_member(session, request, 0)


def _around_member(session: Session, request: list[bytes], takes: int) -> Reply:
    search = Search(read_sorted_set(session, request[1]), takes)
    if search.value is not None:
        # Redis looks at these only if the key is there.
        search.set_member(request[2])
        search.set_radius(request[3], request[4])
    search.parse(request, 5)
    return _answer(session, search)
