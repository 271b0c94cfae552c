"""Sections of a snapshot that can't be the state of a store, each refused for what is wrong with it.

All records carry their right checksums: a faulty or hostile sender can compute them, and the digest too.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from msgspec.structs import replace

from syncline.kv.digest import record_checksum
from syncline.kv.loading import ChangeRow, StoreLoader
from syncline.kv.records import KeyRecord, LeaseRecord
from syncline.kv.store import KeyStore, StoreTooLarge


def record(key: bytes, value: bytes, create: int, mod: int, version: int, lease: int = 0) -> KeyRecord:
    """A record with its right checksum."""
    bare = KeyRecord(key, value, create, mod, version, lease)
    return replace(bare, checksum=record_checksum(bare))


def tombstone(key: bytes, mod: int) -> KeyRecord:
    return record(key, b"", 0, mod, 0)


OLD = record(b"a", b"old", 1, 2, 2)
FIRST = record(b"a", b"first", 1, 5, 3)
A = record(b"a", b"new", 1, 7, 4)
B = record(b"b", b"", 6, 6, 1)
C = record(b"c", b"gone", 4, 4, 1)
D = record(b"d", b"before the history", 3, 3, 1)

ROWS: list[ChangeRow] = [
    (FIRST, OLD),
    (b"b", None),
    (b"a", None),
    (tombstone(b"c", 7), C),
    (record(b"c", b"back", 8, 8, 1), None),
    (tombstone(b"c", 9), None),
]
"""The changes 5 to 9 of a store with `a`, `b`, `d` and no `c`."""


def load(
    rows: list[ChangeRow],
    records: list[KeyRecord] | None = None,
    *,
    revision: int = 9,
    oldest: int = 5,
    leases: list[LeaseRecord] | None = None,
    max_bytes: int = 0,
) -> KeyStore:
    loader = StoreLoader(revision, oldest, max_bytes=max_bytes)
    loader.add_leases(leases or [])
    loader.add_records([A, B, D] if records is None else records)
    loader.add_changes(rows[:3])
    loader.add_changes(rows[3:])
    return loader.finish()


def at(place: int, *rows: ChangeRow, drop: int = 1) -> list[ChangeRow]:
    """The rows with some replaced."""
    return [*ROWS[:place], *rows, *ROWS[place + drop :]]


def test_loading_of_sound_sections_is_the_store() -> None:
    store = load(ROWS)
    store.check()
    assert [store.get(b"a", revision) for revision in (5, 6, 7, 9)] == [FIRST, FIRST, A, A]
    assert [store.get(b"c", revision) for revision in (5, 6, 7, 9)] == [C, C, None, None]
    assert [[change.previous for change in changes] for _, changes in store.changes(5)] == [
        [OLD],
        [None],
        [FIRST, C],
        [None],
        [record(b"c", b"back", 8, 8, 1)],
    ]


def test_loading_shares_one_object_for_the_versions_of_a_key() -> None:
    """Each version would hold a copy of its key otherwise."""
    rows: list[ChangeRow] = at(
        0, (replace(FIRST, key=bytes(bytearray(b"a"))), replace(OLD, key=bytes(bytearray(b"a"))))
    )
    store = load(rows)
    found = [change for _, changes in store.changes(5) for change in changes]
    keys = [one.key for change in found for one in (change.record, change.previous) if one is not None]
    for name in (b"a", b"c"):
        assert len({id(key) for key in keys if key == name}) == 1


FORGED: dict[str, tuple[list[ChangeRow], str]] = {
    "a revision is missing": (at(1, drop=1), "revision 7 after revision 5"),
    "the first revision is missing": (at(0, drop=1), "revision 6 after revision 4"),
    "the last revision is missing": (ROWS[:-1], "end at revision 8"),
    "no changes": ([], "end at revision 4"),
    "a revision above the store's": ([*ROWS, (tombstone(b"a", 10), None)], "end at revision 10"),
    "a change below the oldest": ([(record(b"x", b"", 4, 4, 1), None), *ROWS], "revision 4 after"),
    "out of order": (at(1, ROWS[2], ROWS[1], drop=2), "revision 7 after revision 5"),
    "a key twice in one revision": (at(4, ROWS[4], (tombstone(b"c", 8), None)), "does not follow"),
    "a change twice": (at(1, ROWS[1], ROWS[1]), "does not follow"),
    "a version is skipped": (at(0, (record(b"a", b"first", 1, 5, 4), OLD)), "does not follow"),
    "another life": (at(0, (record(b"a", b"first", 2, 5, 3), OLD)), "does not follow"),
    "a creation of a key that was there": (at(0, (record(b"a", b"first", 5, 5, 1), OLD)), "does not follow"),
    "a later version of an absent key": (at(0, (FIRST, None)), "does not follow"),
    "a delete of an absent key": (at(3, (tombstone(b"c", 7), None)), "does not follow"),
    "the version before is too new": (at(0, (FIRST, record(b"a", b"old", 1, 5, 2))), "wrong version before"),
    "the version before is a tombstone": (at(3, (tombstone(b"c", 7), tombstone(b"c", 4))), "wrong version before"),
    "the version before is another key's": (at(0, (FIRST, record(b"b", b"old", 1, 2, 2))), "wrong version before"),
    "the version before has a wrong checksum": (at(0, (FIRST, replace(OLD, value=b"x"))), "checksum"),
    "the version before can't be": (at(0, (record(b"a", b"", 1, 5, 10), record(b"a", b"", 1, 2, 9))), "made at 1"),
    "the version before is named again": (at(2, (b"a", OLD)), "two versions before"),
    "a past record has a wrong checksum": (at(0, (replace(FIRST, value=b"x"), OLD)), "checksum"),
    "a tombstone with a value": (at(3, (record(b"c", b"x", 0, 7, 0), C)), "with content"),
    "a tombstone with a lease": (at(3, (record(b"c", b"", 0, 7, 0, 5), C)), "with content"),
    "a tombstone with a creation": (at(3, (record(b"c", b"", 4, 7, 0), C)), "with content"),
    "an empty key": (at(1, (record(b"", b"", 6, 6, 1), None)), "past version"),
    "a key that is too long": (at(1, (record(bytes(4097), b"", 6, 6, 1), None)), "past version"),
    "a present record in full": (at(1, (B, None)), "not its record"),
    "a reference to a key that is not there": (at(1, (b"x", None)), "does not exist"),
    "the last change of a key is not present": (at(1, (b"b", None), (record(b"x", b"", 6, 6, 1), None)), "not its rec"),
    "a present key was deleted": (
        at(4, (tombstone(b"a", 8), None), (record(b"x", b"", 9, 9, 1), None), drop=2),
        "deleted it",
    ),
}


@pytest.mark.parametrize("forged", FORGED)
def test_loading_of_changes_that_can_not_be_is_refused(forged: str) -> None:
    rows, message = FORGED[forged]
    with pytest.raises(ValueError, match=message):
        load(rows)


def test_loading_of_a_recent_record_without_its_change_is_refused() -> None:
    other = record(b"e", b"", 8, 8, 1)
    with pytest.raises(ValueError, match="3 records were written in the history, which has 2"):
        load(ROWS, [A, B, D, other])


@pytest.mark.parametrize("oldest", [0, -1, 11, 2**70])
def test_loading_with_an_oldest_revision_out_of_range_is_refused(oldest: int) -> None:
    with pytest.raises(ValueError, match="oldest readable revision"):
        StoreLoader(9, oldest)


REFUSED: dict[str, Callable[[], object]] = {
    "no such lease": lambda: load(ROWS, [A, B, replace_lease(D, 5)]),
    "a lease twice": lambda: load(ROWS, leases=[LeaseRecord(5, 10, 10), LeaseRecord(5, 10, 10)]),
    "a negative lease": lambda: load(ROWS, [A, B, replace_lease(D, -5)]),
    "a lease of one key without it": lambda: load(ROWS, leases=[LeaseRecord(5, 10, 10, own=True)]),
    "two keys of a lease of one": lambda: load(
        ROWS,
        [A, replace_lease(B, 5), replace_lease(D, 5)],
        leases=[LeaseRecord(5, 10, 10, own=True)],
    ),
    "a record with a version of 0": lambda: load(ROWS, [A, B, tombstone(b"d", 3)]),
    "an empty key": lambda: load(ROWS, [record(b"", b"", 1, 1, 1), A, B, D]),
    "a key that is too long": lambda: load(ROWS, [A, B, D, record(b"x" * 4097, b"", 1, 1, 1)]),
    "more versions than revisions": lambda: load(ROWS, [A, B, record(b"d", b"", 3, 3, 2)]),
}


@pytest.mark.parametrize("forged", REFUSED)
def test_loading_of_records_and_leases_that_can_not_be_is_refused(forged: str) -> None:
    with pytest.raises(ValueError, match=r"lease|revision"):
        REFUSED[forged]()


def test_loading_stops_when_records_and_history_exceed_the_memory() -> None:
    store = load(ROWS)
    size_bytes = store.size_bytes + store.history_bytes
    assert load(ROWS, max_bytes=size_bytes).digest == store.digest
    with pytest.raises(StoreTooLarge):
        load(ROWS, max_bytes=size_bytes - 1)
    with pytest.raises(StoreTooLarge):
        load([], max_bytes=store.size_bytes - 1)


def replace_lease(one: KeyRecord, lease: int) -> KeyRecord:
    return record(one.key, one.value, one.create_revision, one.mod_revision, one.version, lease)
