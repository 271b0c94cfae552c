"""Bugs of proposing again after a change of leader (docs/consensus.md), each against one sentence of the rule."""

from __future__ import annotations

import pytest

from syncline.consensus.types import NodeId, StateType
from syncline.node.forwarding import Forwarding
from syncline.node.futures import Waiter
from syncline.node.proposals import Proposals
from syncline.node.proposer import Proposer
from syncline.transport.messages import ForwardReply
from tests.mutations.catalogue import Mutation, simulator_hunt

__all__ = ["FAILOVER"]


def answer_of_an_older_attempt_taken(patch: pytest.MonkeyPatch) -> None:
    """Whatever attempt an answer belongs to, it decides about the newest one."""

    def awaiting(proposals: Proposals, number: int, attempt: int) -> Waiter | None:
        del attempt
        waiter = proposals._waiting.get(number)
        return waiter if waiter is not None and waiter.attempt else None

    def on_answer(forwarding: Forwarding, sender: NodeId, reply: ForwardReply, applied: int) -> None:
        del sender
        forwarding.on_reply(reply, applied)

    patch.setattr(Proposals, "awaiting", awaiting)
    patch.setattr(Forwarding, "on_answer", on_answer)  # it looks at the attempt, too


def snapshot_over_an_attempt_ignored(patch: pytest.MonkeyPatch) -> None:
    """An attempt that was not met is dead, whether or not a snapshot has hidden entries since."""
    patch.setattr(Proposals, "jumped", lambda _proposals, _index: None)


def term_of_a_forward_not_compared(patch: pytest.MonkeyPatch) -> None:
    """A leader appends what was proposed to the leader of any term."""

    def leads_in(forwarding: Forwarding, term: int) -> bool:
        del term
        return forwarding._core.state is StateType.LEADER

    patch.setattr(Forwarding, "_leads_in", leads_in)


def fenced_proposal_proposed_again(patch: pytest.MonkeyPatch) -> None:
    """A fenced proposal whose leader is gone goes to the next one, as any other does."""
    original = Proposer.propose

    def propose(
        proposer: Proposer, waiter: Waiter, kind: int, data: bytes, timeout_s: float, extensions: bytes, checked: bool
    ) -> None:
        original(proposer, waiter, kind, data, timeout_s, extensions, checked)
        if waiter.fence:
            waiter.payload, waiter.fence = proposer.queue[-1][2], 0

    patch.setattr(Proposer, "propose", propose)


FAILOVER: tuple[Mutation, ...] = (
    Mutation(
        "the answer to an older attempt of a proposal is taken",
        "the code before the rule",
        answer_of_an_older_attempt_taken,
        (simulator_hunt("no proposal is applied twice", "late-refusals"),),
    ),
    Mutation(
        "a snapshot that hides entries is ignored when a proposal is made again",
        "planted against the rule",
        snapshot_over_an_attempt_ignored,
        (simulator_hunt("no proposal is applied twice|what a proposal was told", "snapshot-over-forwards"),),
    ),
    Mutation(
        "the term of a forwarded proposal is not compared",
        "the code before the rule",
        term_of_a_forward_not_compared,
        (simulator_hunt("fenced proposal|no proposal is applied twice", "bursts", "late-forwards", "transfer"),),
    ),
    Mutation(
        "a fenced proposal is proposed again",
        "planted against the rule",
        fenced_proposal_proposed_again,
        (simulator_hunt("a fenced proposal is applied in its term alone", "bursts", "isolate-leader"),),
    ),
)
