"""The store against a naive model; its views; its digest."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from syncline.kv.digest import record_checksum, state_digest
from syncline.kv.loading import StoreLoader
from syncline.kv.records import KeyRecord
from syncline.kv.store import KeyStore, StoreView, prefix_end
from tests.helpers.kv_commands import NaiveStore, bounds, contents, ends, keys, values


def filled(*names: bytes) -> KeyStore:
    store = KeyStore()
    for name in names:
        store.put(name, b"v-" + name, 0, store.revision + 1)
    return store


class StoreModel(RuleBasedStateMachine):
    """Every write and every read beside the naive store; views beside a copy of what they must show."""

    def __init__(self) -> None:
        super().__init__()
        self.store = KeyStore()
        self.store.leases.grant(7, 1_000)
        self.naive = NaiveStore()
        self.views: list[tuple[StoreView, list[KeyRecord], int]] = []

    @rule(key=keys, value=values, lease=st.sampled_from([0, 7]), another=st.booleans())
    def put(self, key: bytes, value: bytes, lease: int, another: bool) -> None:
        """In a revision of its own, or in the last one if that did not change the key."""
        changed = {change.record.key for _, changes in self.store.changes(self.store.oldest) for change in changes}
        another = another or key in changed or not self.store.revision
        revision = self.store.revision + another
        previous = self.store.put(key, value, lease, revision)
        assert (previous.mod_revision if previous else 0) == self.naive.put(key, value, revision)
        record = self.store.get(key)
        assert record is not None
        assert record.lease == lease

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        gone = self.store.delete(key, self.store.revision + 1)
        assert (gone is not None) == self.naive.delete(key, self.naive.revision + 1)

    @rule(start=bounds, end=ends, limit=st.integers(1, 4))
    def delete_range(self, start: bytes, end: bytes | None, limit: int) -> None:
        doomed = self.naive.within(start, end)[:limit]
        revision = self.naive.revision + 1
        assert [record.key for record in self.store.delete_range(start, end, limit, revision)] == doomed
        for key in doomed:
            self.naive.delete(key, revision)

    @rule(start=bounds, end=ends, limit=st.integers(0, 4), after=st.none() | keys, reverse=st.booleans())
    def read_page(self, start: bytes, end: bytes | None, limit: int, after: bytes | None, reverse: bool) -> None:
        every = self.naive.within(start, end)
        left = every[::-1] if reverse else every
        if after is not None:
            left = [key for key in left if (key < after if reverse else key > after)]
        page = self.store.range(start, end, limit=limit, after=after, reverse=reverse)
        assert [record.key for record in page.items] == left[: limit or len(left)]
        assert page.more == (len(page.items) < len(left))
        assert (page.count, page.revision) == (len(every), self.naive.revision)

    @rule()
    def take_view(self) -> None:
        self.views.append((self.store.view(), contents(self.store), self.store.digest))

    @rule()
    def release_view(self) -> None:
        if self.views:
            self.views.pop(0)[0].release()

    @invariant()
    def same_as_the_naive_store(self) -> None:
        self.store.check()
        assert self.store.revision == self.naive.revision
        assert len(self.store) == len(self.naive.records)
        for key in self.naive.records:
            record = self.store.get(key)
            assert record is not None
            assert (record.value, record.create_revision, record.mod_revision, record.version) == self.naive.records[
                key
            ]

    @invariant()
    def views_stay(self) -> None:
        for view, records, digest in self.views:
            assert [record for batch in view for record in batch] == records
            assert view.digest == digest
            assert view.count == len(records)


TestStore = StoreModel.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"", None), (b"a", b"b"), (b"a\xff", b"b"), (b"\xff\xff", None), (b"ab", b"ac"), (b"a\0", b"a\x01")],
)
def test_the_end_of_a_prefix(prefix: bytes, end: bytes | None) -> None:
    assert prefix_end(prefix) == end


@given(st.binary(max_size=4), st.binary(max_size=4))
def test_a_key_is_below_the_end_exactly_when_it_has_the_prefix(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    assert (key >= prefix and (end is None or key < end)) == key.startswith(prefix)


def test_an_empty_value_is_a_value() -> None:
    store = KeyStore()
    store.put(b"k", b"", 0, 1)
    record = store.get(b"k")
    assert record is not None
    assert record.value == b""
    assert store.get(b"l") is None


def test_key_put_after_its_delete_starts_at_version_one() -> None:
    store = filled(b"k", b"k", b"k")
    record = store.get(b"k")
    assert record is not None
    assert (record.create_revision, record.mod_revision, record.version) == (1, 3, 3)
    store.delete(b"k", 4)
    store.put(b"k", b"", 0, 5)
    record = store.get(b"k")
    assert record is not None
    assert (record.create_revision, record.mod_revision, record.version) == (5, 5, 1)


def test_a_revision_can_neither_be_skipped_nor_used_again() -> None:
    store = filled(b"a", b"b")
    for revision in (1, 4):
        with pytest.raises(AssertionError):
            store.put(b"k", b"", 0, revision)


def test_keys_only_leaves_the_values_out_and_keeps_the_rest() -> None:
    store = filled(b"a", b"b")
    whole, bare = store.range().items, store.range(keys_only=True).items
    assert [record.value for record in bare] == [b"", b""]
    for one, other in zip(whole, bare, strict=True):
        assert one.value
        assert (one.key, one.create_revision, one.mod_revision, one.version) == (
            other.key,
            other.create_revision,
            other.mod_revision,
            other.version,
        )


def test_count_only_counts() -> None:
    page = filled(b"a", b"b", b"c").range(b"b", count_only=True)
    assert (page.items, page.count, page.more, page.revision) == ([], 2, True, 3)


def test_a_page_is_bounded_in_bytes_and_the_next_goes_on_behind_it() -> None:
    store = KeyStore()
    for number in range(10):
        store.put(b"%d" % number, bytes(100), 0, number + 1)
    for reverse in (False, True):
        seen: list[bytes] = []
        after = None
        while True:
            page = store.range(b"2", b"8", after=after, reverse=reverse, max_bytes=250)
            assert len(page.items) == 2
            seen += [record.key for record in page.items]
            if not page.more:
                break
            after = page.items[-1].key
        assert seen == sorted((b"%d" % number for number in range(2, 8)), reverse=reverse)


def test_a_cursor_outside_the_range_does_not_widen_it() -> None:
    store = filled(b"a", b"b", b"c", b"d", b"e")
    forward = store.range(b"c", b"e", after=b"a").items
    backward = store.range(b"b", b"d", after=b"e", reverse=True).items
    assert [record.key for record in forward] == [b"c", b"d"]
    assert [record.key for record in backward] == [b"c", b"b"]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_long_page_has_every_key_once(reverse: bool) -> None:
    names = [b"%04d" % number for number in range(1_000)]
    page = filled(*names).range(b"0100", b"0900", reverse=reverse)
    assert [record.key for record in page.items] == sorted(names[100:900], reverse=reverse)
    assert not page.more


def test_a_record_larger_than_the_page_is_returned_alone() -> None:
    page = filled(b"a", b"b").range(max_bytes=1)
    assert [record.key for record in page.items] == [b"a"]
    assert page.more


def test_a_range_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("syncline.kv.store.MAX_RANGE_ITEMS", 600)
    store = filled(*[b"%04d" % number for number in range(700)])
    for limit in (0, 650):
        page = store.range(limit=limit)
        assert len(page.items) == 600
        assert page.more
        assert page.count == 700
        assert len(store.range(limit=limit, after=page.items[-1].key).items) == 100


def test_the_order_of_writes_leaves_no_trace_in_the_digest() -> None:
    one, other = KeyStore(), KeyStore()
    for key in (b"a", b"b"):
        one.put(key, b"v", 0, 1)
    for key in (b"b", b"a"):
        other.put(key, b"v", 0, 1)
    assert one.digest == other.digest


def test_the_digest_sees_every_field_and_the_revision() -> None:
    base = KeyRecord(b"k", b"v", 1, 2, 2, 0)
    others: list[dict[str, Any]] = [
        {"key": b"l"},
        {"value": b"w"},
        {"create_revision": 2},
        {"mod_revision": 1},
        {"version": 3},
        {"lease": 1},
    ]
    fields = {name: getattr(base, name) for name in base.__struct_fields__}
    sums = {record_checksum(KeyRecord(**(fields | change))) for change in others}
    assert len(sums | {record_checksum(base)}) == len(others) + 1
    state = (1, 1, 5, 1, 3, 1, 9)
    states = [state, *(tuple(number + (at == place) for at, number in enumerate(state)) for place in range(7))]
    assert len({state_digest(*one) for one in states}) == len(states)


def test_values_that_changed_places_change_the_digest() -> None:
    one, other = KeyStore(), KeyStore()
    for store, first, second in ((one, b"x", b"y"), (other, b"y", b"x")):
        store.put(b"a", first, 0, 1)
        store.put(b"b", second, 0, 1)
    assert one.digest != other.digest


def test_the_digest_is_the_same_in_every_process() -> None:
    program = (
        "from syncline.kv.store import KeyStore\n"
        "store = KeyStore()\n"
        "for at in range(50): store.put(b'%d' % (at % 40), b'v' * at, 0, at + 1)\n"
        "store.delete(b'7', 51)\n"
        "print(store.digest)"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, check=True, capture_output=True, text=True
        ).stdout
        for seed in ("1", "2")
    }
    assert digests == {"280876520997156929879917504686149598620\n"}


@pytest.mark.parametrize(
    "records",
    [
        [KeyRecord(b"b", b"", 1, 1, 1), KeyRecord(b"a", b"", 1, 1, 1)],
        [KeyRecord(b"a", b"", 1, 1, 1), KeyRecord(b"a", b"", 1, 1, 1)],
        [KeyRecord(b"a", b"", 1, 9, 1)],
        [KeyRecord(b"a", b"", 3, 2, 1)],
        [KeyRecord(b"a", b"", 0, 0, 1)],
    ],
)
def test_a_store_is_not_built_of_records_that_cannot_be(records: list[KeyRecord]) -> None:
    sound = [KeyRecord(*(*_fields(record)[:-1], record_checksum(record))) for record in records]
    with pytest.raises(ValueError, match="key"):
        StoreLoader(5, 6).add_records(sound)


def test_a_store_is_not_built_of_a_record_whose_checksum_is_wrong() -> None:
    with pytest.raises(ValueError, match="checksum"):
        StoreLoader(5, 6).add_records([KeyRecord(b"a", b"", 1, 1, 1, 0, 1)])


def _fields(record: KeyRecord) -> tuple[Any, ...]:
    return tuple(getattr(record, name) for name in record.__struct_fields__)


def test_releasing_a_view_twice_does_no_harm() -> None:
    store = filled(b"a")
    view = store.view()
    view.release()
    view.release()
    store.check()
