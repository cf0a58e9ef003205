"""Entries of a stream that stand together: some dozens, packed into few objects.

A node is what Redis keeps in one listpack. When the next one begins, and what approximate trimming
leaves, follows from the listpack's length, which is therefore reckoned here, though the bytes are
packed in another way: ids in arrays, so that they can be searched, and the fields and values of all
entries, one after the other, in one string.

An entry is the number of its fields (0: the same fields as the node's first entry, which are not
repeated), then each field and value, each behind its length in four bytes.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from typing import Any, Final

from pocketkv.engine.arguments import canonical_integer
from pocketkv.engine.packing import PayloadError, pack, unpack
from pocketkv.engine.sizes import bytes_object
from pocketkv.resp.replies import Reply

# Redis's own bound of what an entry may have, and of a listpack.
LISTPACK_BYTES_MAX: Final = 1 << 30

# The object, its numbers, three arrays, the string, its place in the list of nodes.
_NODE_BYTES: Final = 640
# Two numbers of eight bytes and one of four, and the room that arrays keep to grow.
_ENTRY_BYTES: Final = 21
_FIELDS_BYTES: Final = 56
_FIELD_BYTES: Final = 8

# What a listpack takes beside its elements, and what is as long whatever an entry is: the fields
# of a node (their number is apart), its end mark.
_LISTPACK_BYTES: Final = 7 + 2
_SHIFT: Final = 64
_MASK: Final = (1 << 64) - 1
# As an integer, a text of more characters would need more than 64 bits.
_INTEGER_CHARACTERS: Final = 20
_MINUS: Final = 45
_ZERO: Final = 48
_NINE: Final = 57

# Of a node on a medium: its first and last id, deleted entries, length of the listpack, entries,
# then the length of its packed fields, which follow, and its arrays and its string.
_HEAD: Final = struct.Struct("<16s16sIIII")

# As they stand before most texts.
_LENGTHS: Final = [number.to_bytes(4, "little") for number in range(256)]


def integer_bytes(number: int) -> int:
    """What a signed integer of 64 bits takes in a listpack."""
    if 0 <= number <= 127:
        return 2
    if -4096 <= number < 4096:
        return 3
    if -32768 <= number < 32768:
        return 4
    if -8388608 <= number < 8388608:
        return 5
    if -2147483648 <= number < 2147483648:
        return 6
    return 10


def difference_bytes(number: int) -> int:
    """`integer_bytes` of a difference of two numbers of 64 bits, which has wrapped around."""
    if number <= 127:
        return 2
    if number < 4096 or number > _MASK - 4096:
        return 3
    if number < 32768 or number > _MASK - 32768:
        return 4
    if number < 8388608 or number > _MASK - 8388608:
        return 5
    if number < 2147483648 or number > _MASK - 2147483648:
        return 6
    return 10


def text_bytes(text: bytes) -> int:
    """What a string takes in a listpack, which keeps what is an integer as one."""
    length = len(text)
    if 0 < length <= _INTEGER_CHARACTERS and (text[0] == _MINUS or _ZERO <= text[0] <= _NINE):
        number = canonical_integer(text)
        if number is not None:
            return integer_bytes(number)
    if length < 64:
        return length + 2
    length += 2 if length < 4096 else 5
    # Its length again, from which the string is found backwards.
    if length < 128:
        return length + 1
    if length < 16383:
        return length + 2
    if length < 2097151:
        return length + 3
    return length + (4 if length < 268435455 else 5)


class StreamNode:
    """Entries in the order of their ids.

    Attributes:
        first: The id with which it began; it may have been deleted since.
        first_ms, first_seq: Its two numbers.
        last: The id that was added last; it may have been deleted since.
        deleted: How many entries were deleted one by one; a node with many of them is full, too.
        fields: Those of the entry with which it began.
        ms, seqs: The two numbers of each entry's id.
        lengths: The bytes of each entry.
        data: The entries; unchangeable once the node is full.
        listpack_bytes: The length of Redis's listpack without its counts of entries.
    """

    __slots__ = (
        "data",
        "deleted",
        "fields",
        "first",
        "first_ms",
        "first_seq",
        "last",
        "lengths",
        "listpack_bytes",
        "ms",
        "seqs",
    )

    def __init__(self, first: int, fields: tuple[bytes, ...]) -> None:
        self.first = first
        self.first_ms = first >> _SHIFT
        self.first_seq = first & _MASK
        self.last = first
        self.deleted = 0
        self.fields = fields
        self.ms = array("Q")
        self.seqs = array("Q")
        self.lengths = array("I")
        self.data: bytes | bytearray = bytearray()
        self.listpack_bytes = _LISTPACK_BYTES + integer_bytes(len(fields))
        for field in fields:
            self.listpack_bytes += text_bytes(field)

    def __len__(self) -> int:
        return len(self.ms)

    def size_bytes(self) -> int:
        """What it costs in memory."""
        size = _NODE_BYTES + _FIELDS_BYTES + len(self.data) + _ENTRY_BYTES * len(self.ms)
        for field in self.fields:
            size += _FIELD_BYTES + bytes_object(len(field))
        return size

    def is_full(self, added_bytes: int, entries_max: int, bytes_max: int) -> bool:
        """Whether an entry of so many bytes begins a new node; 0 as limit: none, or Redis's own."""
        if bytes_max == 0 or bytes_max > LISTPACK_BYTES_MAX:
            bytes_max = LISTPACK_BYTES_MAX
        count = len(self.ms)
        counts_bytes = integer_bytes(count) + integer_bytes(self.deleted)
        if self.listpack_bytes + counts_bytes + added_bytes >= bytes_max:
            return True
        return 0 < entries_max <= count + self.deleted

    # --- changing ------------------------------------------------------------------------------

    def add(self, entry_id: int, pairs: list[bytes]) -> int:
        """Add an entry behind all others; how much more the node costs.

        Args:
            entry_id: Its id.
            pairs: Its fields, each followed by its value.
        """
        ms = entry_id >> _SHIFT
        seq = entry_id & _MASK
        # Flags, and the distances from the first id.
        grown = 2 + difference_bytes((ms - self.first_ms) & _MASK)
        grown += difference_bytes((seq - self.first_seq) & _MASK)
        fields = self.fields
        count = len(pairs) // 2
        same = count == len(fields)
        i = 0
        while same and i < count:
            same = pairs[2 * i] == fields[i]
            i += 1
        parts: list[bytes] = []
        if same:
            parts.append(_LENGTHS[0])
            grown += integer_bytes(count + 3)
        else:
            parts.append(count.to_bytes(4, "little"))
            grown += integer_bytes(count) + integer_bytes(2 * count + 4)
        i, step = (1, 2) if same else (0, 1)
        while i < len(pairs):
            text = pairs[i]
            i += step
            length = len(text)
            grown += text_bytes(text)
            parts.append(_LENGTHS[length] if length < 256 else length.to_bytes(4, "little"))
            parts.append(text)
        packed = b"".join(parts)
        self.ms.append(ms)
        self.seqs.append(seq)
        return self._add(entry_id, packed, grown)

    def add_packed(self, entry_id: int, packed: bytes, listpack_bytes: int) -> int:
        """`add` for an entry that is packed already, and takes so much of a listpack."""
        self.ms.append(entry_id >> _SHIFT)
        self.seqs.append(entry_id & _MASK)
        return self._add(entry_id, packed, listpack_bytes)

    def _add(self, entry_id: int, packed: bytes, listpack_bytes: int) -> int:
        self.lengths.append(len(packed))
        data = self.data
        if type(data) is bytes:
            # It was full, and by now more is taken.
            data = bytearray(data)
        data += packed
        self.data = data
        self.last = entry_id
        self.listpack_bytes += listpack_bytes
        return _ENTRY_BYTES + len(packed)

    def close(self) -> None:
        """It is full: the room that it had to grow is given back."""
        self.data = bytes(self.data)

    def remove(self, position: int) -> int:
        """Remove an entry, of which the node remembers that there was one; what it had cost."""
        return self._cut(position, position + 1)

    def remove_first(self, count: int) -> int:
        """`remove` for the first entries."""
        return self._cut(0, count)

    def _cut(self, start: int, end: int) -> int:
        lengths = self.lengths
        begin = sum(lengths[:start])
        size = sum(lengths[start:end])
        data = self.data
        if type(data) is bytes:
            self.data = data[:begin] + data[begin + size :]
        else:
            del data[begin : begin + size]  # type: ignore[union-attr]  # it is a bytearray
        del self.ms[start:end]
        del self.seqs[start:end]
        del lengths[start:end]
        self.deleted += end - start
        return size + _ENTRY_BYTES * (end - start)

    # --- reading -------------------------------------------------------------------------------

    def entry_id(self, position: int) -> int:
        """The id of an entry."""
        return self.ms[position] << _SHIFT | self.seqs[position]

    def position(self, entry_id: int) -> int:
        """The position of the first entry with at least this id."""
        ms = entry_id >> _SHIFT
        low = bisect_left(self.ms, ms)
        if low == len(self.ms) or self.ms[low] != ms:
            return low
        return bisect_left(self.seqs, entry_id & _MASK, low, bisect_right(self.ms, ms, low))

    def read(self, start: int, end: int) -> list[Reply]:
        """The entries at these positions, without the last one, as XRANGE answers them."""
        lengths = self.lengths
        begin = sum(lengths[:start])
        raw = bytes(self.data[begin : begin + sum(lengths[start:end])])
        found: list[Reply] = []
        place = 0
        for number in range(start, end):
            texts = self._texts(raw, place)
            place += lengths[number]
            found.append([b"%d-%d" % (self.ms[number], self.seqs[number]), texts])
        return found

    def texts(self, position: int) -> list[bytes]:
        """The fields of an entry, each followed by its value."""
        return self._texts(self.packed_at(position), 0)

    def _texts(self, raw: bytes, place: int) -> list[Any]:
        count = _length(raw, place)
        place += 4
        texts: list[Any] = []
        if count == 0:
            for field in self.fields:
                stop = place + 4 + _length(raw, place)
                texts.append(field)
                texts.append(raw[place + 4 : stop])
                place = stop
            return texts
        for _ in range(2 * count):
            stop = place + 4 + _length(raw, place)
            texts.append(raw[place + 4 : stop])
            place = stop
        return texts

    # --- for media ------------------------------------------------------------------------------

    def packed_at(self, position: int) -> bytes:
        """An entry as it is packed."""
        begin = sum(self.lengths[:position])
        return bytes(self.data[begin : begin + self.lengths[position]])

    def payload(self) -> bytes:
        """All of it, as one string."""
        fields = pack(self.fields)
        head = _HEAD.pack(
            self.first.to_bytes(16, "big"),
            self.last.to_bytes(16, "big"),
            self.deleted,
            self.listpack_bytes,
            len(self.ms),
            len(fields),
        )
        return b"".join(
            (
                head,
                fields,
                self.ms.tobytes(),
                self.seqs.tobytes(),
                self.lengths.tobytes(),
                self.data,
            )
        )

    @classmethod
    def of_payload(cls, payload: bytes) -> StreamNode:
        """The node that was stored.

        Raises:
            PayloadError: It is none.
        """
        if len(payload) < _HEAD.size:
            raise PayloadError("not a part of a stream")
        first, last, deleted, listpack_bytes, count, fields_bytes = _HEAD.unpack_from(payload)
        place = _HEAD.size + fields_bytes
        node = cls(int.from_bytes(first, "big"), tuple(unpack(payload[_HEAD.size : place])))
        node.last = int.from_bytes(last, "big")
        node.deleted = deleted
        node.listpack_bytes = listpack_bytes
        if place + 20 * count > len(payload):
            raise PayloadError("a part of a stream is cut off")
        node.ms.frombytes(payload[place : place + 8 * count])
        node.seqs.frombytes(payload[place + 8 * count : place + 16 * count])
        node.lengths.frombytes(payload[place + 16 * count : place + 20 * count])
        node.data = payload[place + 20 * count :]
        if sum(node.lengths) != len(node.data):
            raise PayloadError("entries of a stream are cut off")
        return node

    def copy(self) -> StreamNode:
        """A node of the same entries, to be changed on its own."""
        copied = StreamNode.__new__(StreamNode)
        copied.first = self.first
        copied.first_ms = self.first_ms
        copied.first_seq = self.first_seq
        copied.last = self.last
        copied.deleted = self.deleted
        copied.fields = self.fields
        copied.ms = self.ms[:]
        copied.seqs = self.seqs[:]
        copied.lengths = self.lengths[:]
        copied.data = self.data if type(self.data) is bytes else self.data[:]
        copied.listpack_bytes = self.listpack_bytes
        return copied

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        ids = [self.entry_id(position) for position in range(len(self.ms))]
        assert ids == sorted(set(ids))
        assert len(self.ms) == len(self.seqs) == len(self.lengths)
        assert sum(self.lengths) == len(self.data)
        assert all(self.first <= entry_id <= self.last for entry_id in ids)


def _length(raw: bytes, place: int) -> int:
    return raw[place] | raw[place + 1] << 8 | raw[place + 2] << 16 | raw[place + 3] << 24
