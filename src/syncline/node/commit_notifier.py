"""Decide when a leader sends its commit index to the followers.

The commit index travels with entries and heartbeats. A message of its own for each new commit index would be half of
all messages between busy nodes. So under load the next entries carry it a moment later. If no entries follow, it is
sent after `COMMIT_QUIET_S`, so that followers do not show older data for longer. It is sent at once if a follower
waits for it: a follower answers its own proposals when it applies them. (hashicorp/raft waits up to 50 ms for the
next entries, its `CommitTimeout`; etcd/raft sends each commit index at once.)

A follower's linearizable read does not wait for this: the heartbeat that confirms the leader carries the commit
index, as far as the follower is known to hold the log. If its disk is slower it gets the rest in one of the ways
above.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import StateType

__all__ = ["CommitNotifier"]

COMMIT_QUIET_S: Final = 0.01
"""Longer than the pause between the writes of one client, so that its writes need no such message; too short for a
reader of a follower's own state to notice."""


class CommitNotifier:
    """The commit notifier of one node; works only while the node leads.

    A new leader has no earlier commit index to send: it travels with the first entry of its term, which all followers
    get. The commit index of that entry is the first that is sent from here.
    """

    def __init__(self, core: RawNode, schedule: Callable[[], None]) -> None:
        """`schedule` calls for a turn: what the core has to send leaves in it. On a stopped node it does nothing."""
        self._core = core
        self._schedule = schedule
        self._loop = asyncio.get_running_loop()
        self.known: int = core.commit_index
        """The commit index as of the last `look`."""
        self._awaited = 0
        self._timer: asyncio.TimerHandle | None = None

    def awaited(self, index: int) -> None:
        """A follower waits until it may apply the entry at `index`."""
        self._awaited = max(self._awaited, index)

    def look(self) -> None:
        """Check for commits since the last call."""
        core = self._core
        before, committed = self.known, core.commit_index
        self.known = committed
        if before == committed or core.state is not StateType.LEADER:
            return
        if self._awaited > before:
            core.tell_commit()
        elif self._timer is None:
            self._timer = self._loop.call_later(COMMIT_QUIET_S, self._on_timer)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _on_timer(self) -> None:
        self._timer = None
        if self._core.state is StateType.LEADER:
            self._core.tell_commit()
            self._schedule()
