"""Settled membership changes: the newest change whose commit index is durable on a quorum.

A membership is in force when its change is *known* to be committed. A removed node that leaves earlier may have the
vote that the others still need: if they are killed in that moment, they start with the membership before, whose
quorum is gone. So a change is settled when the durable commit index covers it on a quorum of the membership that it
made. A joint membership must have been left, too. Only then is its caller answered, does the leader take another one,
and does a removed node leave.

The leader learns it from the durable commit indexes in acknowledgements. A follower asks the leader, because its
answers to its own caller and to a removed node that dials it depend on it. A newly elected leader learns it again
with the first acknowledgements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import NONE, NodeId, StateType
from syncline.node.log_writer import LogWriter
from syncline.node.member_registry import MemberRegistry
from syncline.transport.messages import Notice, NoticeKind

__all__ = ["Settlement"]

IDLE_TICKS: Final = 5
"""Ticks between two requests to the leader while no caller waits."""


class Settlement:
    """The newest settled change that this node knows of.

    `send` sends a notice to a peer; `changed` is called when `index` has moved.
    """

    def __init__(
        self,
        core: RawNode,
        book: MemberRegistry,
        writer: LogWriter,
        *,
        send: Callable[[NodeId, Notice], object],
        changed: Callable[[], None],
    ) -> None:
        self._core = core
        self._book = book
        self._writer = writer
        self._send = send
        self._changed = changed
        self._ticks = 0
        self.index: int = 0
        """The log index of the newest change that is known to be settled, and with it each one before."""
        self.waiting: int = 0
        """Callers that wait for a change to be settled."""

    @property
    def complete(self) -> bool:
        """Whether the newest change that was applied here is settled."""
        return self.index >= self._book.membership_index

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """While a caller waits the leader is asked with each tick."""
        self.waiting += 1
        try:
            yield
        finally:
            self.waiting -= 1

    def tick(self) -> None:
        """With each tick: check, or ask the leader."""
        self._ticks += 1
        if self.complete and not self.waiting:
            return
        core = self._core
        if core.state is StateType.LEADER:
            self.look()
        elif core.leader != NONE and (self.waiting or self._ticks % IDLE_TICKS == 0):
            self._send(core.leader, Notice(NoticeKind.IS_SETTLED, core.term))

    def look(self) -> None:
        """On a leader: check whether the newest change is settled by now."""
        core = self._core
        if self.index >= self._book.membership_index or core.state is not StateType.LEADER:
            return  # nearly always, several times for each write: so without a call of `complete`
        voters = core.voters
        if voters.joint:
            return
        durable = {node_id: one.durable_commit for node_id, one in core.progress.items()}
        durable[core.id] = self._writer.durable_commit
        if voters.committed_index(durable) >= self._book.membership_index:
            self._settled(self._book.membership_index)

    def on_notice(self, sender: NodeId, notice: Notice) -> None:
        """A follower asks, or the leader answers."""
        core = self._core
        if notice.kind == NoticeKind.IS_SETTLED and core.state is StateType.LEADER:
            self._send(sender, Notice(NoticeKind.SETTLED, core.term, self.index))
        elif notice.kind == NoticeKind.SETTLED and sender == core.leader:
            # At most the applied index: a wrong number must not settle changes that come later.
            self._settled(min(notice.index, self._book.membership_index))

    def _settled(self, index: int) -> None:
        if index > self.index:
            self.index = index
            self._changed()
