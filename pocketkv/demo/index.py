"""The demo's computation: an inverted index, in which file and at which place each word stands.

A *word* is a longest run of ASCII letters, digits and underscores, in lower case; its *position*
in a file counts words from 0. What mappers hand to reducers, and reducers to the driver, are real
bytes of this form (numbers are LEB128: seven bits a byte, the lowest first)::

    chunk   := entry*                           words in ascending order, each once
    entry   := length word count posting*       count of postings, files in ascending order
    posting := file length place*               length in bytes of all places together
    place   := number                           difference to the place before, the first to -1

`reference_index` computes the same index in one go, by other means (a regular expression, no
chunks, no encoding), so that the result can be compared with something.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate, pairwise
from zlib import crc32

Postings = dict[bytes, list[tuple[int, bytes]]]
"""For each word, the files that it is in, with the encoded places."""

Index = dict[bytes, dict[int, "array[int]"]]
"""For each word, the files that it is in, with the places."""


class DamagedError(ValueError):
    """Bytes are not what `encode` made."""


_WORD_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_")
_FOLDED = bytes(c if c in _WORD_BYTES else 32 for c in bytes(range(256)).lower())
_WORD = re.compile(rb"\w+", re.ASCII)


def words_of(text: bytes) -> list[bytes]:
    """Return the words of a file, in order."""
    return text.translate(_FOLDED).split()


def partition_of(word: bytes, partitions: int) -> int:
    """Return which of so many reducers gets a word: the same in every process."""
    return crc32(word) % partitions


# --- encoding ------------------------------------------------------------------------------------


def _number(value: int) -> bytes:
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


# Nearly all numbers are small; looking them up is ten times as fast.
_NUMBERS = [_number(value) for value in range(1 << 14)]


def encode_number(value: int) -> bytes:
    """Return a number, 0 or more, in as few bytes as it needs."""
    return _NUMBERS[value] if value < len(_NUMBERS) else _number(value)


def add_file(postings: Postings, file: int, text: bytes) -> None:
    """Add a file's words to `postings`; its number must be higher than those before."""
    places: dict[bytes, list[int]] = {}
    for place, word in enumerate(words_of(text)):
        found = places.get(word)
        if found is None:
            places[word] = [place]
        else:
            found.append(place)
    for word, found in places.items():
        steps = [found[0] + 1, *(b - a for a, b in pairwise(found))]
        posting = (file, b"".join(map(encode_number, steps)))
        postings.setdefault(word, []).append(posting)


def encode(postings: Mapping[bytes, list[tuple[int, bytes]]]) -> bytes:
    """Return the chunk of these words."""
    pieces = []
    for word in sorted(postings):
        entries = postings[word]
        pieces += [encode_number(len(word)), word, encode_number(len(entries))]
        for file, places in entries:
            pieces += [encode_number(file), encode_number(len(places)), places]
    return b"".join(pieces)


def split(postings: Postings, partitions: int) -> list[bytes]:
    """Return a chunk for each reducer."""
    parts: list[Postings] = [{} for _ in range(partitions)]
    for word, entries in postings.items():
        parts[partition_of(word, partitions)][word] = entries
    return [encode(part) for part in parts]


# --- decoding ------------------------------------------------------------------------------------


def decode(chunk: bytes) -> Iterator[tuple[bytes, list[tuple[int, bytes]]]]:
    """Yield the words of a chunk with their postings.

    Raises:
        DamagedError: It is not a chunk.
    """
    position, end = 0, len(chunk)
    try:
        while position < end:
            length, position = _decode_number(chunk, position)
            word = chunk[position : position + length]
            count, position = _decode_number(chunk, position + length)
            postings = []
            for _ in range(count):
                file, position = _decode_number(chunk, position)
                length, position = _decode_number(chunk, position)
                postings.append((file, chunk[position : position + length]))
                position += length
            yield word, postings
    except IndexError:
        position = end + 1
    if position != end:
        raise DamagedError("a chunk ends in the middle of a word")


def _decode_number(data: bytes, position: int) -> tuple[int, int]:
    byte = data[position]
    position += 1
    if byte < 128:
        return byte, position
    value, shift = byte & 127, 7
    while (byte := data[position]) > 127:
        value |= (byte & 127) << shift
        shift += 7
        position += 1
    return value | byte << shift, position + 1


def decode_places(places: bytes) -> Iterator[int]:
    """Return the places that `add_file` encoded.

    Raises:
        DamagedError: They end in the middle of a number.
    """
    steps: list[int] = []
    position = 0
    try:
        while position < len(places):
            step, position = _decode_number(places, position)
            steps.append(step)
    except IndexError as error:
        raise DamagedError("a place ends in its middle") from error
    if not steps:
        raise DamagedError("a posting without a place")
    steps[0] -= 1
    return accumulate(steps)


def merge(merged: Postings, chunk: bytes) -> None:
    """Add the postings of a chunk.

    Raises:
        DamagedError: It is not a chunk.
    """
    for word, postings in decode(chunk):
        known = merged.get(word)
        if known is None:
            merged[word] = postings
        else:
            known += postings


def chunks_of(merged: Postings, chunk_bytes: int) -> Iterator[bytes]:
    """Yield all postings, words and files in order, in chunks of about `chunk_bytes`."""
    part: Postings = {}
    size_bytes = 0
    for word in sorted(merged):
        part[word] = sorted(merged[word])
        size_bytes += sum(len(places) for _, places in part[word])
        if size_bytes >= chunk_bytes:
            yield encode(part)
            part, size_bytes = {}, 0
    if part:
        yield encode(part)


# --- what it is compared with --------------------------------------------------------------------


def reference_index(texts: Iterable[tuple[int, bytes]]) -> Index:
    """Return the index of numbered files, computed at once and by other means."""
    index: Index = {}
    for file, text in texts:
        for place, match in enumerate(_WORD.finditer(text)):
            files = index.setdefault(match.group().lower(), {})
            if file not in files:
                files[file] = array("L")
            files[file].append(place)
    return index


def differences(reference: Index, chunk: bytes) -> Iterator[str]:
    """Compare a result chunk, and take what it holds out of `reference`; yield what differs.

    When all chunks were compared, what is left in `reference` was in none of them.
    """
    try:
        for word, postings in decode(chunk):
            shown = repr(word.decode("ascii", "replace")[:40])
            expected = reference.pop(word, None)
            if expected is None:
                yield f"the word {shown} is there although it should not be, or twice"
                continue
            found = {file: array("L", decode_places(places)) for file, places in postings}
            if len(found) != len(postings):
                yield f"the word {shown} has a file twice"
            if found != expected:
                wrong = [f for f in {*found, *expected} if found.get(f) != expected.get(f)]
                yield f"the word {shown} is wrong in {len(wrong)} files"
    except (DamagedError, OverflowError) as error:
        yield f"a result is damaged: {error}"
