"""What a recovery after a lost quorum would keep, and what it may lose. Nothing is changed here.

Of *n* voters a write was acknowledged once *q* = n // 2 + 1 had it on disk. Suppose that so many voters' directories
were looked at that fewer than *q* are missing. Then each acknowledged write is in one of them. The newest log among
them has all of these writes: a log with an entry of a later leader has what that leader had, and the leader had all
that was committed before it (Raft paper, 5.4). So nothing is lost if the newest one is taken.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from syncline.consensus.membership import Configuration
from syncline.consensus.types import NodeId
from syncline.errors import StorageError, WrongDirectory
from syncline.node import ids
from syncline.node.quorum_loss.survivor import Survivor
from syncline.node.starts.guard import convicted_by

__all__ = ["RecoveryReport", "VoterLine", "examine"]


class VoterLine(msgspec.Struct, frozen=True, kw_only=True):
    """One voter of the lost cluster. `looked_at`: its directory was read for the report."""

    id: ids.NodeId
    name: str
    looked_at: bool


class RecoveryReport(msgspec.Struct, frozen=True, kw_only=True):
    """A recovery after a lost quorum: what it keeps, what it may lose, and, once it is done, the new cluster."""

    name: str
    """The node whose directory is taken."""
    data_dir: str
    last_index: int
    """The last entry of its log: the state is kept up to it."""
    last_term: int
    commit_index: int
    """The last entry that the node durably knew to be committed. The entries behind it are kept too: they may have been
    acknowledged. They may also be writes whose clients got no answer, or an error."""
    uncertain_entries: int
    """The number of entries behind `commit_index`."""
    voters: tuple[VoterLine, ...]
    may_lose: bool
    """Whether acknowledged writes may be missing in this directory."""
    reasons: tuple[str, ...] = ()
    """Why they may be missing, in sentences; empty if they can't."""
    old_cluster_id: int
    old_node_id: int
    done: bool = False
    """Whether the recovery was carried out."""
    cluster_id: int = 0
    """Of the new cluster; 0 while it is not done. The same holds for the fields below."""
    node_id: int = 0
    set_aside: str = ""
    """The folder with the old node's files."""


def examine(survivor: Survivor, others: Sequence[Survivor]) -> RecoveryReport:
    """Compare a directory with those of other nodes of its cluster.

    Raises:
        WrongDirectory: a directory is of another cluster, or two are of one node.
        StorageError: another directory has a newer log: recover from that one.
    """
    _check_one_cluster(survivor, others)
    newest = max((survivor, *others), key=lambda each: each.position)
    if newest.position > survivor.position:
        raise StorageError(
            f"{newest.path}, of node {newest.label}, is newer: its log ends at entry {newest.last_index} of term"
            f" {newest.last_term}, and that of {survivor.label} at entry {survivor.last_index} of term"
            f" {survivor.last_term}. Recover from the newer one. Nothing was changed"
        )
    everyone = (survivor, *others)
    old = [each for each in everyone if _is_older_copy(each, everyone)]
    reasons = [
        f"{each.path} is an older copy of the directory of {each.label}: what that node acknowledged later is not in it"
        for each in old
    ]
    present = frozenset(each.identity.node_id for each in everyone if each not in old)
    memberships = survivor.memberships
    current = memberships[-1].voters.incoming.voters | memberships[-1].voters.outgoing.voters
    if any(_may_miss(configuration, present) for configuration in memberships):
        missing = sorted(current - present)
        names = ", ".join(_label(survivor, voter) for voter in missing)
        reasons.append(
            f"{len(missing)} of {len(current)} voters were not looked at: {names}. Together they may have acknowledged"
            f" writes that no directory here holds"
        )
    return RecoveryReport(
        name=survivor.identity.name,
        data_dir=survivor.path,
        last_index=survivor.last_index,
        last_term=survivor.last_term,
        commit_index=survivor.commit_index,
        uncertain_entries=survivor.last_index - survivor.commit_index,
        voters=tuple(
            VoterLine(id=ids.NodeId(voter), name=_name(survivor, voter), looked_at=voter in present)
            for voter in sorted(current)
        ),
        may_lose=bool(reasons),
        reasons=tuple(reasons),
        old_cluster_id=survivor.identity.cluster_id,
        old_node_id=survivor.identity.node_id,
    )


def _check_one_cluster(survivor: Survivor, others: Sequence[Survivor]) -> None:
    seen = {survivor.identity.node_id: survivor.path}
    for other in others:
        if other.identity.cluster_id != survivor.identity.cluster_id:
            raise WrongDirectory(
                f"{other.path} belongs to cluster {other.identity.cluster_id:016x}, and {survivor.path} to cluster"
                f" {survivor.identity.cluster_id:016x}: compare directories of one cluster"
            )
        if other.identity.node_id in seen:
            raise WrongDirectory(
                f"{other.path} and {seen[other.identity.node_id]} are both of node {other.label}: one of them is a"
                " copy. Name each node once, by its newest directory"
            )
        seen[other.identity.node_id] = other.path


def _is_older_copy(survivor: Survivor, everyone: Sequence[Survivor]) -> bool:
    """Whether a directory was refused as an older copy, or a member's log knows of a start that it does not know."""
    if survivor.identity.older_copy:
        return True
    node_id = survivor.identity.node_id
    known = [each.members[node_id] for each in everyone if node_id in each.members]
    return any(
        record.directory == survivor.identity.directory_id and convicted_by(record.incarnation, survivor.identity)
        for record in known
    )


def _may_miss(configuration: Configuration, present: frozenset[NodeId]) -> bool:
    """Whether a quorum of this membership has no member among those that are present."""
    halves = [half.voters for half in (configuration.voters.incoming, configuration.voters.outgoing) if half.voters]
    return all(len(voters - present) >= len(voters) // 2 + 1 for voters in halves)


def _name(survivor: Survivor, node_id: NodeId) -> str:
    record = survivor.members.get(node_id)
    return record.name if record is not None else ""


def _label(survivor: Survivor, node_id: NodeId) -> str:
    return f"{_name(survivor, node_id) or '?'} ({node_id:016x})"
