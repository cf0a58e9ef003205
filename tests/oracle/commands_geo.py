"""Random commands on places."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.oracle.compare import Leniencies
from tests.oracle.generate import (
    Requests,
    any_case,
    bad_floats,
    bad_numbers,
    joined,
    mutated,
    options,
    request,
)

# Few keys, so that searches find something; some keys are of other types (see `commands_keys`).
keys = st.sampled_from([b"geo", b"geo", b"geo2", b"a"])
names = st.integers(0, 30).map(lambda number: b"p%d" % number)


def _texts(low: float, high: float) -> st.SearchStrategy[bytes]:
    return st.floats(low, high, allow_nan=False).map(lambda number: repr(number).encode())


# Places near each other, all over the world, at its edges, and beyond.
longitudes = st.one_of(
    _texts(13.0, 13.6),
    _texts(-180, 180),
    st.sampled_from(b"180 -180 0 -0.5 179.999 -179.999 180.1 13.361389".split()),
)
latitudes = st.one_of(
    _texts(38.0, 38.4),
    _texts(-85.05, 85.05),
    st.sampled_from(b"85.05112878 -85.05112878 0 89 66.5 -80.5 84 38.115556".split()),
)
bad_degrees = st.one_of(bad_floats, st.sampled_from([b"1e3", b"-181", b"86"]))
places = st.tuples(longitudes, latitudes).map(list)
near_places = st.tuples(_texts(13.0, 13.6), _texts(38.0, 38.4)).map(list)
added = st.lists(
    st.tuples(st.one_of(places, near_places), names).map(lambda item: [*item[0], item[1]]),
    min_size=1,
    max_size=10,
).map(lambda lists: [part for item in lists for part in item])
add_options = options(*[request(any_case(w)) for w in b"NX XX CH".split()], most=2)
units = st.sampled_from([b"m", b"km", b"ft", b"mi", b"KM", b"MI", b"x", b""])
good_units = st.sampled_from([b"m", b"km", b"km", b"km", b"mi", b"ft"])
sizes = st.one_of(
    st.sampled_from(b"0 1 10 100 500 1000 5000 10000 50000 1e8 0.5".split()), _texts(0, 30_000)
)
bad_sizes = st.one_of(bad_floats, st.sampled_from([b"-1", b"x"]))
radius = st.tuples(sizes, good_units).map(list)
bad_radius = st.tuples(st.one_of(sizes, bad_sizes), units).map(list)
from_place = st.one_of(
    joined(request(any_case(b"FROMLONLAT")), st.one_of(near_places, near_places, places)),
    request(any_case(b"FROMMEMBER"), names),
)
by_size = st.one_of(
    joined(request(any_case(b"BYRADIUS")), radius),
    request(any_case(b"BYBOX"), sizes, sizes, good_units),
)
bad_searches = options(
    joined(request(b"FROMLONLAT"), st.tuples(bad_degrees, bad_degrees).map(list)),
    request(b"FROMMEMBER", st.just(b"nowhere")),
    joined(request(b"BYRADIUS"), bad_radius),
    request(b"BYBOX", st.one_of(sizes, bad_sizes), st.one_of(sizes, bad_sizes), units),
    from_place,
    by_size,
)
orders = options(request(any_case(b"ASC")), request(any_case(b"DESC")), most=1)
counts = st.sampled_from([b"1", b"2", b"3", b"10", b"1000"])
count_options = options(
    joined(request(any_case(b"COUNT"), counts), options(request(any_case(b"ANY")), most=1)),
    request(any_case(b"COUNT"), st.one_of(bad_numbers, st.sampled_from([b"0", b"-1"]))),
    request(b"ANY"),
    most=1,
)
told = options(*[request(any_case(w)) for w in b"WITHDIST WITHHASH WITHCOORD".split()], most=3)
stored = options(request(any_case(b"STORE"), keys), request(any_case(b"STOREDIST"), keys), most=2)
store_distance = options(request(any_case(b"STOREDIST")), most=1)
around_place = st.sampled_from([b"GEORADIUS", b"GEORADIUS_RO"])
around_member = st.sampled_from([b"GEORADIUSBYMEMBER", b"GEORADIUSBYMEMBER_RO"])

_WELL_FORMED: list[Requests] = [
    joined(request(b"GEOADD", keys), added),
    joined(request(b"GEOADD", keys), added),
    joined(request(b"GEOADD", keys), added),
    joined(request(b"GEOADD", keys), add_options, added),
    request(b"GEOADD", keys, bad_degrees, latitudes, names),
    request(b"GEOADD", keys, longitudes, bad_degrees, names),
    request(b"ZADD", keys, st.sampled_from([b"1", b"-5", b"1e15", b"4503599627370495.5"]), names),
    request(b"ZSCORE", keys, names),
    request(b"ZREM", keys, names),
    request(b"GEODIST", keys, names, names),
    request(b"GEODIST", keys, names, names, units),
    joined(request(b"GEOHASH", keys), st.lists(names, max_size=4)),
    joined(request(b"GEOPOS", keys), st.lists(names, max_size=4)),
    joined(request(b"GEOSEARCH", keys), from_place, by_size, orders, count_options, told),
    joined(request(b"GEOSEARCH", keys), from_place, by_size, orders, told),
    joined(request(b"GEOSEARCH", keys), from_place, by_size),
    joined(request(b"GEOSEARCH", keys), told, bad_searches, count_options),
    joined(
        request(b"GEOSEARCHSTORE", keys, keys),
        *(from_place, by_size, orders, count_options, store_distance),
    ),
    joined(request(b"GEOSEARCHSTORE", keys, keys), bad_searches, told, store_distance),
    joined(
        around_place.map(lambda name: [name]),
        *(request(keys), near_places, radius, told, orders, count_options),
    ),
    joined(
        around_place.map(lambda name: [name]),
        *(request(keys), places, bad_radius, told, stored),
    ),
    joined(
        around_member.map(lambda name: [name]),
        *(request(keys, names), radius, told, orders, count_options),
    ),
    joined(
        around_member.map(lambda name: [name]),
        *(request(keys, names), bad_radius, told, stored),
    ),
    joined(request(b"GEORADIUS", keys), near_places, radius, orders, count_options, stored),
    joined(request(b"GEORADIUSBYMEMBER", keys, names), radius, orders, count_options, stored),
    request(b"ZRANGE", keys, b"0", b"-1", b"WITHSCORES"),
    request(b"OBJECT", b"ENCODING", keys),
]

STRATEGIES: list[Requests] = [*_WELL_FORMED, mutated(st.one_of(_WELL_FORMED))]


LENIENCIES: Leniencies = {}
