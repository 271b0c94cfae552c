"""Lost promises at run time: a node stops on evidence against itself, a leader reports evidence to the follower.

A node whose data directory was restored from an older copy (a snapshot of the machine, a backup) has lost votes and
acknowledgements. If that is proved it stops. The core finds the evidence in messages of the leader
(`consensus.evidence`). A leader finds it in the answers of a follower, shows it in its statistics and sends it to
that node.

One message is not enough: a faulty peer could have made it up. A leader repeats its claim with each heartbeat, and a
node that has lost entries rejects each append.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from syncline.consensus.evidence import Evidence, EvidenceKind
from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import Message, NodeId, StateType
from syncline.errors import NodeFailed, RepairNeeded, SynclineError
from syncline.node.member_registry import format_id
from syncline.transport.messages import Notice, NoticeKind

__all__ = ["Promises"]

log: logging.Logger = logging.getLogger("syncline.node")

REPEATED: Final = 3
"""This many pieces of evidence in one term, from one node, are a proof."""


class Promises:
    """Evidence of one node against itself, and, while it leads, against its followers.

    `has_copies` tells whether the members know that a data directory was copied. That explains two leaders of one
    term; a claim of a single node does not. `name` and `data_dir` are this node's, for texts. `send` sends a notice
    to a peer; `fail` stops this node.
    """

    def __init__(
        self,
        core: RawNode,
        has_copies: Callable[[], bool],
        *,
        name: str,
        data_dir: str,
        send: Callable[[NodeId, Notice], object],
        fail: Callable[[SynclineError], None],
    ) -> None:
        self._core = core
        self._has_copies = has_copies
        self._name = name
        self._data_dir = data_dir
        self._send = send
        self._fail = fail
        self._seen: tuple[EvidenceKind, NodeId, int] | None = None
        self._count = 0
        self._counts: dict[NodeId, int] = {}
        self._term = 0
        self.convicted: dict[NodeId, str] = {}
        """In a leader: followers that have lost entries in this term, and the evidence."""

    def found(self) -> None:
        """The core has found evidence against this node's log, or the leader's."""
        found = self._core.take_evidence()
        if found is not None:
            self._weigh(found)

    def _weigh(self, found: Evidence) -> None:
        """Stop this node if the same leader repeats the claim often enough in one term."""
        seen = (found.kind, found.leader, found.term)
        self._count = self._count + 1 if seen == self._seen else 1
        self._seen = seen
        if found.kind is EvidenceKind.TWO_LEADERS and not self._has_copies():
            if self._count == REPEATED:
                log.critical("%s", self._two_leaders(found))
            return
        if self._count >= REPEATED:
            self._fail(self._failure(found))

    def answered(self, sender: NodeId, answer: Message) -> None:
        """A follower rejects an append. On a leader: check whether it rejects entries that it has acknowledged.

        Answers of one peer arrive in their order, and an earlier connection is closed before a new one is read. So a
        sound follower never hints at an index below its acknowledgement in the same session and term.
        """
        core = self._core
        progress = core.raft.tracker.progress.get(sender)
        if core.state is not StateType.LEADER or answer.term != core.term or progress is None:
            return
        if answer.session != progress.session or answer.reject_hint >= progress.match_index or sender == core.raft.id:
            return
        if self._term != core.term:
            self._term, self._counts, self.convicted = core.term, {}, {}
        count = self._counts[sender] = self._counts.get(sender, 0) + 1
        if count < REPEATED:
            return
        self.convicted[sender] = (
            f"it has lost entries: it acknowledged them up to index {progress.match_index},"
            f" and its log agrees up to index {answer.reject_hint} at most"
        )
        self._send(sender, Notice(NoticeKind.LOST_ENTRIES, core.term, progress.match_index))

    def fault_of(self, node_id: NodeId) -> str:
        """On a leader: why a member is not healthy; empty if nothing is known against it."""
        core = self._core
        leads = core.state is StateType.LEADER and self._term == core.term
        return self.convicted.get(node_id, "") if leads else ""

    def on_notice(self, sender: NodeId, notice: Notice) -> None:
        """The leader reports that this node has lost entries. Committed entries here are not among them."""
        core = self._core
        if notice.kind != NoticeKind.LOST_ENTRIES or (sender, notice.term) != (core.leader, core.term):
            return
        if notice.index > core.commit_index:
            self._weigh(Evidence(EvidenceKind.LOST_ENTRIES, sender, notice.term, notice.index))

    def _two_leaders(self, found: Evidence) -> str:
        core = self._core
        return (
            f"node {self._name} ({format_id(core.raft.id)}): term {found.term} has two leaders,"
            f" {format_id(core.leader)} and {format_id(found.leader)}"
        )

    def _failure(self, found: Evidence) -> SynclineError:
        core = self._core
        node = f"node {self._name} ({format_id(core.raft.id)})"
        leader = f"node {format_id(found.leader)}, the leader of term {found.term},"
        if found.kind is EvidenceKind.LOST_ENTRIES:
            return RepairNeeded(
                f"{node} has lost a part of its log: {leader} has its acknowledgement of index {found.index}, and the"
                f" log in {self._data_dir} ends at index {core.last_index}. Was an older copy of the directory put"
                " back? A vote may be lost too, so the node must not go on under its old id. Put the"
                " newest directory back, if there is one; or have the cluster replace the node:"
                f" `syncline repair --replace --data-dir {self._data_dir}`."
            )
        if found.kind is EvidenceKind.TWO_LEADERS:
            return NodeFailed(
                f"{self._two_leaders(found)}. Members know that a data directory was copied, so the two have"
                f" acknowledged different writes, perhaps. This node has stopped. Keep {self._data_dir} as it is."
                " Compare the entries with those of the other nodes (`syncline wal dump`) before you start or replace"
                " any node."
            )
        return NodeFailed(
            f"{node} has stopped: it knows log entry {found.index} to be committed with term {found.own_term}, and"
            f" {leader} has an entry of term {found.told_term} there. One of the two logs is wrong, and this node may"
            f" hold the only copy of an acknowledged write. Keep {self._data_dir} as it is. Compare the entries from"
            f" {found.index} on with those of the other nodes (`syncline wal dump`) before you start or replace"
            " any node."
        )
