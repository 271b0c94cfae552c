"""End idle sessions: by the leader's clock, through the log.

At intervals the leader notes the last index of its log. A session that no entry above a note has used was idle since
then. So the table needs no clock, and a new leader, which has no notes yet, ends no session too early.

The leader appends the end itself, in its own term; another term's leader never proposes it again. The entry has the
note's index: a session that a later entry has used meanwhile goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from typing import Final

import msgspec

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import ProposalDropped, StateType
from syncline.errors import DiskFull
from syncline.node.envelope import Kind, Proposal, encode
from syncline.sessions.entries import MAX_ENDED, SessionChange, encode_change

__all__ = ["IdleCallbacks", "IdleSessions"]

NOTES: Final = 32
"""Notes in the time after which a session is idle: it is ended later than that by a share of this at most."""


class IdleCallbacks(msgspec.Struct, frozen=True):
    """Functions of the node that the end of idle sessions uses."""

    idle: Callable[[int, int], asyncio.Future[tuple[int, ...]]]
    """Sessions that no entry above an index has used, at most so many (`SessionTable.idle`)."""
    check_space: Callable[[int], object]
    """Raise DiskFull if the disk has no room for an entry of so many bytes."""
    applied: Callable[[], int]
    """How far the state machine is."""
    schedule: Callable[[], None]
    clock: Callable[[], float]


class IdleSessions:
    """Ends the idle sessions of a cluster, while this node leads."""

    def __init__(self, core: RawNode, callbacks: IdleCallbacks, idle_s: float) -> None:
        self._core = core
        self._callbacks = callbacks
        self.idle_s: float = idle_s
        self._term = 0
        self._notes: deque[tuple[float, int]] = deque()
        """(time, last index of the log at that time), oldest first."""
        self._looking = False
        self._appended = 0
        """Index of the newest entry that ends sessions."""

    def tick(self) -> None:
        """Look whether sessions are idle, if it is time for that."""
        core, now_s = self._core, self._callbacks.clock()
        if core.state is not StateType.LEADER:
            self._notes.clear()
            return
        if core.term != self._term:
            self._term = core.term
            self._notes.clear()
        notes = self._notes
        if notes and now_s - notes[-1][0] < self.idle_s / NOTES:
            return
        notes.append((now_s, core.last_index))
        bound = 0
        while notes[0][0] <= now_s - self.idle_s:
            bound = notes.popleft()[1]
        if bound and not self._looking and self._appended <= self._callbacks.applied():
            self._looking = True
            term = self._term
            looked = self._callbacks.idle(bound, MAX_ENDED)
            looked.add_done_callback(lambda done: self._looked(done, bound, term))

    def _looked(self, done: asyncio.Future[tuple[int, ...]], bound: int, term: int) -> None:
        self._looking = False
        if done.cancelled() or done.exception() is not None:
            return  # the node stops
        sessions, core = done.result(), self._core
        if not sessions or core.state is not StateType.LEADER or core.term != term:
            return
        change = encode_change(SessionChange(ended=sessions, term=term, bound=bound))
        payload = encode(Proposal(Kind.SESSION, core.id, 0, change))
        with contextlib.suppress(DiskFull, ProposalDropped):  # tried again with the next note
            self._callbacks.check_space(len(payload))
            self._appended, _ = core.propose_batch([payload])
            self._callbacks.schedule()
