"""The floor of the history, the sweep below it, and the refusals of what is beyond it."""

from __future__ import annotations

import gc
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from syncline.errors import Rejected
from syncline.kv import history as history_module
from syncline.kv.records import Change
from syncline.kv.sizes import CHANGE_OVERHEAD_BYTES, TOMBSTONE_BYTES, VERSION_OVERHEAD_BYTES
from syncline.kv.store import KeyStore


def hot_key(versions: int, value: bytes = b"v") -> KeyStore:
    """One key that was written again and again."""
    store = KeyStore()
    for revision in range(1, versions + 1):
        store.put(b"hot", value, 0, revision)
    return store


def test_store_revision_below_the_oldest_is_refused_with_it() -> None:
    store = hot_key(10)
    assert store.compact(6)
    reads: list[Callable[[], object]] = [
        lambda: store.get(b"hot", 5),
        lambda: store.range(revision=5),
        lambda: store.range(count_only=True, revision=1),
        lambda: store.count(b"", None, 5),
        lambda: store.changes(5),
        lambda: store.changes(0),
        lambda: store.get(b"hot", -1),
    ]
    for read in reads:
        with pytest.raises(Rejected) as refusal:
            read()
        assert (refusal.value.code, refusal.value.details) == ("compacted", {"oldest": 6})
    record = store.get(b"hot", 6)
    assert record is not None
    assert record.version == 6


def test_changes_are_all_there_though_a_sweep_comes_before_the_first() -> None:
    store = hot_key(history_module.SEGMENT_CHANGES + 10)
    changes = store.changes(1)
    store.compact(store.revision)
    assert not store.sweep(10_000)
    store.put(b"hot", b"later", 0, store.revision + 1)
    assert [revision for revision, _ in changes] == list(range(1, history_module.SEGMENT_CHANGES + 11))


def test_store_revision_above_the_present_one_is_refused() -> None:
    store = hot_key(3)
    reads: list[Callable[[], object]] = [
        lambda: store.get(b"hot", 4),
        lambda: store.range(revision=4),
        lambda: store.changes(5),
        lambda: store.compact(4),
    ]
    for read in reads:
        with pytest.raises(Rejected) as refusal:
            read()
        assert (refusal.value.code, refusal.value.details) == ("future_revision", {"revision": 3})
    assert list(store.changes(4)) == []
    assert store.oldest == 1


def test_store_compaction_to_a_lower_revision_changes_nothing() -> None:
    store = hot_key(10)
    store.compact(8)
    digest = store.digest
    for revision in (8, 3, 0, -5):
        assert not store.compact(revision)
    assert (store.oldest, store.digest) == (8, digest)


def test_store_present_revision_is_readable_without_history() -> None:
    """A list that was begun at the present revision goes on at it, though nothing before is kept."""
    store = KeyStore(7, 8)
    assert (store.oldest, store.history_revisions) == (8, 0)
    assert store.get(b"k", 7) is None
    assert store.range(revision=7).items == []
    assert list(store.changes(8)) == []
    store.put(b"k", b"v", 0, 8)
    assert [revision for revision, _ in store.changes(8)] == [8]
    store.check()


def test_store_changes_of_an_old_iterator_survive_compaction_and_writes() -> None:
    store = hot_key(3_000)
    expected = list(store.changes(100))
    iterator = store.changes(100)
    found = [next(iterator)]
    store.compact(3_000)
    while store.sweep(500):
        pass
    store.put(b"hot", b"later", 0, 3_001)
    assert found + list(iterator) == expected


def test_store_changes_of_one_revision_stay_together() -> None:
    """Also if they are more than a segment of the history holds."""
    store = KeyStore()
    count = 2 * history_module.SEGMENT_CHANGES + 100
    store.put(b"first", b"", 0, 1)
    for number in range(count):
        store.put(b"%06d" % number, b"", 0, 2)
    gone = store.delete_range(b"0", b"9", count, 3)
    found = dict(store.changes(1))
    assert [len(found[revision]) for revision in (1, 2, 3)] == [1, count, count]
    assert [change.previous for change in found[3]] == gone
    assert list(store.changes(2, 2)) == [(2, found[2])]


def test_store_change_of_a_deleted_key_is_a_tombstone() -> None:
    store = KeyStore()
    store.put(b"k", b"v", 0, 1)
    previous = store.delete(b"k", 2)
    ((_, (change,)),) = store.changes(2)
    record = change.record
    assert change == Change(record, previous)
    assert (record.key, record.value, record.create_revision, record.mod_revision) == (b"k", b"", 0, 2)
    assert (record.version, record.lease) == (0, 0)


def test_store_writes_alone_sweep_what_was_compacted() -> None:
    """No clock and no idle work is needed to bound the memory."""
    store = hot_key(5_000)
    before = store.history_bytes
    store.compact(5_000)
    for revision in range(5_001, 7_600):
        store.put(b"hot", b"v", 0, revision)
    assert not store.sweep(0)
    assert store.history_bytes < before
    assert len(store._history._segments) <= 4
    store.check()


def test_store_writes_of_large_values_sweep_what_was_compacted() -> None:
    """Their segments are full long before the change that sweeps in those of small values."""
    value = bytes(256 * 1024)
    store = hot_key(64, value)
    store.compact(64)
    for revision in range(65, 70):
        store.put(b"hot", value, 0, revision)
    assert not store.sweep(0)
    assert store.history_bytes < 16 * len(value)
    store.check()


def test_store_sweep_frees_so_many_changes_and_no_more() -> None:
    store = hot_key(100)
    store.compact(91)
    steps = 1
    while store.sweep(7):
        steps += 1
    assert steps == -(-90 // 7)
    store.check()


def test_store_history_bytes_count_versions_and_tombstones() -> None:
    store = KeyStore()
    store.put(b"key", b"12345", 0, 1)
    assert store.history_bytes == CHANGE_OVERHEAD_BYTES
    store.put(b"key", b"1", 0, 2)
    assert store.history_bytes == 2 * CHANGE_OVERHEAD_BYTES + VERSION_OVERHEAD_BYTES + 5
    store.delete(b"key", 3)
    assert store.history_bytes == 3 * CHANGE_OVERHEAD_BYTES + 2 * VERSION_OVERHEAD_BYTES + 6 + TOMBSTONE_BYTES + 3
    assert store.size_bytes == 0


def test_store_large_versions_are_freed_soon_after_compaction() -> None:
    """A segment is freed as a whole: it holds a mebibyte, however few changes that are."""
    store = hot_key(64, bytes(256 * 1024))
    store.compact(60)
    store.sweep(1_000)
    assert store.history_bytes < 8 * 256 * 1024
    store.check()


@pytest.mark.parametrize("segment_changes", [4, 1024])
def test_store_compaction_target_keeps_the_bounds(segment_changes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history_module, "SEGMENT_CHANGES", segment_changes)
    store = KeyStore()
    for revision in range(1, 41):
        store.put(b"k%d" % (revision % 3), bytes(100), 0, revision)
    each = VERSION_OVERHEAD_BYTES + CHANGE_OVERHEAD_BYTES + 100
    assert store.compaction_target(1_000, 1_000_000) == 1
    assert store.compaction_target(10, 1_000_000) == 31
    assert store.compaction_target(1, 1_000_000) == 40
    assert store.compaction_target(1_000, 10 * each) == 31
    assert store.compaction_target(1_000, 11 * each - 1) == 31
    assert store.compaction_target(5, 10 * each) == 36
    assert store.compaction_target(1_000, 0) == 40
    store.compact(35)
    assert store.compaction_target(10, 10 * each) == 35
    while store.sweep(100):
        pass
    assert store.compaction_target(10, 10 * each) == 35
    assert store.compaction_target(1_000, 5 * each) == 36


def test_store_compaction_target_of_an_empty_store_is_its_oldest() -> None:
    assert KeyStore().compaction_target(100, 100) == 1
    assert KeyStore(7, 8).compaction_target(100, 100) == 8


def test_store_past_page_looks_at_a_bounded_number_of_keys() -> None:
    """A million keys that did not exist yet are on the way to one that did."""
    store = KeyStore()
    store.put(b"z", b"", 0, 1)
    for number in range(30_000):
        store.put(b"%06d" % number, b"", 0, 2 + number)
    pages = [store.range(revision=1)]
    assert (pages[0].items, pages[0].more, pages[0].count) == ([], True, 1)
    while pages[-1].more:
        pages.append(store.range(revision=1, after=pages[-1].after))
    assert [len(page.items) for page in pages] == [0, 0, 1]


def test_store_hot_key_costs_do_not_grow_with_its_versions() -> None:
    """Writes, and the sweep of 100,000 versions of one key: by the step, not by their number."""
    few, many = hot_key(1_000), hot_key(100_000)
    few.compact(1_000)
    many.compact(100_000)
    assert took(lambda: few.sweep(900)) * 20 > took(lambda: many.sweep(900))
    assert took(lambda: write_hot(few)) * 20 > took(lambda: write_hot(many))
    for revision in (100_000, 100_450, 100_900):
        record = many.get(b"hot", revision)
        assert record is not None
        assert record.mod_revision == revision


def write_hot(store: KeyStore) -> None:
    for _ in range(900):
        store.put(b"hot", b"v", 0, store.revision + 1)


def took(action: Callable[[], object]) -> float:
    """Processor time, without that of a garbage collection."""
    gc.disable()
    start = time.thread_time()
    action()
    seconds = time.thread_time() - start
    gc.enable()
    return seconds


def test_history_page_shows_what_the_store_does() -> None:
    """The example of `docs/kv-history.md` runs."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "kv-history.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert example.count("assert") == 6


def test_store_version_in_force_at_the_oldest_survives_the_sweep() -> None:
    """It is older than the floor, and a read at the floor shows it: also when it was replaced above the floor."""
    store = KeyStore()
    store.put(b"a", b"1", 0, 1)
    store.put(b"a", b"2", 0, 2)
    for revision in range(3, 7):
        store.put(b"b", b"", 0, revision)
    store.put(b"a", b"3", 0, 7)
    store.delete(b"b", 8)
    store.compact(5)
    store.sweep(100)
    found = [store.get(b"a", revision) for revision in (5, 6, 7)]
    assert [record and record.value for record in found] == [b"2", b"2", b"3"]
    assert [record.key for record in store.range(revision=7).items] == [b"a", b"b"]
    store.check()


def test_store_digest_does_not_depend_on_the_sweep() -> None:
    """One member has swept all, one something, one nothing; a fourth was never told of what they compacted."""
    stores = [hot_key(3_000) for _ in range(3)]
    for store in stores:
        store.compact(2_900)
    stores[0].sweep(10_000)
    stores[1].sweep(1_100)
    assert len({store.digest for store in stores}) == 1
    assert hot_key(3_000).digest != stores[0].digest
