"""Places on the earth as scores: geohashes of 52 bits, distances, and boxes that cover an area.

A geohash interleaves the bits of two numbers, which say in which of 2**steps columns of longitude
and rows of latitude a place is: those of the column in the odd bits, those of the row in the even
ones. Whatever is in a box of fewer steps is one range of hashes, and so of scores. Latitudes end
where those of the web's Mercator maps do. The method is Redis's (see the documentation of GEOADD
and GEOSEARCH), so that the same commands make the same scores, distances and orders.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import asin, cos, isfinite, pi, sin, sqrt
from typing import Final

LONGITUDE_MAX: Final = 180.0
LATITUDE_MAX: Final = 85.05112878
# Of a geohash of the usual kind, as a text.
_STANDARD_LATITUDE_MAX: Final = 90.0
STEPS_MAX: Final = 26
_BITS: Final = 2 * STEPS_MAX

_EARTH_RADIUS_M: Final = 6372797.560856
_MERCATOR_MAX_M: Final = 20037726.37
_RADIANS: Final = pi / 180.0
_METRES_PER_DEGREE: Final = _EARTH_RADIUS_M * _RADIANS
# For what is only nearly computed.
_MARGIN: Final = 1.0001

_ALPHABET: Final = b"0123456789bcdefghjkmnpqrstuvwxyz"
_TEXT_CHARACTERS: Final = 11

# Towards the poles columns are narrower, so boxes must be larger.
_HIGH_LATITUDE: Final = 66
_HIGHEST_LATITUDE: Final = 80

# Columns and rows away, in the order in which boxes are searched.
_BOXES: Final = (
    (0, 0),
    (0, 1),
    (0, -1),
    (1, 0),
    (-1, 0),
    (1, 1),
    (-1, 1),
    (1, -1),
    (-1, -1),
)

# A hash is taken apart and put together byte by byte, by tables, which is several times as fast as
# by shifts: the bits of a row (or a column) that a byte has, as a hexadecimal digit, and back.
_HEXADECIMAL: Final = b"0123456789abcdef"
_ROW_DIGITS: Final = bytes(
    _HEXADECIMAL[byte & 1 | byte >> 1 & 2 | byte >> 2 & 4 | byte >> 3 & 8] for byte in range(256)
)
_COLUMN_DIGITS: Final = bytes(_ROW_DIGITS[byte >> 1] for byte in range(256))
_ROW_BYTES: Final = bytes(
    next((byte for byte in range(0x56) if not byte & 0xAA and _ROW_DIGITS[byte] == digit), 0)
    for digit in range(256)
)
_HASH_BYTES: Final = 8

# Rows and columns there are, and degrees that they are apart from.
_CELLS: Final = 1 << STEPS_MAX
_LONGITUDES: Final = LONGITUDE_MAX + LONGITUDE_MAX
_LATITUDES: Final = LATITUDE_MAX + LATITUDE_MAX


# --- hashes ------------------------------------------------------------------------------------


def _joined(row: int, column: int) -> int:
    """The hash of a row and a column, of 32 bits each."""
    of_row = int.from_bytes((b"%08x" % row).translate(_ROW_BYTES), "big")
    return of_row | int.from_bytes((b"%08x" % column).translate(_ROW_BYTES), "big") << 1


def _cell(degrees: float, degrees_max: float, steps: int) -> int:
    """In which of 2**steps equal parts a longitude or latitude is."""
    return int((degrees + degrees_max) / (degrees_max + degrees_max) * (1 << steps)) & 0xFFFFFFFF


def encode(longitude: float, latitude: float) -> int:
    """The geohash of a place, which is its score."""
    row = _cell(latitude, LATITUDE_MAX, STEPS_MAX)
    return _joined(row, _cell(longitude, LONGITUDE_MAX, STEPS_MAX))


def _edge(cell: int, degrees_max: float, steps: int) -> float:
    """Where a column or row begins, in degrees."""
    return -degrees_max + cell / (1 << steps) * (degrees_max + degrees_max)


def decode(score: float) -> tuple[float, float]:
    """The longitude and latitude of a score, which may be anything."""
    bits = int(score) & 0xFFFFFFFFFFFFFFFF if abs(score) < 2.0**63 else 1 << 63
    packed = bits.to_bytes(_HASH_BYTES, "big")
    row = int(packed.translate(_ROW_DIGITS), 16)
    column = int(packed.translate(_COLUMN_DIGITS), 16)
    # The middle between two edges.
    longitude = (
        -LONGITUDE_MAX
        + column / _CELLS * _LONGITUDES
        + (-LONGITUDE_MAX + (column + 1) / _CELLS * _LONGITUDES)
    ) / 2
    latitude = (
        -LATITUDE_MAX
        + row / _CELLS * _LATITUDES
        + (-LATITUDE_MAX + (row + 1) / _CELLS * _LATITUDES)
    ) / 2
    if row >= _CELLS or column >= _CELLS:
        return min(LONGITUDE_MAX, longitude), min(LATITUDE_MAX, latitude)
    return longitude, latitude


def text_of(score: float) -> bytes:
    """The geohash of a score in the usual form of eleven characters."""
    longitude, latitude = decode(score)
    row = _cell(latitude, _STANDARD_LATITUDE_MAX, STEPS_MAX)
    column = _cell(longitude, LONGITUDE_MAX, STEPS_MAX)
    bits = _joined(row, column)
    # Of the last character only two bits would be known.
    shifts = range(_BITS - 5, 0, -5)
    characters = bytes(_ALPHABET[bits >> shift & 31] for shift in shifts)
    return characters.ljust(_TEXT_CHARACTERS, b"0")


# --- distances ---------------------------------------------------------------------------------


def distance_m(
    longitude: float, latitude: float, other_longitude: float, other_latitude: float
) -> float:
    """The distance of two places along the surface of a sphere, in metres (haversine)."""
    north = latitude * _RADIANS
    other_north = other_latitude * _RADIANS
    u = sin((other_north - north) / 2)
    v = sin((other_longitude * _RADIANS - longitude * _RADIANS) / 2)
    part = u * u + cos(north) * cos(other_north) * v * v
    # Of places at opposite ends it may come out as a bit more than all.
    return 2.0 * _EARTH_RADIUS_M * asin(sqrt(min(1.0, part)))


class Area:
    """A circle, or a box that stands upright, around a place.

    Args:
        longitude: Of the place.
        latitude: Of the place.
        unit_m: Metres per unit of the sizes.
        radius: Of a circle.
        width: Of a box, if it is none.
        height: Of a box.
    """

    __slots__ = ("_height_m", "_is_circle", "_width_m", "latitude", "longitude", "radius_m")

    def __init__(
        self,
        longitude: float,
        latitude: float,
        unit_m: float,
        *,
        radius: float = 0.0,
        width: float = -1.0,
        height: float = 0.0,
    ) -> None:
        self.longitude = longitude
        self.latitude = latitude
        self._is_circle = width < 0
        if self._is_circle:
            width = height = 2 * radius
            self.radius_m = radius * unit_m
        else:
            self.radius_m = sqrt((width / 2) * (width / 2) + (height / 2) * (height / 2)) * unit_m
        self._width_m = width * unit_m
        self._height_m = height * unit_m

    def distance_within_m(self, longitude: float, latitude: float) -> float:
        """How far from the middle a place is, in metres; -1 if it is not within."""
        # What is too far north or south already takes no more.
        along = abs(latitude - self.latitude) * _METRES_PER_DEGREE
        if along > self._height_m / 2 * _MARGIN:
            return -1.0
        if self._is_circle:
            distance = distance_m(self.longitude, self.latitude, longitude, latitude)
            return distance if distance <= self.radius_m else -1.0
        across = distance_m(longitude, latitude, self.longitude, latitude)
        along = distance_m(longitude, latitude, longitude, self.latitude)
        if across > self._width_m / 2 or along > self._height_m / 2:
            return -1.0
        return distance_m(self.longitude, self.latitude, longitude, latitude)

    def _bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north of the box around it, in degrees."""
        half_m = self._width_m / 2
        up = self._height_m / 2 / _EARTH_RADIUS_M / _RADIANS
        # Where the columns are narrower: at the side that is nearer to a pole.
        edge = self.latitude + up if self.latitude >= 0 else self.latitude - up
        # An area without end has no edge.
        narrowed = cos(edge * _RADIANS) if isfinite(edge) else 1.0
        aside = half_m / _EARTH_RADIUS_M / narrowed / _RADIANS
        return (
            self.longitude - aside,
            self.latitude - up,
            self.longitude + aside,
            self.latitude + up,
        )

    def score_ranges(self) -> Iterator[tuple[int, int]]:
        """Ranges of scores that cover it, the ends left out, in the order of the search."""
        bounds = self._bounds()
        steps = _steps_for(self.radius_m, self.latitude)
        if steps > 1 and not self._is_covered(steps, bounds):
            steps -= 1
        cells = 1 << steps
        column = _cell(self.longitude, LONGITUDE_MAX, steps)
        row = _cell(self.latitude, LATITUDE_MAX, steps)
        sides = _sides_in_use(column, row, steps, bounds)
        shift = _BITS - 2 * steps
        last = -1
        for right, up in _BOXES:
            if right not in sides[0] or up not in sides[1]:
                continue
            # At the very edge of the map the middle itself is in a row or column beyond it.
            box_row = (row + up) % cells if up else row
            box_column = (column + right) % cells if right else column
            bits = _joined(box_row, box_column)
            # With few and large boxes, neighbours may be the same.
            if bits != last:
                yield bits << shift, (bits + 1) << shift
            last = bits

    def _is_covered(self, steps: int, bounds: tuple[float, float, float, float]) -> bool:
        """Whether the boxes around the middle's reach as far as the area."""
        west, south, east, north = bounds
        cells = 1 << steps
        column = _cell(self.longitude, LONGITUDE_MAX, steps)
        row = _cell(self.latitude, LATITUDE_MAX, steps)
        return (
            _edge((row + 1) % cells + 1, LATITUDE_MAX, steps) >= north
            and _edge((row - 1) % cells, LATITUDE_MAX, steps) <= south
            and _edge((column + 1) % cells + 1, LONGITUDE_MAX, steps) >= east
            and _edge((column - 1) % cells, LONGITUDE_MAX, steps) <= west
        )


def _sides_in_use(
    column: int, row: int, steps: int, bounds: tuple[float, float, float, float]
) -> tuple[set[int], set[int]]:
    """Which columns and rows beside that of the middle are reached at all."""
    west, south, east, north = bounds
    columns = {-1, 0, 1}
    rows = {-1, 0, 1}
    if steps >= 2:
        if _edge(row, LATITUDE_MAX, steps) < south:
            rows.discard(-1)
        if _edge(row + 1, LATITUDE_MAX, steps) > north:
            rows.discard(1)
        if _edge(column, LONGITUDE_MAX, steps) < west:
            columns.discard(-1)
        if _edge(column + 1, LONGITUDE_MAX, steps) > east:
            columns.discard(1)
    return columns, rows


def _steps_for(radius_m: float, latitude: float) -> int:
    """How fine boxes may be, so that nine of them nearly always cover a circle."""
    if radius_m == 0:
        return STEPS_MAX
    steps = -1
    while radius_m < _MERCATOR_MAX_M:
        radius_m *= 2
        steps += 1
    if abs(latitude) > _HIGH_LATITUDE:
        steps -= 1
        if abs(latitude) > _HIGHEST_LATITUDE:
            steps -= 1
    return max(1, min(STEPS_MAX, steps))
