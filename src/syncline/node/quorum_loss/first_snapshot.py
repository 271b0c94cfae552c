"""The first snapshot of a cluster that begins with a state: with one member, and a registry of its own."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from syncline.consensus.types import MembershipState
from syncline.node.fsm import FSMSnapshot
from syncline.node.machine import persist
from syncline.node.member_registry import MemberRegistry
from syncline.platform.disk import Disk
from syncline.sessions.snapshot import SECTION_FORMAT
from syncline.storage import new_cluster
from syncline.storage.new_cluster import NewCluster
from syncline.storage.snapshots.store import SnapshotStore

__all__ = ["FirstState", "drawn_id", "write_first_snapshot"]

ID_BITS: Final = 62
"""Bits of a cluster's and a node's id: no two are ever the same."""


@dataclass(frozen=True, slots=True)
class FirstState:
    """The state with which a cluster begins, as of the entry at `index`."""

    note: NewCluster
    view: FSMSnapshot
    """The sessions, then the state machine's data."""
    index: int
    term: int
    book: MemberRegistry


def write_first_snapshot(disk: Disk, path: str, state: FirstState, *, reserve_bytes: int) -> None:
    """Write the snapshot below the data directory `path`, durably, where `new_cluster.complete` finds it.

    Raises:
        StorageError: the disk refused.
    """
    store = SnapshotStore.open(
        disk,
        new_cluster.snapshots_path(path),
        cluster_id=int(state.note.cluster_id, 16),
        reserve_bytes=reserve_bytes,
    )
    membership = MembershipState((int(state.note.node_id, 16),))
    writer = store.create(state.index, state.term, membership, state.book.dump(), sessions=SECTION_FORMAT)
    try:
        persist(state.view, writer)
        writer.commit()
    finally:
        writer.abort()


def drawn_id(rng: random.Random, old: int = 0) -> int:
    """A new id, different from the old one."""
    drawn = old
    while drawn == old:
        drawn = rng.getrandbits(ID_BITS) + 1
    return drawn
