"""Which collection has which code on a medium.

A collection has a code, which stands in its records.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pocketkv.engine.cold import FIRST_COLLECTION, PARTED, Cold
from pocketkv.engine.hash_value import HashValue
from pocketkv.engine.list_value import ListValue
from pocketkv.engine.packing import PayloadError
from pocketkv.engine.set_value import SetValue
from pocketkv.engine.sorted_set_value import SortedSetValue
from pocketkv.engine.stream_value import StreamValue
from pocketkv.engine.values import Collection, Entry, type_name

COLLECTIONS: Final[dict[int, type[Collection]]] = {
    FIRST_COLLECTION: SetValue,
    FIRST_COLLECTION + 1: ListValue,
    FIRST_COLLECTION + 2: HashValue,
    FIRST_COLLECTION + 3: SortedSetValue,
    FIRST_COLLECTION + 4: StreamValue,
}
_CODES: Final = {kind: code for code, kind in COLLECTIONS.items()}


def code_of(value: Collection) -> int:
    """The code of a collection's type."""
    return _CODES[type(value)]


def collection(code: int, payload: bytes) -> Collection:
    """The collection that was stored.

    Raises:
        PayloadError: It is none that this version knows.
    """
    kind = COLLECTIONS.get(code)
    if kind is None:
        raise PayloadError(f"values of type {code} are not known")
    return kind.of_payload(payload)


def building(code: int, payload: bytes) -> Iterator[Collection | None]:
    """`collection` in steps (`Collection.building`).

    Raises:
        PayloadError: As `collection`.
    """
    kind = COLLECTIONS.get(code)
    if kind is None:
        raise PayloadError(f"values of type {code} are not known")
    return kind.building(payload)


def type_of(entry: Entry) -> str:
    """What TYPE answers of what a table holds."""
    if not isinstance(entry, Cold):
        return type_name(entry)
    if entry.kind < FIRST_COLLECTION:
        return "string"
    return COLLECTIONS[entry.kind & ~PARTED].type_name
