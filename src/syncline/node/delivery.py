"""Dispatch the messages of peers that are not the consensus core's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from syncline.consensus.types import NodeId
from syncline.node.asking import Asking
from syncline.node.digests import Digests
from syncline.node.forwarding import Forwarding
from syncline.transport.messages import Ask, AskReply, DigestReport, Forward, ForwardReply, Notice, PeerMessage

__all__ = ["Deliver", "delivering"]

Deliver: TypeAlias = Callable[[NodeId, PeerMessage], None]
"""Takes the id of a peer, and its message."""


def delivering(
    forwarding: Forwarding,
    on_notice: Sequence[Callable[[NodeId, Notice], None]],
    digests: Digests,
    asking: Asking,
    applied: Callable[[], int],
) -> Deliver:
    """Return a function that gives each message to the component that it is for; a notice goes to all of them."""

    def deliver(sender: NodeId, message: PeerMessage) -> None:
        if isinstance(message, Forward):
            forwarding.on_forward(sender, message)
        elif isinstance(message, ForwardReply):
            forwarding.on_answer(sender, message, applied())
        elif isinstance(message, Notice):
            for take in on_notice:
                take(sender, message)
        elif isinstance(message, DigestReport):
            digests.on_report(sender, message)
        elif isinstance(message, Ask):
            asking.on_ask(sender, message)
        else:
            assert isinstance(message, AskReply), "messages of the core are checked before they reach it"
            asking.on_reply(sender, message)

    return deliver
