"""The entries of a stream, in nodes that are ordered by id.

Adding is to the last node, a range is found by a search over the nodes, and trimming from the
front leaves whole nodes at once. Where nodes begin, and so what approximate trimming leaves, is as
in Redis (see `stream_node`).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from pocketkv.engine.arguments import UINT64_MAX
from pocketkv.engine.packing import pack, unpack
from pocketkv.engine.stream_ids import ID_MAX
from pocketkv.engine.stream_node import StreamNode
from pocketkv.engine.values import Collection
from pocketkv.resp.replies import Reply

# The object with its numbers, the list of nodes, the dict of groups.
BASE_BYTES: Final = 400

# Unknown, as Redis writes it, of how many entries a group has read.
UNKNOWN_READS: Final = -1

# Notes of changes: an entry that was added to the last node, or began one; one that was removed;
# those that were trimmed; the stream's own numbers.
ADDED: Final = b"a"
BEGAN: Final = b"A"
REMOVED: Final = b"d"
TRIMMED: Final = b"t"
STATE: Final = b"S"

# Of which the number of a radix tree's nodes is counted; of more, it follows from these.
_COUNTED_NODES: Final = 4096
_KEY_BYTES: Final = 16
_SIGN: Final = 1 << 63


class StreamEntries(Collection):
    """What a stream is without its groups.

    Attributes:
        last_id: The largest id that it ever had, or was told to have had.
        entries_added: How many entries were ever added.
        max_deleted_id: The largest id that was removed, not trimmed.
    """

    __slots__ = ("_length", "_nodes", "entries_added", "last_id", "max_deleted_id")

    type_name = "stream"
    # Entries come one by one, for as long as a stream lives.
    change_bytes = 4096

    def __init__(self) -> None:
        super().__init__()
        self.size_bytes = BASE_BYTES
        self.last_id = 0
        self.entries_added = 0
        self.max_deleted_id = 0
        self._nodes: list[StreamNode] = []
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def encoding(self) -> str:
        """What OBJECT ENCODING answers."""
        return "stream"

    # --- reading -------------------------------------------------------------------------------

    def first_id(self) -> int:
        """The id of the first entry; 0 if there is none."""
        for node in self._nodes:
            if len(node):
                return node.entry_id(0)
        return 0

    def top_id(self) -> int:
        """The id of the last entry; 0 if there is none."""
        for i in range(len(self._nodes) - 1, -1, -1):
            node = self._nodes[i]
            if len(node):
                return node.entry_id(len(node) - 1)
        return 0

    def appended_id(self) -> int:
        """The id of the entry that was added last, removed or not; 0 if its node has gone."""
        return self._nodes[-1].last if self._nodes else 0

    def __contains__(self, entry_id: int) -> bool:
        number = self._node_of(entry_id)
        if number == len(self._nodes):
            return False
        node = self._nodes[number]
        position = node.position(entry_id)
        return position < len(node) and node.entry_id(position) == entry_id

    def entry(self, entry_id: int) -> Reply:
        """An entry, as XRANGE answers it; ``None`` if there is none with this id."""
        found = self.range(entry_id, entry_id, 1)
        return found[0] if found else None

    def range(self, start: int, end: int, count: int) -> list[Reply]:
        """The entries from one id to another, both included, at most `count` (0: all)."""
        found: list[Reply] = []
        nodes = self._nodes
        number = self._node_of(start)
        left = count or self._length
        while number < len(nodes) and left > 0:
            node = nodes[number]
            if node.first > end:
                break
            first = node.position(start) if node.first < start else 0
            stop = len(node) if node.last <= end else node.position(end + 1)
            stop = min(stop, first + left)
            if first < stop:
                found += node.read(first, stop)
                left -= stop - first
            number += 1
        return found

    def range_reversed(self, start: int, end: int, count: int) -> list[Reply]:
        """`range` from the end to the start."""
        found: list[Reply] = []
        nodes = self._nodes
        number = min(self._node_of(end), len(nodes) - 1)
        left = count or self._length
        while number >= 0 and left > 0:
            node = nodes[number]
            if node.last < start:
                break
            first = node.position(start) if node.first < start else 0
            stop = len(node) if node.last <= end else node.position(end + 1)
            first = max(first, stop - left)
            if first < stop:
                entries = node.read(first, stop)
                entries.reverse()
                found += entries
                left -= stop - first
            number -= 1
        return found

    def ids_after(self, entry_id: int, count: int) -> list[int]:
        """The ids of the first `count` entries (0: all) that are larger than this one."""
        found: list[int] = []
        nodes = self._nodes
        left = count or self._length
        number = self._node_of(entry_id + 1)
        while number < len(nodes) and left > 0:
            node = nodes[number]
            for position in range(node.position(entry_id + 1), len(node)):
                if left == 0:
                    break
                found.append(node.entry_id(position))
                left -= 1
            number += 1
        return found

    def texts(self) -> Iterator[bytes]:
        """Of each entry its id, with a dot, then its fields and values, as a digest has them."""
        for entry_id, texts in self.entries():
            yield b"%d.%d" % (entry_id >> 64, entry_id & UINT64_MAX)
            yield from texts

    def entries(self) -> Iterator[tuple[int, list[bytes]]]:
        """The id of each entry, and its fields, each followed by its value."""
        for node in self._nodes:
            for position in range(len(node)):
                yield node.entry_id(position), node.texts(position)

    def _node_of(self, entry_id: int) -> int:
        """The first node whose last id is at least this one."""
        nodes = self._nodes
        high = len(nodes)
        if high == 0:
            return 0
        node = nodes[high - 1]
        if node.last < entry_id:
            return high
        low = 0
        while low < high:
            middle = (low + high) // 2
            node = nodes[middle]
            if node.last < entry_id:
                low = middle + 1
            else:
                high = middle
        return low

    # --- figures that Redis shows ----------------------------------------------------------------

    def has_gap_after(self, entry_id: int) -> bool:
        """Whether an entry with at least this id was removed while smaller ones stayed."""
        if self._length == 0 or self.max_deleted_id == 0:
            return False
        return entry_id <= self.max_deleted_id

    def reads_until(self, entry_id: int) -> int:
        """How many entries were added up to this one; `UNKNOWN_READS` if it cannot be told."""
        if self.entries_added == 0:
            return 0
        if self._length == 0 and entry_id <= self.last_id:
            return self.entries_added
        if entry_id == self.last_id:
            return self.entries_added
        if entry_id > self.last_id:
            return UNKNOWN_READS
        first = self.first_id()
        if self.max_deleted_id == 0 or self.max_deleted_id < first:
            if entry_id < first:
                return self.entries_added - self._length
            if entry_id == first:
                return self.entries_added - self._length + 1
        return UNKNOWN_READS

    def tree_keys(self) -> int:
        """How many nodes there are."""
        return len(self._nodes)

    def tree_nodes(self) -> int:
        """How many nodes Redis's radix tree would have that finds them by their first ids.

        Counted of the first few thousand, and projected from them if there are more.
        """
        keys = [node.first.to_bytes(_KEY_BYTES, "big") for node in self._nodes[:_COUNTED_NODES]]
        if not keys:
            return 1
        counted = _tree_nodes(keys)
        return counted * len(self._nodes) // len(keys)

    # --- changing ------------------------------------------------------------------------------

    def append(self, entry_id: int, pairs: list[bytes], entries_max: int, bytes_max: int) -> None:
        """Add an entry whose id is larger than all before.

        Args:
            entry_id: Its id.
            pairs: Its fields, each followed by its value.
            entries_max: How many entries a node may have; 0: any number.
            bytes_max: How long a node's listpack may be; 0: as long as Redis allows.
        """
        size = 0
        for text in pairs:
            size += len(text)
        node = self._nodes[-1] if self._nodes else None
        begins = node is None or node.is_full(size, entries_max, bytes_max)
        if node is None or begins:
            node = self._begin(entry_id, tuple(pairs[::2]))
        before = node.listpack_bytes
        self.size_bytes += node.add(entry_id, pairs)
        self._length += 1
        self.entries_added += 1
        self.last_id = entry_id
        if self.changes is not None:
            self._note_added(node, begins, node.listpack_bytes - before)

    def _begin(self, entry_id: int, fields: tuple[bytes, ...]) -> StreamNode:
        if self._nodes:
            last = self._nodes[-1]
            last.close()
            if last.fields == fields:
                # Nodes that follow each other mostly have the same fields.
                fields = last.fields
        node = StreamNode(entry_id, fields)
        self._nodes.append(node)
        self.size_bytes += node.size_bytes()
        return node

    def _note_added(self, node: StreamNode, begins: bool, listpack_bytes: int) -> None:
        assert self.changes is not None  # The caller has looked.
        note = (
            (BEGAN if begins else ADDED)
            + self.last_id.to_bytes(16, "big")
            + self.entries_added.to_bytes(8, "big")
            + listpack_bytes.to_bytes(8, "big")
        )
        if begins:
            fields = pack(node.fields)
            note += len(fields).to_bytes(4, "big") + fields
        self.changes.append(note + node.packed_at(len(node) - 1))

    def remove(self, entry_id: int) -> bool:
        """Remove an entry; false if there is none with this id."""
        if not self._remove(entry_id):
            return False
        self.max_deleted_id = max(self.max_deleted_id, entry_id)
        if self.changes is not None:
            self.changes.append(
                REMOVED + entry_id.to_bytes(16, "big") + self.max_deleted_id.to_bytes(16, "big")
            )
        return True

    def _remove(self, entry_id: int) -> bool:
        number = self._node_of(entry_id)
        if number == len(self._nodes):
            return False
        node = self._nodes[number]
        position = node.position(entry_id)
        if position == len(node) or node.entry_id(position) != entry_id:
            return False
        self._length -= 1
        if len(node) == 1:
            del self._nodes[number]
            self.size_bytes -= node.size_bytes()
        else:
            self.size_bytes -= node.remove(position)
        return True

    def trim_to_length(self, length: int, approximate: bool, limit: int) -> int:
        """Remove the first entries, so that not more than `length` are left.

        Args:
            length: How many should be left.
            approximate: Whether only whole nodes go, so that more may be left.
            limit: How many go at most, counted in whole nodes; 0: as many as it takes.

        Returns:
            How many went.
        """
        nodes = self._nodes
        number = 0
        removed = 0
        boundary = 0
        while number < len(nodes) and self._length - removed > length:
            node = nodes[number]
            count = len(node)
            if limit and removed + count > limit:
                break
            if self._length - removed - count >= length:
                removed += count
                number += 1
                boundary = nodes[number].first if number < len(nodes) else node.last + 1
                continue
            if not approximate:
                boundary = node.entry_id(self._length - removed - length)
            break
        return self._trimmed(boundary)

    def trim_to_id(self, boundary: int, approximate: bool, limit: int) -> int:
        """Remove the entries with smaller ids than this one; otherwise as `trim_to_length`."""
        nodes = self._nodes
        number = 0
        removed = 0
        stop = 0
        while number < len(nodes):
            node = nodes[number]
            if limit and removed + len(node) > limit:
                break
            if node.last >= boundary:
                if not approximate:
                    stop = boundary
                break
            removed += len(node)
            number += 1
            stop = node.last + 1
        return self._trimmed(stop)

    def _trimmed(self, boundary: int) -> int:
        """Remove all entries with smaller ids, and note it; how many there were."""
        nodes_before = len(self._nodes)
        removed = self.remove_before(boundary)
        if self.changes is not None and (removed or nodes_before != len(self._nodes)):
            self.changes.append(TRIMMED + boundary.to_bytes(17, "big"))
        return removed

    def remove_before(self, boundary: int) -> int:
        """Remove all entries with smaller ids; how many there were."""
        nodes = self._nodes
        number = 0
        before = self._length
        while number < len(nodes) and nodes[number].last < boundary:
            node = nodes[number]
            self.size_bytes -= node.size_bytes()
            self._length -= len(node)
            number += 1
        if number:
            del nodes[:number]
        if nodes and nodes[0].first < boundary:
            node = nodes[0]
            position = node.position(boundary)
            if position:
                self._length -= position
                self.size_bytes -= node.remove_first(position)
        return before - self._length

    def set_state(self, last_id: int, entries_added: int, max_deleted_id: int) -> None:
        """Set the stream's own numbers."""
        self.last_id = last_id
        self.entries_added = entries_added
        self.max_deleted_id = max_deleted_id
        if self.changes is not None:
            self.changes.append(self.state_note())

    # --- what is noted, and done again -----------------------------------------------------------

    def state_note(self) -> bytes:
        """The stream's own numbers, as a note of a change."""
        return (
            STATE
            + self.last_id.to_bytes(16, "big")
            + self.entries_added.to_bytes(8, "big")
            + self.max_deleted_id.to_bytes(16, "big")
        )

    def adopt(self, node: StreamNode) -> None:
        """Take a node behind all others, unless it is there."""
        if self._nodes and self._nodes[-1].last >= node.first:
            return
        if self._nodes:
            self._nodes[-1].close()
        self._nodes.append(node)
        self._length += len(node)
        self.size_bytes += node.size_bytes()

    def _add_again(self, change: bytes) -> None:
        """Add what was added; nothing but the numbers, if it is there already."""
        entry_id = int.from_bytes(change[1:17], "big")
        listpack_bytes = int.from_bytes(change[25:33], "big")
        is_new = entry_id > self.last_id and entry_id > self.appended_id()
        self.last_id = entry_id
        self.entries_added = int.from_bytes(change[17:25], "big")
        if not is_new:
            return
        packed = change[33:]
        if change[:1] == BEGAN:
            length = int.from_bytes(change[33:37], "big")
            fields = tuple(unpack(change[37 : 37 + length]))
            packed = change[37 + length :]
            node = self._begin(entry_id, fields)
        elif self._nodes:
            node = self._nodes[-1]
        else:
            return
        self.size_bytes += node.add_packed(entry_id, packed, listpack_bytes)
        self._length += 1

    def validate(self) -> None:
        """Check what must always hold; tests call it."""
        nodes = self._nodes
        for node in nodes:
            node.validate()
        for before, after in pairwise(nodes):
            assert before.last < after.first
        assert sum(map(len, nodes)) == self._length
        assert not nodes or nodes[-1].last <= ID_MAX


def signed(number: int) -> int:
    """A counter as Redis shows it: with 64 bits, of which one is the sign."""
    return number if -_SIGN <= number < _SIGN else (number + _SIGN) % (2 * _SIGN) - _SIGN


def _tree_nodes(keys: list[bytes]) -> int:
    """The nodes of a radix tree of these ascending keys: chains, branches and leaves."""
    # Depths of the branches that the last key hangs under, each with the depth above it.
    depths: list[int] = []
    chains = 0
    branches = 0
    for i in range(len(keys)):
        left = _common(keys[i - 1], keys[i]) if i else -1
        right = _common(keys[i], keys[i + 1]) if i + 1 < len(keys) else -1
        # A leaf hangs below the deeper of the two branches that it shares with its neighbours.
        chains += max(left, right) + 1 < _KEY_BYTES
        if i + 1 == len(keys):
            right = -1
        # Branches that are deeper than what the next key shares are complete.
        while depths and depths[-1] > right:
            depth = depths.pop()
            above = max(depths[-1] if depths else -1, right)
            branches += 1
            chains += depth - (above + 1) > 0
        if right >= 0 and (not depths or depths[-1] < right):
            depths.append(right)
    return chains + branches + len(keys)


def _common(one: bytes, other: bytes) -> int:
    """How many bytes two keys have in common at their beginning."""
    count = 0
    while one[count] == other[count]:
        count += 1
    return count
