"""Bugs of histories and their compaction, planted into the store; and what must notice each of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator

import pytest

from syncline.kv import snapshots
from syncline.kv.history import History
from syncline.kv.loading import ChangeRow
from syncline.kv.records import KeyRecord
from syncline.kv.store import KeyStore, StoreView
from tests.mutations.catalogue import Mutation, test_hunt

__all__ = ["HISTORY"]


def deleted_key_shown_in_the_past(patch: pytest.MonkeyPatch) -> None:
    """A tombstone is taken for a version."""
    original = History.version_at

    def version_at(self: History, key: bytes, revision: int) -> KeyRecord | None:
        held = self._older.get(key)
        if held is None or isinstance(held, KeyRecord):
            return original(self, key, revision)
        at = bisect_right(held, revision, key=lambda record: record.mod_revision)
        return held[at - 1] if at else None

    patch.setattr(History, "version_at", version_at)


def version_in_force_freed(patch: pytest.MonkeyPatch) -> None:
    """The sweep frees by age: also the version that a read at the oldest revision shows."""
    original = History.sweep

    def sweep(self: History, limit: int) -> bool:
        more = original(self, limit)
        for key, held in list(self._older.items()):
            versions = [held] if isinstance(held, KeyRecord) else list(held)
            young = [record for record in versions if record.mod_revision >= self.oldest]
            if young:
                self._older[key] = young
            else:
                del self._older[key]
        return more

    patch.setattr(History, "sweep", sweep)


def digest_depends_on_the_sweep(patch: pytest.MonkeyPatch) -> None:
    """The digest covers the changes that are in memory, and not those that can be read."""

    def checksum_sum(self: History) -> int:
        changes = [
            change
            for segment in self._segments
            for change in list(zip(segment.records, segment.previous, strict=True))[
                max(self._swept - segment.start, 0) :
            ]
        ]
        return sum(record.checksum + (previous.checksum if previous else 0) for record, previous in changes) % 2**64

    patch.setattr(History, "checksum_sum", property(checksum_sum))


def compaction_waits_for_the_sweep(patch: pytest.MonkeyPatch) -> None:
    """The floor is where the sweep has come, which differs between members."""
    original = KeyStore._check_kept

    def check(self: KeyStore, revision: int) -> None:
        if any(revision >= segment.records[0].mod_revision for segment in self._history._segments if segment.records):
            return
        original(self, revision)

    patch.setattr(KeyStore, "_check_kept", check)


def snapshot_without_versions_before_the_oldest(patch: pytest.MonkeyPatch) -> None:
    """A snapshot holds the changes, and not what the first of each key replaced."""
    original = snapshots._change_batches

    def batches(view: StoreView) -> Iterator[list[ChangeRow]]:
        for batch in original(view):
            yield [(record, None) for record, _ in batch]

    patch.setattr(snapshots, "_change_batches", batches)


HISTORY: tuple[Mutation, ...] = (
    Mutation(
        "a deleted key is shown at a past revision",
        "planted",
        deleted_key_shown_in_the_past,
        (test_hunt("unit.test_kv_loading", "test_loading_of_sound_sections_is_the_store", "KeyRecord"),),
    ),
    Mutation(
        "compaction frees the version in force at the oldest revision",
        "planted",
        version_in_force_freed,
        (test_hunt("unit.test_kv_compaction", "test_store_version_in_force_at_the_oldest_survives_the_sweep", "None"),),
    ),
    Mutation(
        "the digest depends on how far the sweep has come",
        "planted",
        digest_depends_on_the_sweep,
        (test_hunt("unit.test_kv_compaction", "test_store_digest_does_not_depend_on_the_sweep", ""),),
    ),
    Mutation(
        "compacted revisions are readable until they are swept",
        "planted",
        compaction_waits_for_the_sweep,
        (test_hunt("unit.test_kv_compaction", "test_store_revision_below_the_oldest_is_refused_with_it", "DID NOT"),),
    ),
    Mutation(
        "a snapshot lacks the versions in force at its oldest revision",
        "planted",
        snapshot_without_versions_before_the_oldest,
        (test_hunt("compat.test_kv_snapshots", "test_kv_snapshot_of_the_same_state_has_the_same_bytes", ""),),
    ),
)
"""To be hunted with `tests.mutations.all.ALL`."""
