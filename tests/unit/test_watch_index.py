"""The index of watches against a plain list of ranges."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.kv.store import prefix_end
from syncline.kv.watch_index import WatchIndex

keys = st.binary(max_size=3).map(lambda raw: bytes(byte % 3 for byte in raw))
ranges = st.one_of(
    keys.map(lambda key: (key, key + b"\0")),
    keys.map(lambda key: (key, prefix_end(key))),
    st.tuples(keys, st.none() | keys),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), ranges), max_size=60), st.lists(keys, max_size=20))
def test_watch_index_finds_what_a_list_of_ranges_has(
    steps: list[tuple[int, tuple[bytes, bytes | None]]], asked: list[bytes]
) -> None:
    index: WatchIndex[int] = WatchIndex()
    model: dict[int, tuple[bytes, bytes | None]] = {}
    for number, (start, end) in steps:
        if number in model:
            index.remove(*model.pop(number), number)
        else:
            index.add(start, end, number)
            model[number] = start, end
        index.check()
    for key in asked:
        found = index.at(key)
        expected = [n for n, (start, end) in model.items() if start <= key and (end is None or key < end)]
        assert sorted(found) == sorted(expected)
    assert sorted(index.items()) == sorted(model)
    assert len(index) == len(model)


@pytest.mark.parametrize("order", [1, -1])
def test_watch_index_of_ascending_ranges_stays_balanced(order: int) -> None:
    """A tree that degenerates would take a stack as deep as there are watches."""
    index: WatchIndex[int] = WatchIndex()
    for number in range(3000)[::order]:
        index.add(b"%06d" % number, b"%06d" % (number + 2), number)
    index.check()
    assert sorted(index.at(b"001000")) == [999, 1000]
    for number in range(0, 3000, 2):
        index.remove(b"%06d" % number, b"%06d" % (number + 2), number)
    index.check()
    assert index.at(b"001000") == [999]
