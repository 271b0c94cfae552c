"""Messages whose term is too far ahead to be true are dropped before the consensus core sees them."""

from __future__ import annotations

from typing import Final

from syncline.consensus.types import NodeId
from syncline.node.member_registry import format_id
from syncline.transport.notices import Notices

__all__ = ["MAX_TERM_JUMP", "TermGuard"]

MAX_TERM_JUMP: Final = 1 << 32
"""From a node's term to that of a message. A thousand elections a second make fewer in 49 days. The core persists each
higher term that it hears of; once the largest one is on disk there can be no election ever again."""


class TermGuard:
    """Counts what it refuses, and says so in the log, not more than once a minute for each sender."""

    def __init__(self) -> None:
        self.refused: int = 0
        self._notices = Notices()

    def admits(self, sender: NodeId, message_term: int, own_term: int, now_s: float) -> bool:
        """Whether a message of `message_term` may reach the core."""
        if message_term - own_term <= MAX_TERM_JUMP:
            return True
        self.refused += 1
        fault = f"its term {message_term} is too far ahead of this node's term {own_term}; the message was dropped"
        self._notices.warn(f"term {sender}", f"message of node {format_id(sender)}", fault, now_s)
        return False
