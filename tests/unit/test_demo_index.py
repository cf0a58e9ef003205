"""The demo's computation: encoding, shares, and the comparison that must be able to fail."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketkv.demo import index
from pocketkv.demo.files import File, InputError, find_files, share_out
from pocketkv.demo.worker import Done, Task

TEXTS = st.lists(
    st.lists(st.sampled_from([b"a", b"B", b"_x1", b"caf\xc3\xa9", b" ", b"\n", b"a.b", b"7"])).map(
        b"".join
    ),
    max_size=5,
)


def shuffled(texts: list[bytes], partitions: int, batch: int, chunk_bytes: int) -> list[bytes]:
    """What mappers and reducers make of texts, here in one process."""
    inboxes: list[list[bytes]] = [[] for _ in range(partitions)]
    for first in range(0, len(texts), batch):
        postings: index.Postings = {}
        for number in range(first, min(first + batch, len(texts))):
            index.add_file(postings, number, texts[number])
        for inbox, chunk in zip(inboxes, index.split(postings, partitions), strict=True):
            inbox.append(chunk)
    results: list[bytes] = []
    for inbox in inboxes:
        merged: index.Postings = {}
        # Mappers finish in any order.
        for chunk in reversed(inbox):
            index.merge(merged, chunk)
        results += index.chunks_of(merged, chunk_bytes)
    return results


def check(texts: list[bytes], results: list[bytes]) -> list[str]:
    """What the driver's comparison finds."""
    reference = index.reference_index(enumerate(texts))
    found = [difference for chunk in results for difference in index.differences(reference, chunk)]
    return found + [f"missing {word!r}" for word in reference]


@given(TEXTS, st.integers(1, 4), st.integers(1, 3), st.integers(1, 40))
def test_the_shuffle_gives_what_one_process_computes(
    texts: list[bytes], partitions: int, batch: int, chunk_bytes: int
) -> None:
    assert check(texts, shuffled(texts, partitions, batch, chunk_bytes)) == []


def test_words_are_folded_runs_of_letters_digits_and_underscores() -> None:
    assert index.words_of(b"Def __init__(self, x2):\xe9\xc3\xa9clair\n") == (
        [b"def", b"__init__", b"self", b"x2", b"clair"]
    )


def test_the_reference_is_what_it_should_be() -> None:
    found = index.reference_index([(3, b"a b A"), (5, b"b")])
    assert found == {b"a": {3: array("L", [0, 2])}, b"b": {3: array("L", [1]), 5: array("L", [0])}}


@given(st.integers(0, 2**70))
def test_numbers_come_back(value: int) -> None:
    encoded = index.encode_number(value)
    assert index._decode_number(encoded + b"x", 0) == (value, len(encoded))


def test_a_chunk_is_compact() -> None:
    postings: index.Postings = {}
    index.add_file(postings, 0, b"ab cd ab ab")
    # Two letters, three places: length 2, word, one file, number 0, three bytes of places.
    assert index.encode(postings) == b"\x02ab\x01\x00\x03\x01\x02\x01" + b"\x02cd\x01\x00\x01\x02"


@given(st.binary(max_size=40))
def test_any_bytes_are_a_chunk_or_damaged(data: bytes) -> None:
    try:
        decoded = list(index.decode(data))
        [list(index.decode_places(places)) for _, postings in decoded for _, places in postings]
    except index.DamagedError:
        pass


@given(st.binary(max_size=40))
def test_any_bytes_are_compared(data: bytes) -> None:
    reference = index.reference_index([(0, b"a b")])
    found = list(index.differences(reference, data))
    assert found or reference


TEXT = [b"one two three two", b"two four"]


@pytest.mark.parametrize("at", range(60))
def test_a_changed_byte_is_found(at: int) -> None:
    (result,) = shuffled(TEXT, 1, 1, 1000)
    changed = bytearray(result)
    changed[at % len(changed)] ^= 1 << at % 7
    assert check(TEXT, [bytes(changed)])


def test_what_is_left_out_or_twice_is_found() -> None:
    results = shuffled(TEXT, 2, 1, 1)
    assert len(results) > 2
    assert check(TEXT, results) == []
    assert check(TEXT, results[1:])
    assert check(TEXT, [*results, results[0]])
    assert check(TEXT, [])


def test_a_chunk_that_ends_early_is_damaged() -> None:
    (chunk,) = shuffled(TEXT, 1, 2, 1000)
    merged: index.Postings = {}
    with pytest.raises(index.DamagedError):
        index.merge(merged, chunk[:-1])


# --- input ---------------------------------------------------------------------------------------


def write(folder: Path, **contents: bytes) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def test_text_files_are_found_in_order(tmp_path: Path) -> None:
    write(tmp_path, b=b"text", empty=b"", binary=b"a\0b")
    write(tmp_path / "sub", a=b"more")
    write(tmp_path / ".hidden", c=b"not")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    (tmp_path / "circle").symlink_to(tmp_path)
    found = find_files(tmp_path, 1000)
    assert [(f.number, f.path.name, f.size_bytes) for f in found.files] == [
        (0, "b", 4),
        (1, "a", 4),
    ]
    assert (found.size_bytes, found.is_cut) == (8, False)


def test_the_limit_leaves_files_out(tmp_path: Path) -> None:
    write(tmp_path, a=b"1234", b=b"123456", c=b"12")
    found = find_files(tmp_path, 6)
    assert [f.path.name for f in found.files] == ["a", "c"]
    assert found.is_cut
    with pytest.raises(InputError, match="none of 3 text files fits"):
        find_files(tmp_path, 1)


def test_no_input_is_one_line(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(InputError) as caught:
            find_files(folder, 1000)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_the_standard_library_is_the_default() -> None:
    found = find_files(None, 3_000_000)
    assert found.is_cut
    assert all(file.path.suffix == ".py" for file in found.files)
    assert not any("site-packages" in file.path.parts for file in found.files)


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(1, 6))
def test_files_are_shared_out_evenly(sizes: list[int], workers: int) -> None:
    files = tuple(File(number, Path("x"), size) for number, size in enumerate(sizes))
    shares = share_out(files, workers)
    assert len(shares) == workers
    assert sorted(f.number for share in shares for f in share) == list(range(len(files)))
    assert all(list(share) == sorted(share, key=lambda f: f.number) for share in shares)
    loads = [sum(f.size_bytes for f in share) for share in shares]
    assert max(loads) - min(loads) <= max(sizes)


def test_tasks_and_reports_survive_the_way(tmp_path: Path) -> None:
    task = Task("map", 3, "redis://a:b@c", True, 4, 2, ((0, "/x"), (7, "/\udcff")))
    assert Task.from_json(task.as_json()) == task
    done = Done(3, 2, 4, 100)
    assert Done.from_json('{"worker":3,"batches":2,"written_keys":4,"written_bytes":100}') == done
