"""Entries for followers that lag are read beside the event loop, and what was replaced meanwhile is not sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline.consensus.types import NO_LIMIT, Compacted, HardState, LogEntry, NotLoaded, SnapshotMeta
from syncline.storage.read_ahead import CHUNKS, ReadAhead
from syncline.storage.stored_log import StoredLog
from syncline.storage.wal.writer import WalWrite
from tests.helpers.storage import open_wal, row


class Log:
    """A stored log whose oldest entries are on disk alone, and what it asks for."""

    def __init__(self, path: str) -> None:
        self.asked: list[tuple[int, int, int]] = []
        self.wal = open_wal(path)
        self.log = StoredLog.open(self.wal, None, tail_bytes=2000)
        self.reader = self.wal.reader()
        self.log.read_beside(lambda *what: self.asked.append(what))

    def write(self, entries: list[LogEntry], term: int = 1) -> None:
        write = WalWrite(entries=entries, hard_state=HardState(term, 0, 0))
        self.log.appended(write, self.wal.write([write]))

    def answer(self) -> bool:
        low, high, generation = self.asked.pop(0)
        return self.log.loaded(low, generation, self.reader.read(low, high, 1000))


@pytest.fixture
def stored(tmp_path: Path) -> Iterator[Log]:
    stored = Log(str(tmp_path / "wal"))
    for first in range(1, 101, 10):
        stored.write(row(first, first + 9, size=100))
    yield stored
    stored.reader.close()
    stored.wal.close()


def test_entries_in_memory_are_given_at_once(stored: Log) -> None:
    assert [entry.index for entry in stored.log.entries_to_send(100, 101, NO_LIMIT)] == [100]
    assert not stored.asked


def test_entries_on_disk_are_asked_for_once_and_given_when_they_came(stored: Log) -> None:
    for _ in range(3):
        with pytest.raises(NotLoaded):
            stored.log.entries_to_send(1, 101, NO_LIMIT)
    assert [low for low, _, _ in stored.asked] == [1]
    assert stored.answer()
    first = stored.log.entries_to_send(1, 101, 300)
    assert [entry.index for entry in first] == [1, 2]
    rest = stored.log.entries_to_send(3, 101, NO_LIMIT)
    assert [entry.index for entry in rest] == list(range(3, 9))
    with pytest.raises(NotLoaded):  # a chunk that was given to its end is dropped
        stored.log.entries_to_send(3, 101, NO_LIMIT)


def test_entries_replaced_while_they_were_read_are_not_given(stored: Log) -> None:
    with pytest.raises(NotLoaded):
        stored.log.entries_to_send(1, 101, NO_LIMIT)
    low, high, generation = stored.asked.pop()
    old = stored.reader.read(low, high, 1000)
    stored.write(row(3, 3, term=2), term=2)
    assert not stored.log.loaded(low, generation, old), "it is of an earlier generation"
    with pytest.raises(NotLoaded):
        stored.log.entries_to_send(1, 3, NO_LIMIT)


def test_entries_read_with_another_term_are_not_given(stored: Log) -> None:
    """The writer's thread may have replaced them already, and the log does not know of it yet."""
    with pytest.raises(NotLoaded):
        stored.log.entries_to_send(1, 101, NO_LIMIT)
    low, _, generation = stored.asked.pop()
    assert stored.log.loaded(low, generation, row(1, 5, term=7))
    with pytest.raises(NotLoaded):
        stored.log.entries_to_send(1, 101, NO_LIMIT)


def test_entries_given_up_are_compacted_and_not_asked_for(stored: Log) -> None:
    stored.log.installed(SnapshotMeta(50, 1))
    stored.log.compacted(50)
    with pytest.raises(Compacted):
        stored.log.entries_to_send(50, 101, NO_LIMIT)
    assert not stored.asked


def test_chunks_read_ahead_are_bounded() -> None:
    asked: list[int] = []
    ahead = ReadAhead(lambda low, *_: asked.append(low))
    for low in range(10, 1000, 10):
        assert ahead.take(low, 2000) is None
    assert len(asked) == CHUNKS
    for low in asked:
        assert ahead.loaded(low, 0, row(low, low + 9))
    assert ahead.take(500, 2000) is None
    assert ahead.loaded(500, 0, row(500, 509))
    assert ahead.take(10, 2000) is None, "the oldest chunk made room"
    assert ahead.take(505, 507) == row(505, 506)
