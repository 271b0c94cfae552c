"""The store's history against a naive model: a list of all revisions, each a full dictionary."""

from __future__ import annotations

import io
from itertools import product
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from syncline import Config, Raft
from syncline.errors import Rejected
from syncline.kv import history as history_module
from syncline.kv import snapshots
from syncline.kv import store as store_module
from syncline.kv.commands import Compact, Delete, Put, encode_command
from syncline.kv.machine import KvMachine
from syncline.kv.records import Change, KeyRecord
from syncline.kv.snapshots import KvSnapshot, read_snapshot
from syncline.kv.store import KeyStore, StoreView
from tests.helpers.kv_commands import KEYS, Sink, bounds, ends, keys, values

Plain = tuple[bytes, int, int, int, int]
"""A record in the naive model: value, create revision, mod revision, version, lease."""

LEASES = [3, 5, 9]

revisions = st.integers(0, 10_000)


class NaiveHistory:
    """Every revision as a full dictionary, and what changed in it."""

    def __init__(self) -> None:
        self.oldest = 1
        self.states: list[dict[bytes, Plain]] = [{}]
        self.changed: list[list[bytes]] = [[]]  # by revision, in the order of the changes

    @property
    def revision(self) -> int:
        return len(self.states) - 1

    def next(self) -> int:
        self.states.append(dict(self.states[-1]))
        self.changed.append([])
        return self.revision

    def put(self, key: bytes, value: bytes, lease: int) -> None:
        _, create, _, version, _ = self.states[-1].get(key, (b"", self.revision, 0, 0, 0))
        self.states[-1][key] = (value, create, self.revision, version + 1, lease)
        self.changed[-1].append(key)

    def delete(self, key: bytes) -> None:
        del self.states[-1][key]
        self.changed[-1].append(key)

    def within(self, revision: int, start: bytes, end: bytes | None) -> list[bytes]:
        return sorted(key for key in self.states[revision] if key >= start and (end is None or key < end))

    def changes(self, revision: int) -> list[tuple[bytes, Plain | None, Plain | None]]:
        after, before = self.states[revision], self.states[revision - 1]
        return [(key, after.get(key), before.get(key)) for key in self.changed[revision]]


def plain(record: KeyRecord | None) -> Plain | None:
    if record is None or not record.version:
        return None
    return record.value, record.create_revision, record.mod_revision, record.version, record.lease


def plain_changes(changes: list[Change]) -> list[tuple[bytes, Plain | None, Plain | None]]:
    return [(change.record.key, plain(change.record), plain(change.previous)) for change in changes]


def stream_of(store: KeyStore) -> bytes:
    sink, snapshot = Sink(), KvSnapshot(store.view())
    snapshot.persist(sink)
    snapshot.release()
    return sink.data


def restored(store: KeyStore) -> KeyStore:
    return read_snapshot(io.BytesIO(stream_of(store)))


class HistoryModel(RuleBasedStateMachine):
    """Three replicas: one sweeps everything at once, one only as it writes (or less), one is restored at any point."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(history_module, "SEGMENT_CHANGES", 4)
        self.patch.setattr(history_module, "LONG_LIST", 3)
        self.patch.setattr(history_module, "SORTS_PER_COUNT", 1)
        self.patch.setattr(store_module, "_PAGE_STEP", 3)
        self.patch.setattr(store_module, "MAX_EXAMINED_KEYS", 6)
        self.patch.setattr(snapshots, "FRAME_TARGET_BYTES", 100)
        self.naive = NaiveHistory()
        self.swept, self.lazy, self.restored = KeyStore(), KeyStore(), KeyStore()
        self.views: list[tuple[StoreView, bytes]] = []
        self.steps = 0

    @initialize(
        sweep_every=st.sampled_from([1, 3]),
        swept_at_once=st.sampled_from([0, 1, 2, 6]),
        segment_bytes=st.sampled_from([400, 2**20]),
    )
    def start(self, sweep_every: int, swept_at_once: int, segment_bytes: int) -> None:
        self.patch.setattr(history_module, "SWEEP_EVERY", sweep_every)
        self.patch.setattr(history_module, "SWEPT_AT_ONCE", swept_at_once)
        self.patch.setattr(history_module, "SEGMENT_BYTES", segment_bytes)

    @property
    def stores(self) -> list[KeyStore]:
        return [self.swept, self.lazy, self.restored]

    # -- writes

    @rule(key=keys, value=values, lease=st.sampled_from([0, 0, 0, *LEASES]))
    def put(self, key: bytes, value: bytes, lease: int) -> None:
        self.write([(key, value)], lease)

    @rule(key=keys)
    def delete(self, key: bytes) -> None:
        if key in self.naive.states[-1]:
            self.write([(key, None)], 0)
        else:
            for store in self.stores:
                assert store.delete(key, store.revision + 1) is None

    @rule(writes=st.dictionaries(keys, st.none() | values, min_size=1))
    def write_several(self, writes: dict[bytes, bytes | None]) -> None:
        found = [(key, value) for key, value in writes.items() if value is not None or key in self.naive.states[-1]]
        if found:
            self.write(found, 0)

    @rule(writes=st.lists(st.tuples(keys, st.none() | values), min_size=3, max_size=12))
    def write_one_by_one(self, writes: list[tuple[bytes, bytes | None]]) -> None:
        for key, value in writes:
            if value is not None or key in self.naive.states[-1]:
                self.write([(key, value)], 0)

    @rule(start=bounds, end=ends, limit=st.integers(1, 4))
    def delete_range(self, start: bytes, end: bytes | None, limit: int) -> None:
        gone = self.naive.within(self.naive.revision, start, end)[:limit]
        before = [self.naive.states[-1][key] for key in gone]
        if gone:
            self.naive.next()
        for key in gone:
            self.naive.delete(key)
        for store in self.stores:
            records = store.delete_range(start, end, limit, store.revision + 1)
            assert [record.key for record in records] == gone
            assert [plain(record) for record in records] == before

    def write(self, writes: list[tuple[bytes, bytes | None]], lease: int) -> None:
        """All in one revision; None as value: delete."""
        revision = self.naive.next()
        for store in self.stores:
            if lease and store.leases.get(lease) is None:
                store.leases.grant(lease, 1_000)
        for key, value in writes:
            expected = self.naive.states[-1].get(key)
            if value is None:
                self.naive.delete(key)
                found = [store.delete(key, revision) for store in self.stores]
            else:
                self.naive.put(key, value, lease)
                found = [store.put(key, value, lease, revision) for store in self.stores]
            assert [plain(record) for record in found] == [expected] * len(found)

    # -- leases

    @rule(lease=st.sampled_from(LEASES))
    def revoke(self, lease: int) -> None:
        """Delete the keys of a lease in one revision, and end it."""
        if self.swept.leases.get(lease) is None:
            return
        attached = self.swept.leases.keys(lease)
        if attached:
            self.write([(key, None) for key in attached], 0)
        for store in self.stores:
            store.leases.end(lease)

    @rule(lease=st.sampled_from(LEASES), rest_ms=st.integers(1, 1_500))
    def checkpoint(self, lease: int, rest_ms: int) -> None:
        for store in self.stores:
            if store.leases.get(lease) is not None:
                store.leases.checkpoint(lease, rest_ms)

    # -- compaction, snapshots

    @rule(back=st.sampled_from([0, 2, 5, 10, 10, 20, 20]))
    def compact(self, back: int) -> None:
        revision = self.naive.revision - back
        moves = revision > self.naive.oldest
        for store in self.stores:
            assert store.compact(revision) == moves
        self.naive.oldest = max(self.naive.oldest, revision)
        while self.swept.sweep(3):
            pass

    @rule(limit=st.integers(0, 9))
    def sweep(self, limit: int) -> None:
        self.lazy.sweep(limit)

    @rule()
    def restore(self) -> None:
        before = stream_of(self.restored)
        self.restored = restored(self.restored)
        assert stream_of(self.restored) == before

    @rule()
    def exchange(self) -> None:
        """A snapshot of the replica that has swept least is installed at the one that was restored."""
        self.restored = restored(self.lazy)

    @rule()
    def take_view(self) -> None:
        self.views.append((self.lazy.view(), stream_of(self.lazy)))

    @rule()
    def release_view(self) -> None:
        if self.views:
            self.views.pop(0)[0].release()

    # -- reads

    @rule(
        at=revisions,
        start=st.just(b"") | bounds,
        end=st.none() | ends,
        after=st.none() | st.none() | keys,
        keys_only=st.booleans(),
    )
    def read_pages(self, at: int, start: bytes, end: bytes | None, after: bytes | None, keys_only: bool) -> None:
        """All pages of a range at a past revision, of any size and in both directions."""
        revision = self.readable(at)
        every = self.naive.within(revision, start, end)
        for store, reverse, limit, max_bytes in product(self.stores, (False, True), (0, 1, 3), (6, 1_000)):
            left = every[::-1] if reverse else every
            if after is not None:
                left = [key for key in left if (key < after if reverse else key > after)]
            seen: list[bytes] = []
            cursor = after
            more = True
            while more:
                page = store.range(
                    start,
                    end,
                    limit=limit,
                    after=cursor,
                    reverse=reverse,
                    keys_only=keys_only,
                    max_bytes=max_bytes,
                    revision=revision,
                )
                assert (page.count, page.revision) == (len(every), revision)
                seen += [record.key for record in page.items]
                for record in page.items:
                    value, *numbers = self.naive.states[revision][record.key]
                    assert plain(record) == (b"" if keys_only else value, *numbers)
                assert len(page.items) <= (limit or 6) or revision == self.naive.revision
                size_bytes = sum(len(record.key) + len(record.value) for record in page.items)
                assert size_bytes <= max_bytes or len(page.items) == 1
                assert page.more == (seen != left)
                assert (page.after is not None) == page.more
                more, cursor = page.more, page.after
            assert seen == left
        for store in self.stores:
            page = store.range(start, end, count_only=True, revision=revision)
            assert (page.items, page.count, page.more) == ([], len(every), bool(every))

    def readable(self, at: int) -> int:
        """A revision that can be read, by a number; the present one (0 at first) among them."""
        return self.naive.revision - at % max(self.naive.revision + 1 - self.naive.oldest, 1)

    @rule(at=revisions, length=st.integers(0, 5))
    def read_changes(self, at: int, length: int) -> None:
        first = max(self.readable(at), self.naive.oldest)
        last = min(first + length, self.naive.revision)
        expected = [(revision, self.naive.changes(revision)) for revision in range(first, last + 1)]
        for store in self.stores:
            found = store.changes(first, last) if first <= self.naive.revision else store.changes(first)
            assert [(revision, plain_changes(changes)) for revision, changes in found] == expected

    @invariant()
    def digests_are_equal(self) -> None:
        assert len({store.digest for store in self.stores}) == 1
        for store in self.stores:
            assert (store.revision, store.oldest) == (self.naive.revision, self.naive.oldest)
            assert store.history_revisions == max(self.naive.revision + 1 - self.naive.oldest, 0)
            store.check()

    @invariant()
    def same_at_each_revision(self) -> None:
        """Each revision that can be read, in one step of three; those that can't say so."""
        self.steps += 1
        if self.steps % 3:
            return
        for store in self.stores:
            for revision in range(self.naive.oldest, self.naive.revision + 1):
                state = self.naive.states[revision]
                assert [plain(store.get(key, revision)) for key in KEYS] == [state.get(key) for key in KEYS]
            for revision in {1, self.naive.oldest - 1} - {0, self.naive.oldest, self.naive.revision}:
                if revision < self.naive.oldest:
                    with pytest.raises(Rejected, match="compacted"):
                        store.get(b"a", revision)

    @invariant()
    def views_stay(self) -> None:
        for view, stream in self.views:
            sink = Sink()
            KvSnapshot(view).persist(sink)
            assert sink.data == stream

    def teardown(self) -> None:
        self.patch.undo()


TestHistory = HistoryModel.TestCase
TestHistory.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


class LongHistoryModel(HistoryModel):
    """The same, for longer."""


TestLongHistory = LongHistoryModel.TestCase
TestLongHistory.settings = settings(max_examples=400, stateful_step_count=50, deadline=None)
TestLongHistory.pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # type: ignore[attr-defined]


async def test_history_survives_a_snapshot_and_a_restart(tmp_path: Path) -> None:
    """Past reads and changes are there on a node that has started from its snapshot."""
    config = Config(name="a", data_dir=str(tmp_path / "a"), listen="127.0.0.1:0", peers={"a": "127.0.0.1:7100"})
    machine = KvMachine()
    async with await Raft.open(config, machine) as raft:
        for value in (b"1", b"2", b"3"):
            await raft.apply(encode_command(Put(b"key", value)))
        await raft.apply(encode_command(Delete(b"key")))
        await raft.apply(encode_command(Compact(2)))
        await raft.snapshot()
    again = KvMachine()
    async with await Raft.open(config, again):
        assert (again.store.revision, again.store.oldest) == (4, 2)
        found = [again.store.get(b"key", revision) for revision in (2, 3, 4)]
        assert [record and record.value for record in found] == [b"2", b"3", None]
        assert list(again.store.changes(2)) == list(machine.store.changes(2))
        assert again.digest() == machine.digest()
