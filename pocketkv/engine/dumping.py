"""Values as dumps and back: which type becomes which of Redis's forms, under a node's settings."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pocketkv.engine.arguments import canonical_integer
from pocketkv.engine.large_string import LargeString
from pocketkv.engine.rdb.content import Content, SetContent
from pocketkv.engine.rdb.dumps import dump_integers, dump_set, dump_string
from pocketkv.engine.set_value import SetValue
from pocketkv.engine.values import Collection, Value

if TYPE_CHECKING:
    from pocketkv.engine.settings import Settings


def dump_value(value: Value, settings: Settings) -> bytes:
    """What DUMP answers of a value.

    Raises:
        NotResident: It cannot be had without waiting.
    """
    if isinstance(value, Collection):
        return _DUMPERS[type(value)](value, settings)
    if isinstance(value, LargeString):
        value.require(0, len(value))
    return dump_string(bytes(value))


def make_value(content: Content, settings: Settings) -> Value:
    """The value that a dump's content is; a string that is large is still bytes."""
    if isinstance(content, bytes):
        return content
    made: Value = _MAKERS[type(content)](content, settings)
    return made


# --- sets --------------------------------------------------------------------------------------


def _dump_set(value: SetValue, settings: Settings) -> bytes:
    members = value.members()
    if value.encoding() == "intset":
        return dump_integers(array("q", map(int, members)))
    return dump_set(members)


def _make_set(content: SetContent, settings: Settings) -> SetValue:
    members = content.members
    integers_max = settings.set_max_intset_entries
    if len(members) > integers_max:
        # Redis goes by their number first; and this does not move integers one by one.
        integers_max = 0
    elif any(canonical_integer(member) is None for member in members):
        integers_max = 0
    return SetValue.of(members, integers_max)


# --- all of them -------------------------------------------------------------------------------

_DUMPERS: Final[dict[type[Collection], Callable[[Any, Settings], bytes]]] = {SetValue: _dump_set}
_MAKERS: Final[dict[type[Any], Callable[[Any, Settings], Value]]] = {SetContent: _make_set}
