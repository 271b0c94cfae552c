"""A record of all changes of a run, taken while they are applied: compaction and snapshots take nothing from it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Final

from syncline.kv.records import Change, KeyRecord
from syncline.kv.store import KeyStore

__all__ = ["LEFT", "WHOLE", "ChangeRecord"]

WHOLE: Final = "the changes of a revision are what it changed"
LEFT: Final = "the keys of a lease end with it"


class ChangeRecord:
    """The changes of each revision, of the node that applied it first. Other nodes are compared by their digests.

    Each previous record and each present one is compared with what the revisions before have told. `broken` is told
    the name of what does not hold, and a text.
    """

    def __init__(self, broken: Callable[[str, str], None]) -> None:
        self.revision: int = 0
        """The highest revision that any node has applied."""
        self._broken = broken
        self._changes: dict[int, list[Change]] = {}
        self._versions: dict[bytes, list[KeyRecord]] = {}
        """By key, in the order of revisions; those of version 0 are deletes."""
        self.present: dict[bytes, KeyRecord] = {}
        """The keys as they are at `revision`."""

    def applied(self, store: KeyStore, before: int) -> None:
        """Take what a command has changed in a store that was at the revision `before`."""
        if store.revision > self.revision:
            assert before <= self.revision, f"revision {before} was applied by no node"
            touched = [
                change.record.key
                for revision, changes in store.changes(self.revision + 1)
                for change in self._take(revision, changes)
            ]
            for key in touched:
                present = self.at(key, store.revision)
                if store.get(key) != present:
                    self._broken(WHOLE, f"revision {store.revision}: {store.get(key)}, and was told {present}")

    def check_leases(self, store: KeyStore) -> None:
        """No key has a lease that is not there."""
        for key in self._versions:
            record = store.get(key)
            if record is not None and record.lease and record.lease not in store.leases:
                self._broken(
                    LEFT, f"revision {store.revision}: {key!r} has the lease {record.lease:016x}, which has ended"
                )

    def changes(self, revision: int) -> list[Change]:
        """The changes of a revision, in their order."""
        return self._changes.get(revision, [])

    def at(self, key: bytes, revision: int) -> KeyRecord | None:
        """The record of a key as it was at a revision."""
        versions = self._versions.get(key, [])
        place = bisect_right(versions, revision, key=lambda record: record.mod_revision)
        record = versions[place - 1] if place else None
        return record if record is not None and record.version else None

    def keys_at(self, revision: int) -> dict[bytes, KeyRecord]:
        """All keys as they were at a revision, in their order."""
        found = {key: self.at(key, revision) for key in sorted(self._versions)}
        return {key: record for key, record in found.items() if record is not None}

    def _take(self, revision: int, changes: list[Change]) -> list[Change]:
        if revision != self.revision + 1 or not changes:
            self._broken(WHOLE, f"after revision {self.revision} comes {revision} with {len(changes)} changes")
        for change in changes:
            key = change.record.key
            known = self.at(key, revision)
            if change.previous != known or change.record.mod_revision != revision:
                self._broken(WHOLE, f"revision {revision}: {change}, and before it was {known}")
            self._versions.setdefault(key, []).append(change.record)
            if change.record.version:
                self.present[key] = change.record
            else:
                self.present.pop(key, None)
        self._changes[revision], self.revision = changes, revision
        return changes
