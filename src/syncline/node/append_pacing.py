"""Appends at the pace of each peer's connection: the core is told how much the transport takes, and what was lost."""

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
    """Between the core of a leader and its transport. `schedule` asks for a turn that carries out what comes of it."""

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
        """From the log: what was not in memory is."""
        self._core.loaded()
        self._schedule()

    def tick(self) -> None:
        """What is still on its way is not lost; and no peer waits for a word that was missed."""
        core, transport = self._core, self._transport
        if core.state is not StateType.LEADER:
            return
        for peer in list(core.raft.tracker.progress):
            if peer != core.raft.id:
                if transport.in_transit(peer):
                    core.still_sending(peer)
                core.set_room(peer, transport.room_bytes(peer))
