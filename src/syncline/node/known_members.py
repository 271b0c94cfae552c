"""The members that a data directory knows: hints for finding the cluster of a stopped node.

The data may be old, and corrupt files are left out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from syncline.consensus.membership import decode_change
from syncline.consensus.types import EntryType, LogEntry, NodeId
from syncline.decoding import UNDECODABLE
from syncline.errors import StorageError
from syncline.node.envelope import Kind, MemberRecord, decode_context, decode_member, decode_proposal
from syncline.node.member_registry import RegistryState
from syncline.platform.disk import Disk
from syncline.storage.datadir import SNAPSHOTS_NAME, WAL_NAME
from syncline.storage.inspect import list_snapshots
from syncline.storage.wal.format import segment_sequence
from syncline.storage.wal.frame import BodyError, decode_entries
from syncline.storage.wal.scan import SegmentScan

__all__ = ["known_members"]

UNREADABLE = (StorageError, OSError, *UNDECODABLE, BodyError, ValueError)


def known_members(disk: Disk, path: str) -> dict[NodeId, MemberRecord]:
    """All members, past and present, that the data directory `path` knows, each with its last addresses."""
    found: dict[NodeId, MemberRecord] = {}
    for member in (*_in_snapshots(disk, f"{path}/{SNAPSHOTS_NAME}"), *_in_log(disk, f"{path}/{WAL_NAME}")):
        found[member.id] = member
    return found


def _in_snapshots(disk: Disk, path: str) -> Iterator[MemberRecord]:
    if not disk.exists(path):
        return
    for view in reversed(list_snapshots(disk, path)):
        if view.manifest is not None:
            with contextlib.suppress(*UNDECODABLE):
                yield from msgspec.msgpack.decode(view.manifest.runtime, type=RegistryState).members


def _in_log(disk: Disk, path: str) -> Iterator[MemberRecord]:
    for name in disk.list(path) if disk.exists(path) else []:
        if segment_sequence(name) is not None:
            with contextlib.suppress(*UNREADABLE):  # the others are read all the same
                yield from _in_segment(disk, f"{path}/{name}")


def _in_segment(disk: Disk, path: str) -> Iterator[MemberRecord]:
    file = disk.open(path)
    try:
        scan = SegmentScan(file)
        while (frame := scan.next()) is not None or scan.skip_damage():
            if frame is not None and frame.entries is not None:
                for entry in decode_entries(frame.entries):
                    with contextlib.suppress(ValueError):  # an entry that every node ignores
                        yield from _in_entry(entry)
    finally:
        file.close()


def _in_entry(entry: LogEntry) -> Iterator[MemberRecord]:
    if entry.type is not EntryType.NORMAL:
        context = decode_context(decode_change(entry).context)
        yield from context.members if context is not None else ()
    elif entry.data[1:2] == bytes([Kind.ANNOUNCE]):  # the first element of an array: the others need not be decoded
        proposal = decode_proposal(entry.data)
        if proposal.kind == Kind.ANNOUNCE:
            yield decode_member(proposal.data)
