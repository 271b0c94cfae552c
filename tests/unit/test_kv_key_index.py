"""The sorted index of keys against a plain sorted list, with chunks small enough to split and vanish all the time."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from syncline.kv import key_index
from syncline.kv.key_index import KeyIndex

keys = st.binary(min_size=1, max_size=2)


class IndexModel(RuleBasedStateMachine):
    """Keys in a set; each view beside a copy of what it must go on showing."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(key_index, "CHUNK_KEYS", 4)
        self.model: set[bytes] = set()
        self.index = KeyIndex()
        self.views: list[tuple[list[list[bytes]], list[bytes]]] = []

    @initialize(first=st.sets(keys, max_size=40))
    def start(self, first: set[bytes]) -> None:
        self.model = set(first)
        self.index = KeyIndex()
        self.index.extend(sorted(first))

    @rule(key=keys)
    def add_or_remove(self, key: bytes) -> None:
        if key in self.model:
            self.model.remove(key)
            self.index.remove(key)
        else:
            self.model.add(key)
            self.index.add(key)

    @rule(more=st.sets(keys, max_size=6))
    def extend(self, more: set[bytes]) -> None:
        before = self.index.freeze()
        if more and self.model and min(more) <= max(self.model):
            with pytest.raises(ValueError, match="ascend"):
                self.index.extend(sorted(more))
            assert self.index.freeze() == before
            return
        self.index.extend(sorted(more))
        self.model |= more

    @precondition(lambda self: self.model)
    @rule(data=st.data(), count=st.integers(1, 10))
    def remove_some(self, data: st.DataObject, count: int) -> None:
        at = data.draw(st.integers(0, len(self.model) - 1))
        for key in sorted(self.model)[at : at + count]:
            self.model.remove(key)
            self.index.remove(key)

    @rule(start=st.binary(max_size=2), end=st.none() | st.binary(max_size=2), limit=st.integers(0, 12))
    def look(self, start: bytes, end: bytes | None, limit: int) -> None:
        expected = sorted(key for key in self.model if key >= start and (end is None or key < end))
        assert self.index.count(start, end) == len(expected)
        assert self.index.first(start, end, limit) == expected[:limit]
        assert self.index.last(start, end, limit) == expected[::-1][:limit]

    @rule()
    def freeze(self) -> None:
        self.views.append((self.index.freeze(), sorted(self.model)))

    @invariant()
    def holds(self) -> None:
        self.index.check()
        assert len(self.index) == len(self.model)
        assert self.index.first(b"", None, len(self.model) + 1) == sorted(self.model)
        for chunks, expected in self.views:
            assert [key for chunk in chunks for key in chunk] == expected

    def teardown(self) -> None:
        self.patch.undo()


TestKeyIndex = IndexModel.TestCase
TestKeyIndex.settings = settings(max_examples=90, stateful_step_count=40, deadline=None)


def test_growing_keys_fill_their_chunks() -> None:
    index = KeyIndex()
    for number in range(10_000):
        index.add(b"%08d" % number)
    index.check()
    assert len(index.freeze()) == -(-10_000 // key_index.CHUNK_KEYS)


def test_keys_in_any_order_come_out_in_order() -> None:
    wanted = [b"%d" % number for number in range(5_000)]
    random.Random(4).shuffle(wanted)
    index = KeyIndex()
    for key in wanted:
        index.add(key)
    index.check()
    found = index.first(b"", None, 10_000)
    assert len(found) == 5_000
    assert all(one < other for one, other in pairwise(found))


@pytest.mark.parametrize("keys", [[b"b", b"a"], [b"a", b"a"], [b"a", b"c", b"b"]])
def test_an_index_is_not_extended_out_of_order(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="ascend"):
        KeyIndex().extend(keys)


def test_a_key_is_added_once_and_removed_once() -> None:
    index = KeyIndex()
    index.extend([b"a", b"c"])
    with pytest.raises(AssertionError):
        index.add(b"a")
    with pytest.raises(AssertionError):
        index.remove(b"b")
