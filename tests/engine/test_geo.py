"""Geohashes against what their definition says. Replies and orders: see ``tests/oracle``."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.engine import geohash
from pocketkv.engine.geohash import Area, decode, distance_m, encode
from pocketkv.engine.sorted_set_value import SortedSetValue
from tests.core import plain_only
from tests.engine.harness import Client

# At 180 degrees, Redis makes a hash of more bits, and so does this.
longitudes = st.floats(-180, 179.9999)
latitudes = st.floats(-85, 85)


@given(longitude=longitudes, latitude=latitudes)
def test_a_place_is_found_again(longitude: float, latitude: float) -> None:
    score = encode(longitude, latitude)
    assert 0 <= score < 2**52
    other_longitude, other_latitude = decode(float(score))
    assert abs(other_longitude - longitude) <= 360 / 2**26
    assert abs(other_latitude - latitude) <= 171 / 2**26


@given(longitude=longitudes, latitude=latitudes)
def test_bits_of_columns_and_rows_alternate(longitude: float, latitude: float) -> None:
    column = int((longitude + 180) / 360 * 2**26)
    row = int((latitude + 85.05112878) / (2 * 85.05112878) * 2**26)
    bits = "".join(map("".join, zip(f"{column:026b}", f"{row:026b}", strict=True)))
    assert encode(longitude, latitude) == int(bits, 2)


@given(score=st.floats(allow_nan=False))
def test_any_score_is_some_place(score: float) -> None:
    longitude, latitude = decode(score)
    assert abs(longitude) <= 180
    assert abs(latitude) <= 85.06
    assert len(geohash.text_of(score)) == 11


def test_distances_are_those_of_the_sphere() -> None:
    quarter_m = math.pi / 2 * 6372797.560856
    assert math.isclose(distance_m(0, 0, 90, 0), quarter_m)
    assert math.isclose(distance_m(0, 0, 0, 45), quarter_m / 2)
    assert distance_m(13.361389, 38.115556, 13.361389, 38.115556) == 0


@given(
    longitude=st.floats(-179, 179),
    latitude=st.floats(-80, 80),
    size_m=st.floats(1, 500_000),
    is_box=st.booleans(),
    angle=st.floats(0, 6.28),
    share=st.floats(0, 0.99),
)
def test_what_is_within_an_area_is_within_its_boxes(
    longitude: float, latitude: float, size_m: float, is_box: bool, angle: float, share: float
) -> None:
    if is_box:
        area = Area(longitude, latitude, 1.0, width=size_m, height=size_m / 2)
    else:
        area = Area(longitude, latitude, 1.0, radius=size_m)
    north = latitude + math.degrees(share * size_m * math.sin(angle) / 6372797)
    aside = math.degrees(share * size_m * math.cos(angle) / 6372797)
    east = longitude + aside / math.cos(math.radians(latitude))
    if abs(north) > 85 or abs(east) > 180:
        return
    score = encode(east, north)
    if area.distance_within_m(*decode(float(score))) >= 0:
        assert any(low <= score < high for low, high in area.score_ranges())


@pytest.mark.parametrize("size", ["1e308", "1e300", "0", "1e-300"])
@pytest.mark.parametrize("middle", [(179.9, 85), (-179.9, -85), (0.1, 0.1), (12, 80.5)])
def test_areas_may_be_as_large_and_as_small_as_numbers_are(
    client: Client, size: str, middle: tuple[float, float]
) -> None:
    client("GEOADD", "k", *middle, "here", -middle[0] / 2, -middle[1], "opposite")
    is_large = float(size) > 1
    for shape in (["BYRADIUS", size], ["BYBOX", size, size]):
        found = client("GEOSEARCH", "k", "FROMMEMBER", "here", *shape, "mi", "ASC")
        assert found == [b"here", b"opposite"] if is_large else found == [b"here"]


@given(longitude=st.floats(-180, 0), latitude=latitudes)
def test_opposite_ends_have_a_distance(longitude: float, latitude: float) -> None:
    assert distance_m(longitude, latitude, longitude + 180, -latitude) < 20_020_800


@plain_only
def test_a_search_looks_only_at_boxes_near_by(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    for row in range(20):
        places = [
            part
            for column in range(100)
            for part in (column * 3.6 - 180, row * 8 - 80, f"{row}:{column}")
        ]
        client("GEOADD", "k", *places)
    client("GEOADD", "k", 13.361389, 38.115556, "Palermo", 15.087269, 37.502669, "Catania")
    looked_at = 0
    members_between = SortedSetValue.members_between

    def counted(value: SortedSetValue, start: int, stop: int) -> list[bytes]:
        nonlocal looked_at
        looked_at += stop - start
        return members_between(value, start, stop)

    monkeypatch.setattr(SortedSetValue, "members_between", counted)
    found = client("GEOSEARCH", "k", "FROMLONLAT", 15, 37, "BYRADIUS", 200, "km", "ASC")
    assert found == [b"Catania", b"Palermo"]
    assert looked_at < 30


def test_any_stops_when_enough_were_found(client: Client) -> None:
    client("GEOADD", "k", *(part for n in range(5000) for part in (n / 1e4, 1, n)))
    search = ["GEOSEARCH", "k", "FROMLONLAT", 0.2, 1, "BYRADIUS", 100, "km"]
    assert len(client(*search)) == 5000
    some = client(*search, "COUNT", 3, "ANY")
    assert len(some) == 3
    assert sorted(client(*search, "COUNT", 3, "ANY", "ASC")) == sorted(some)
    assert client(*search, "COUNT", 3) == [b"2000", b"1999", b"2001"]
