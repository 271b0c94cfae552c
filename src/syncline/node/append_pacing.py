"""Pace appends by each peer's connection: the core learns the connection's room, and which messages were lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import NodeId, StateType
from syncline.transport.pacing import LEAST_WINDOW_BYTES
from syncline.transport.peers import Transport

__all__ = ["AppendPacing"]

PLENTY_BYTES: Final = LEAST_WINDOW_BYTES // 2
"""Of room: it is there in the smallest window too, if no more than half of that is on its way."""


class AppendPacing:
    """Connects the core of a leader with its transport.

    `schedule` asks for a turn that sends the resulting messages.
    """

    def __init__(self, core: RawNode, transport: Transport, schedule: Callable[[], None]) -> None:
        self._core = core
        self._transport = transport
        self._schedule = schedule

    def sent(self, peer: NodeId) -> None:
        """Entries were given to the transport. If it takes more, the core sends more.

        The core counts what it sends. While plenty is left by its count, and nothing waits, it need not be told.
        """
        if not self._core.has_room(peer, PLENTY_BYTES):
            self._tell(peer)

    def _tell(self, peer: NodeId) -> None:
        self._core.set_room(peer, self._transport.room_bytes(peer))

    def room(self, peer: NodeId) -> None:
        """From the transport: it takes more."""
        if self._core.state is StateType.LEADER:
            self._tell(peer)
            self._schedule()

    def lost(self, peer: NodeId) -> None:
        """From the transport: appends to the peer may be lost."""
        self._core.report_unreachable(peer)
        self._schedule()

    def loaded(self) -> None:
        """From the log: entries that were not in memory can be read now."""
        self._core.loaded()
        self._schedule()

    def tick(self) -> None:
        """Report appends that are still being sent, so that the core does not count them as lost."""
        core, transport = self._core, self._transport
        if core.state is not StateType.LEADER:
            return
        for peer in list(core.progress):
            if peer != core.id:
                if transport.in_transit(peer):
                    core.still_sending(peer)
                core.set_room(peer, transport.room_bytes(peer))
