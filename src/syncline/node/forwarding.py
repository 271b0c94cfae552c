"""Forward proposals from a follower to the leader, and append the proposals of other nodes to the leader's log.

A `Forward` carries the term of its sender, and only a node that leads in exactly that term appends it. Each answer
carries that term too. So an attempt is in the log of its term or in none, and its sender finds out which: see
`proposals`. Only the leader to which an attempt went can report its result.

All members of a cluster check the term: a `Forward` without one is of term 0, in which no node leads, and a node of
peer protocol 1 is refused. So proposing again needs no feature level of its own (`levels`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import NONE, NodeId, StateType
from syncline.errors import NotLeader
from syncline.node.futures import Queued
from syncline.node.proposals import Proposals
from syncline.node.rejections import HANDING_OVER, error_of
from syncline.transport.messages import (
    AcceptedProposal,
    Forward,
    ForwardedProposal,
    ForwardReply,
    RefusedProposal,
)
from syncline.transport.peers import Transport

__all__ = ["FORWARD_BATCH_BYTES", "Forwarding", "ForwardingCallbacks"]

FORWARD_BATCH_BYTES: Final = 1 << 20
"""Proposals in one message to the leader: they share the link with heartbeats."""

PASSING: Final = (NotLeader.code, HANDING_OVER)
"""Refusals after which a proposal waits for the next leader: this one did not append it, and leads no longer."""

Numbered: TypeAlias = tuple[int, int, bytes]
"""Number, kind and bytes of a proposal."""


@dataclass(frozen=True, slots=True)
class ForwardingCallbacks:
    """Functions of the node that the forwarding uses."""

    examine: Callable[[NodeId, Forward], tuple[list[Numbered], list[RefusedProposal]]]
    """Separate the proposals of a forward that may enter the log from refused ones."""
    append: Callable[[NodeId, list[Numbered]], tuple[list[AcceptedProposal], list[RefusedProposal]]]
    """Append a node's proposals to this leader's log."""
    awaited: Callable[[int], None]
    """A follower waits until it may apply the entry at this index."""
    propose_again: Callable[[Sequence[Queued]], None]
    """Put proposals back into the queue."""


class Forwarding:
    """Both ends of forwarding, for one node."""

    def __init__(
        self, core: RawNode, proposals: Proposals, transport: Transport, callbacks: ForwardingCallbacks
    ) -> None:
        self._core = core
        self._proposals = proposals
        self._transport = transport
        self._callbacks = callbacks
        self.waiting: bool = False
        """Whether the leader, or the link to it, takes nothing: the queue waits for the next tick or leader."""
        self._asked = (0, NONE)
        """The term of the newest forward, and the leader to which it went. For earlier ones see `Proposals.open`."""

    # -- on the node that proposes ------------------------------------------------------------------------------------

    def forward(self, queue: list[Queued]) -> None:
        """Send proposals to the leader. Proposals that the link does not take go back into the queue."""
        start = size = 0
        for end, item in enumerate(queue, 1):
            size += len(item[2])
            if size < FORWARD_BATCH_BYTES and end < len(queue):
                continue
            if not self._forward_batch(queue[start:end]):
                self.waiting = True
                self._callbacks.propose_again(queue[start:])
                return
            start, size = end, 0

    def _forward_batch(self, batch: list[Queued]) -> bool:
        term = self._core.term
        message = Forward(
            [ForwardedProposal(waiter.number, kind, payload, waiter.frees_space) for waiter, kind, payload in batch],
            term,
        )
        leader = self._core.leader
        if not self._transport.send(leader, message):
            return False
        self._asked = (term, leader)
        for waiter, _, _ in batch:
            waiter.attempt = term
        return True

    def on_answer(self, sender: NodeId, reply: ForwardReply, applied: int) -> None:
        """A peer answers a forward. It has no effect if the newest forward did not go to this peer in this term."""
        if (reply.term, sender) == self._asked:
            self.on_reply(reply, applied)

    def on_reply(self, reply: ForwardReply, applied: int) -> None:
        """The leader, perhaps this node, has decided. Only the newest attempt of each proposal counts."""
        proposals, term = self._proposals, reply.term
        for placed in reply.accepted:
            proposals.placed(placed.number, placed.index, term)
        if reply.accepted and reply.accepted[0].index <= applied:
            # The answer came after the entry: what is applied there is not this proposal, or it would be resolved.
            proposals.passed(placed.index for placed in reply.accepted if placed.index <= applied)
        returned: list[Queued] = []
        for item in reply.refused:
            if item.code in PASSING and (again := proposals.returned(item.number, term)) is not None:
                returned.append(again)
            elif proposals.awaiting(item.number, term) is not None:
                proposals.refused(item.number, error_of(item, reply.leader or None))
        if returned:
            self.waiting = True
            self._callbacks.propose_again(returned)

    def term_applied(self, term: int) -> None:
        """An entry of `term`, the first one, was applied here: attempts of earlier terms are over."""
        again = self._proposals.term_applied(term)
        if again:
            self._callbacks.propose_again(again)

    # -- on the leader ------------------------------------------------------------------------------------------------

    def on_forward(self, sender: NodeId, message: Forward) -> None:
        """A peer forwards its proposals."""
        if self._leads_in(message.term):
            sound, refused = self._callbacks.examine(sender, message)
            accepted, dropped = self._callbacks.append(sender, sound)
            refused += dropped
            if accepted:
                self._callbacks.awaited(accepted[-1].index)
        else:
            text = f"this node does not lead in term {message.term}"
            accepted = []
            refused = [RefusedProposal(item.number, NotLeader.code, text) for item in message.proposals]
        self._transport.send(sender, ForwardReply(accepted, refused, self._core.leader, message.term))

    def _leads_in(self, term: int) -> bool:
        """Whether this node may append what was proposed to the leader of `term`."""
        core = self._core
        return core.state is StateType.LEADER and core.term == term
