"""Figures of the whole cluster for `up`: the leader, the revision, and the rate of writes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from syncline.cli.up.supervisor import UpNode

__all__ = ["NewLeader", "Pulse"]

RATE_OVER_S: Final = 2.0
"""The rate is that of the last two seconds: steady enough to be read, and soon 0 when nothing is written."""


class NewLeader(msgspec.Struct, frozen=True):
    """A change of leader. `before` is empty if there was none yet."""

    name: str
    term: int
    before: str

    @property
    def line(self) -> str:
        before = f"; before: {self.before}" if self.before and self.before != self.name else ""
        return f"{self.name} leads now (term {self.term}){before}"


class Pulse:
    """Follows the leader and the revision from one check to the next."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._leader, self._term = "", 0
        self._revisions: deque[tuple[float, int]] = deque()
        self.revision: int | None = None
        self.writes_per_s: int | None = None

    @property
    def line(self) -> str:
        """Both numbers, for people; empty if no node has reported its revision."""
        if self.revision is None:
            return ""
        return f"revision {self.revision}, {self.writes_per_s or 0} writes/s"

    def see(self, nodes: Sequence[UpNode]) -> NewLeader | None:
        """Record the state of all nodes. Returns the new leader if the leader or its term has changed."""
        self._note_revision(max((node.revision for node in nodes if node.revision is not None), default=None))
        leading = max((node for node in nodes if node.state == "leader"), key=lambda node: node.term or 0, default=None)
        if leading is None or (leading.name, leading.term) == (self._leader, self._term):
            return None
        term = leading.term or 0
        if term < self._term:
            return None  # an older leader that has not heard of the new one
        change = NewLeader(leading.name, term, self._leader)
        self._leader, self._term = leading.name, term
        return change

    def _note_revision(self, revision: int | None) -> None:
        if revision is None:
            return
        now_s, seen = self._clock(), self._revisions
        seen.append((now_s, revision))
        while len(seen) > 2 and seen[1][0] <= now_s - RATE_OVER_S:
            seen.popleft()
        since_s, before = seen[0]
        self.revision = revision
        self.writes_per_s = round(max(0, revision - before) / (now_s - since_s)) if now_s > since_s else 0
