"""A leader's view of each follower's log, and the pace of the appends to it.

A `Progress` is a small state machine of its own:

                 +--------------- rejected, unreachable -----------------+
                 v                                                       |
          +-------------+   an append is accepted   +-----------------------------+
    ----> |    PROBE    | ------------------------> |          REPLICATE          |
          +-------------+                           +-----------------------------+
             ^       |  the entries needed                ^              |
             |       |  are compacted                     | an answer    | the entries needed
    snapshot |       v                                    | that meets   | are compacted
    reported |    +----------+                            | the log      |
             +--- | SNAPSHOT | ---------------------------+              |
                  +----------+ <-----------------------------------------+

The leader knows the match index (`match_index`), up to which both logs agree. It guesses the next index
(`next_index`), from which it sends (thesis, 3.5). The entries between them are under way.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from typing import Final

from syncline.consensus.types import NO_LIMIT

__all__ = ["ENTRY_OVERHEAD_BYTES", "FIRST_PROBE_TICKS", "Inflights", "Progress", "ProgressState"]

ENTRY_OVERHEAD_BYTES: Final = 24
"""Bytes that an entry takes of a connection's room beside its data."""

FIRST_PROBE_TICKS: Final = 2
"""Ticks to wait for the first append in PROBE: a round trip and a write take less, except on a slow disk."""


class ProgressState(IntEnum):
    """How the leader sends to a follower."""

    PROBE = 0
    """Where the logs meet is not known: one append at a time, the next one when it is answered or counts as lost: when
    a heartbeat was answered, at the earliest after `probe_ticks`."""

    REPLICATE = 1
    """The logs meet: appends are pipelined, `next_index` runs ahead of the answers (thesis, 10.2.1)."""

    SNAPSHOT = 2
    """The follower needs entries that are gone: a snapshot is on its way and nothing else is sent."""

    def __str__(self) -> str:
        return f"State{self.name.capitalize()}"


class Inflights:
    """The appends under way to one follower: their last indexes, oldest first, and their payloads in bytes.

    Full if it holds `max_messages`, or `max_bytes` or more. One message may exceed the bytes: a limit that is
    smaller than a single entry must not stop replication.
    """

    __slots__ = ("_messages", "bytes", "full", "max_bytes", "max_messages")

    def __init__(self, max_messages: int, max_bytes: int = NO_LIMIT) -> None:
        self.max_messages: int = max_messages
        self.max_bytes: int = max_bytes or NO_LIMIT
        self.bytes: int = 0
        self._messages: deque[tuple[int, int]] = deque()
        self.full: bool = False
        """Whether no more entries may be sent. Kept, because it is asked for more often than it changes."""

    def add(self, index: int, size_bytes: int) -> None:
        """Record an append whose last entry is at `index`. Only if not full; indexes only grow."""
        assert not self.full, "an append was sent although the limit was reached"
        self._messages.append((index, size_bytes))
        self.bytes += size_bytes
        self.full = len(self._messages) >= self.max_messages or self.bytes >= self.max_bytes

    def free_up_to(self, index: int) -> None:
        """Drop the appends that an acknowledgement of `index` covers."""
        messages = self._messages
        while messages and messages[0][0] <= index:
            self.bytes -= messages.popleft()[1]
            self.full = len(messages) >= self.max_messages or self.bytes >= self.max_bytes

    def limit(self, max_messages: int, max_bytes: int) -> None:
        """Have other limits from now on. What is under way stays."""
        self.max_messages, self.max_bytes = max_messages, max_bytes or NO_LIMIT
        self.full = len(self._messages) >= self.max_messages or self.bytes >= self.max_bytes

    def clear(self) -> None:
        """Drop all appends."""
        self._messages.clear()
        self.bytes = 0
        self.full = False

    def copy(self) -> Inflights:
        """An independent copy."""
        twin = Inflights(self.max_messages, self.max_bytes)
        twin.bytes = self.bytes
        twin._messages = self._messages.copy()
        twin.full = self.full
        return twin

    def __len__(self) -> int:
        return len(self._messages)


class Progress:
    """One follower (or the leader itself) as the leader sees it. Invariant: 0 <= match index < next index."""

    __slots__ = (
        "durable_commit",
        "inflights",
        "learner",
        "match_index",
        "next_index",
        "paused_by_flow",
        "paused_by_room",
        "pending_snapshot",
        "probe_ticks",
        "probe_wait_ticks",
        "recent_active",
        "room_bytes",
        "sent_commit",
        "session",
        "state",
    )

    def __init__(
        self,
        *,
        match_index: int = 0,
        next_index: int = 1,
        inflights: Inflights | None = None,
        learner: bool = False,
        recent_active: bool = False,
        session: int = 0,
        room_bytes: int = NO_LIMIT,
    ) -> None:
        self.match_index: int = match_index
        self.next_index: int = next_index
        self.state: ProgressState = ProgressState.PROBE
        self.sent_commit: int = 0
        """The highest commit index under way to the follower. Below `next_index`: it can't commit what it lacks."""
        self.pending_snapshot: int = 0
        """In SNAPSHOT: the index of the snapshot that was sent."""
        self.paused_by_flow: bool = False
        """No more appends until an answer arrives: a probe is out, or the inflights were full when the last went."""
        self.recent_active: bool = recent_active
        """Whether the follower has answered in this election timeout (check-quorum; always true of the leader)."""
        self.inflights: Inflights = inflights if inflights is not None else Inflights(1)
        self.learner: bool = learner
        self.session: int = session
        """Numbers this tracking of the follower within the leader's term; see `Message.session`."""
        self.durable_commit: int = 0
        """The durable commit index of the follower, as it reports. The core does not use it."""
        self.room_bytes: int = room_bytes
        """How many more bytes the connection to the follower takes, as the runtime has reported."""
        self.paused_by_room: bool = False
        """No more appends until there is room: one without entries was sent, with the commit index."""
        self.probe_ticks: int = 0
        """Ticks to go on waiting for the append in PROBE."""
        self.probe_wait_ticks: int = 0
        """How long that was in all. It doubles with each append that gets no answer: the follower may have dropped the
        first one (it is refused at its start), or its disk may be slow."""

    def copy(self) -> Progress:
        """An independent copy."""
        twin = Progress(
            match_index=self.match_index,
            next_index=self.next_index,
            inflights=self.inflights.copy(),
            learner=self.learner,
            recent_active=self.recent_active,
            session=self.session,
            room_bytes=self.room_bytes,
        )
        twin.durable_commit = self.durable_commit
        twin.probe_ticks = self.probe_ticks
        twin.probe_wait_ticks = self.probe_wait_ticks
        twin.paused_by_room = self.paused_by_room
        twin.state = self.state
        twin.sent_commit = self.sent_commit
        twin.pending_snapshot = self.pending_snapshot
        twin.paused_by_flow = self.paused_by_flow
        return twin

    @property
    def paused(self) -> bool:
        """Whether nothing may be sent to the follower at the moment, heartbeats aside."""
        return self.paused_by_flow or self.paused_by_room or self.state is ProgressState.SNAPSHOT

    def become_probe(self) -> None:
        """Search the last index at which the logs agree; after a snapshot, from its index on."""
        after_snapshot = self.pending_snapshot + 1 if self.state is ProgressState.SNAPSHOT else 0
        self._enter(ProgressState.PROBE)
        self.next_index = max(self.match_index + 1, after_snapshot)
        self.sent_commit = min(self.sent_commit, self.next_index - 1)

    def become_replicate(self) -> None:
        """Send as fast as the limits allow, from behind the match index."""
        self._enter(ProgressState.REPLICATE)
        self.next_index = self.match_index + 1
        self.sent_commit = min(self.sent_commit, self.next_index - 1)

    def become_snapshot(self, index: int) -> None:
        """Wait for a snapshot at `index` to arrive."""
        self._enter(ProgressState.SNAPSHOT)
        self.pending_snapshot = index
        self.next_index = index + 1
        self.sent_commit = index

    def sent_entries(self, count: int, size_bytes: int, max_probe_ticks: int = 0) -> None:
        """Record that an append with `count` entries from `next_index` on was sent.

        A probe without an answer counts as lost after `FIRST_PROBE_TICKS`, the next one after twice as many, and so on,
        up to `max_probe_ticks`.
        """
        if self.room_bytes < NO_LIMIT:
            left = self.room_bytes - size_bytes - ENTRY_OVERHEAD_BYTES * count
            if left > 0:
                self.room_bytes, self.paused_by_room = left, False
            else:
                self.room_bytes, self.paused_by_room = 0, not count
        if self.state is ProgressState.REPLICATE:
            if count:
                self.next_index += count
                self.inflights.add(self.next_index - 1, size_bytes)
            # An append that fills the window, or is sent although it is full, is a probe: nothing more until an answer
            # or the next heartbeat, or a full window whose appends are all lost would never empty.
            self.paused_by_flow = self.inflights.full
        else:
            assert self.state is ProgressState.PROBE, "entries were sent while a snapshot is on its way"
            # An empty probe does not pause: it is sent to pass on a commit index, and entries may follow it.
            if count:
                self.paused_by_flow = True
                self.probe_wait_ticks = min(2 * self.probe_wait_ticks or FIRST_PROBE_TICKS, max_probe_ticks)
                self.probe_ticks = self.probe_wait_ticks

    def heartbeat_answered(self) -> None:
        """Send again to a follower that answers: its append may be lost, except a probe with time left."""
        self.paused_by_room = False
        if self.state is not ProgressState.PROBE or not self.probe_ticks:
            self.paused_by_flow = False

    def still_sending(self) -> None:
        """The append in PROBE is still being sent: wait as long as if it were sent now."""
        if self.probe_ticks:
            self.probe_ticks = self.probe_wait_ticks

    def probe_lost(self) -> None:
        """Stop waiting for the append in PROBE."""
        if self.probe_ticks:
            self.probe_ticks = 0
            self.paused_by_flow = False

    def can_bump_commit(self, commit: int) -> bool:
        """Whether the follower could raise its commit index by this `commit`."""
        return commit > self.sent_commit and self.sent_commit < self.next_index - 1

    def maybe_update(self, index: int) -> bool:
        """Record an acknowledgement of `index`; False if it was known."""
        if index <= self.match_index:
            return False
        self.match_index = index
        if self.next_index <= index:
            self.next_index = index + 1
        self.paused_by_flow = False
        self.probe_ticks = 0
        self.probe_wait_ticks = 0
        return True

    def maybe_decrease(self, rejected: int, hint: int) -> bool:
        """Step back after the append behind `rejected` was rejected; `hint` is an index at which the logs may agree.

        False if the rejection is old: it was sent before an answer that is known already.
        """
        if self.state is ProgressState.REPLICATE:
            if rejected <= self.match_index:
                return False
            self.next_index = self.match_index + 1
            self.sent_commit = min(self.sent_commit, self.next_index - 1)
            return True
        if rejected != self.next_index - 1:  # an answer to another probe
            return False
        self.next_index = max(min(rejected, hint + 1), self.match_index + 1)
        self.sent_commit = min(self.sent_commit, self.next_index - 1)
        self.paused_by_flow = False
        self.probe_ticks = 0
        self.probe_wait_ticks = 0
        return True

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.paused_by_flow = False
        self.paused_by_room = False
        self.probe_ticks = 0
        self.probe_wait_ticks = 0
        self.pending_snapshot = 0
        self.inflights.clear()

    def __str__(self) -> str:
        text = f"{self.state} match={self.match_index} next={self.next_index}"
        if self.learner:
            text += " learner"
        if self.paused:
            text += " paused"
        if self.pending_snapshot:
            text += f" pendingSnap={self.pending_snapshot}"
        if not self.recent_active:
            text += " inactive"
        if count := len(self.inflights):
            text += f" inflight={count}"
            if self.inflights.full:
                text += "[full]"
        return text

    def __repr__(self) -> str:
        return f"<Progress {self}>"
