"""The reads that wait in a leader until a quorum has confirmed that it still leads (`read_index` has the rule)."""

from __future__ import annotations

from collections import deque
from typing import Final

from syncline.consensus.config import ReadOnlyOption
from syncline.consensus.quorum import JointConfig
from syncline.consensus.types import Message, NodeId

__all__ = ["MAX_READS", "ReadQueue", "decode_position"]

MAX_READS: Final[int] = 1 << 16
"""Reads that wait in one leader. A runtime shares one read among concurrent callers, so more are a fault."""

_POSITION_BYTES: Final[int] = 8


def decode_position(context: bytes) -> int | None:
    """The number of a read that a heartbeat or its answer carries; None if the context is not one."""
    if len(context) != _POSITION_BYTES:
        return None
    return int.from_bytes(context, "little")


class ReadQueue:
    """The reads that wait for a leader to be confirmed. A new one starts with each term and each role."""

    __slots__ = ("_acked", "_confirmed", "_waiting", "held", "option")

    def __init__(self, option: ReadOnlyOption) -> None:
        self.option: Final = option
        self.held: list[Message] = []
        """Reads that arrived before the leader had committed an entry of its own term: until then it does not know
        what is committed (thesis, 6.4, step 1)."""
        self._waiting: deque[tuple[Message, int]] = deque()
        self._confirmed = 0
        """How many reads were confirmed, which is also the number of the last of them."""
        self._acked: dict[NodeId, int] = {}

    @property
    def full(self) -> bool:
        """Whether no more reads are accepted."""
        return len(self.held) + len(self._waiting) >= MAX_READS

    @property
    def last_position(self) -> int:
        """The number of the newest read."""
        return self._confirmed + len(self._waiting)

    def add(self, request: Message, commit: int) -> None:
        """Queue a read that arrived while `commit` was the commit index."""
        self._waiting.append((request, commit))

    def context(self) -> bytes:
        """The context of heartbeats: the number of the newest waiting read, or nothing."""
        return self.last_position.to_bytes(_POSITION_BYTES, "little") if self._waiting else b""

    def acknowledge(self, sender: NodeId, position: int) -> None:
        """`sender` has answered a heartbeat that carried `position`."""
        assert position <= self.last_position, "an answer to a heartbeat that was never sent"
        if position > self._acked.get(sender, 0):
            self._acked[sender] = position

    def confirm(self, voters: JointConfig) -> list[tuple[Message, int]]:
        """Remove the reads that a quorum of `voters` has confirmed, oldest first, each with its commit index."""
        position = min(voters.committed_index(self._acked), self.last_position)
        confirmed = [self._waiting.popleft() for _ in range(position - self._confirmed)]
        self._confirmed = max(self._confirmed, position)
        return confirmed
