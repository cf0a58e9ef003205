"""Random transactions over the commands of the other topics."""

from __future__ import annotations

from itertools import chain

from hypothesis import strategies as st

from tests.oracle.generate import Request, keys, request, values

_words = st.sampled_from([b"MULTI", b"EXEC", b"DISCARD", b"UNWATCH", b"multi", b"exec"])
# Not only where it belongs, and sometimes with too many arguments.
_marks = st.one_of(
    _words.map(lambda word: [word]),
    _words.map(lambda word: [word]),
    request(b"WATCH", keys),
    request(b"WATCH", keys, keys),
    request(b"WATCH"),
    request(b"EXEC", values),
    request(b"DISCARD", values),
)


def transactions(commands: st.SearchStrategy[Request]) -> st.SearchStrategy[list[Request]]:
    """Sequences with transactions in them, and now and then a word where it does not belong."""
    few = st.lists(commands, max_size=6)
    whole = st.tuples(
        few,
        st.one_of(st.just([]), request(b"WATCH", keys, keys).map(lambda one: [one])),
        few,
        st.just([[b"MULTI"]]),
        few,
        st.sampled_from([[[b"EXEC"]], [[b"EXEC"]], [[b"DISCARD"]]]),
    ).map(lambda parts: list(chain(*parts)))
    pieces = st.one_of(whole, whole, few, _marks.map(lambda one: [one]))
    # Whatever is open is closed, so that the end can be compared.
    return st.lists(pieces, max_size=5).map(lambda lists: [*chain(*lists), [b"EXEC"], [b"UNWATCH"]])
