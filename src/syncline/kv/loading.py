"""Builds a store from the sections of a snapshot, and refuses whatever can't be the state of one.

The sections come in this order: leases, records, changes, users. Each change names its record (the key's present one by
the key alone) and, if it is the key's first change in the history, the version before it. Every other change follows on
the one before, so that no version stands in a snapshot twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from syncline.kv.auth.records import AuthRecord
from syncline.kv.digest import record_checksum
from syncline.kv.limits import MAX_KEY_BYTES
from syncline.kv.records import KeyRecord, LeaseRecord, is_sound
from syncline.kv.store import KeyStore, StoreTooLarge

__all__ = ["ChangeRow", "StoreLoader"]

ChangeRow: TypeAlias = "tuple[bytes | KeyRecord, KeyRecord | None]"
"""A change as a snapshot has it."""


class StoreLoader:
    """Takes the sections in order. Each call raises ValueError for content that can't be, and `StoreTooLarge` as soon
    as the store and its history count for more than `max_bytes` (0: no limit).
    """

    def __init__(self, revision: int, oldest: int, *, max_bytes: int = 0) -> None:
        if not 0 < oldest <= revision + 1:
            raise ValueError(f"the oldest readable revision is {oldest} in a store at {revision}")
        self._store = KeyStore(revision, oldest)
        self._max_bytes = max_bytes
        self._recent = 0  # records that were written in the history, so that it must hold their changes
        self._at = oldest - 1  # the revision of the last change
        self._last: dict[bytes, KeyRecord] = {}  # by key, the record of its last change so far

    def add_leases(self, leases: Sequence[LeaseRecord]) -> None:
        """Add leases, in the order of their grants."""
        self._store.leases.load(leases)
        self._check_size()

    def add_records(self, records: list[KeyRecord]) -> None:
        """Add present records; keys must ascend strictly. Their leases must be there."""
        self._store.load(records)
        oldest = self._store.oldest
        self._recent += sum([record.mod_revision >= oldest for record in records])
        self._check_size()

    def add_changes(self, rows: Sequence[ChangeRow]) -> None:
        """Add changes, in the order of their revisions."""
        for content, before in rows:
            record = self._present(content) if isinstance(content, bytes) else content
            if not self._at <= record.mod_revision <= self._at + 1 or record.mod_revision < self._store.oldest:
                raise ValueError(f"a change of revision {record.mod_revision} after revision {self._at}")
            self._at = record.mod_revision
            previous = self._previous(record, before)
            if isinstance(content, KeyRecord):
                record = self._past(record, previous)
            _check_follows(record, previous)
            self._store.load_change(record, previous)
            self._last[record.key] = record
        self._check_size()

    def add_auth(self, records: Sequence[AuthRecord]) -> None:
        """Add the settings, roles, users and tokens, in this order."""
        self._store.auth.load(records)

    def finish(self) -> KeyStore:
        """Check that nothing is missing; the store."""
        store = self._store
        store.leases.check_loaded()
        store.auth.check_loaded()
        if self._at != store.revision:
            raise ValueError(f"the changes end at revision {self._at} in a store at {store.revision}")
        recent = 0
        for key, record in self._last.items():
            if record.version:
                recent += 1
                if store.get(key) is not record:
                    raise ValueError(f"the last change of key {key[:64]!r} is not its record")
            elif store.get(key) is not None:
                raise ValueError(f"key {key[:64]!r} exists, and its last change deleted it")
        if recent != self._recent:
            raise ValueError(f"{self._recent} records were written in the history, which has {recent} of them")
        return store

    def _present(self, key: bytes) -> KeyRecord:
        record = self._store.get(key)
        if record is None:
            raise ValueError(f"a change of key {key[:64]!r}, which does not exist")
        return record

    def _previous(self, record: KeyRecord, before: KeyRecord | None) -> KeyRecord | None:
        """The version that the record replaced."""
        last = self._last.get(record.key)
        if last is not None:
            if before is not None:
                raise ValueError(f"two versions before a change of key {record.key[:64]!r}")
            return last if last.version else None
        if before is None:
            return None
        if before.key != record.key or before.mod_revision >= self._store.oldest or not before.version:
            raise ValueError(f"a wrong version before a change of key {record.key[:64]!r}")
        _check(before)
        present = self._store.get(before.key)
        return before if present is None else _with_key(before, present.key)

    def _past(self, record: KeyRecord, previous: KeyRecord | None) -> KeyRecord:
        """A past record, checked, with the key's one object: each version would hold a copy of the key otherwise."""
        if not record.version and (record.create_revision or record.value or record.lease):
            raise ValueError(f"a delete of key {record.key[:64]!r} with content")
        _check(record)
        if previous is not None:
            return _with_key(record, previous.key)
        last = self._last.get(record.key) or self._store.get(record.key)
        return record if last is None else _with_key(record, last.key)

    def _check_size(self) -> None:
        size_bytes = self._store.size_bytes + self._store.history_bytes
        if self._max_bytes and size_bytes > self._max_bytes:
            raise StoreTooLarge(size_bytes)


def _check(record: KeyRecord) -> None:
    key = record.key
    if not 0 < len(key) <= MAX_KEY_BYTES or record.checksum != record_checksum(record):
        raise ValueError(f"the checksum of a past version of key {key[:64]!r} is wrong")
    if record.version and not is_sound(record):
        raise ValueError(f"key {key[:64]!r} of revision {record.mod_revision}, made at {record.create_revision}")


def _check_follows(record: KeyRecord, previous: KeyRecord | None) -> None:
    """Raise ValueError if `record` can't have replaced `previous`."""
    if previous is None:
        follows = record.version == 1 and record.create_revision == record.mod_revision
    elif not record.version:
        follows = record.mod_revision > previous.mod_revision
    else:
        same_life = record.create_revision == previous.create_revision
        follows = same_life and record.version == previous.version + 1 and record.mod_revision > previous.mod_revision
    if not follows:
        raise ValueError(f"key {record.key[:64]!r} at revision {record.mod_revision} does not follow on its history")


def _with_key(record: KeyRecord, key: bytes) -> KeyRecord:
    return KeyRecord(
        key,
        record.value,
        record.create_revision,
        record.mod_revision,
        record.version,
        record.lease,
        record.checksum,
    )
