"""Limits on the work that a node accepts: the backlog of entries to apply, and the size of the state machine's state.

Backlog. A state machine that is slower than its callers would let committed entries pile up without end. Callers give
up after their deadline, and their proposals stay committed. So above `MAX_BACKLOG_ENTRIES` a node refuses commands
and barriers at once, its own and, as the leader, those of others. The core bounds the bytes: on a leader, entries
that are not applied count for `max_uncommitted_bytes` (64 MiB). The runtime's own entries pass: a change of the
membership must be possible, and there are few.

Space. A state machine may have a limit for its state (`LimitedFSM`). The leader enforces it before it appends.
Entries that it has appended and not applied count with their largest possible growth, so the state never passes the
limit. There is one exception: entries of earlier terms that a new leader has not applied are not counted, at most 64
MiB of them. A leader may apply a delete later than a follower that has answered it. So a command without space waits
while a command that may free space is not applied here; only then is it refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from operator import itemgetter
from typing import Final

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import NodeId
from syncline.errors import BacklogFull, LimitReached, NoSpace, OperationError, SynclineError
from syncline.node.envelope import DATA, Kind, Proposal, command_in, decode_proposal, decode_session_change
from syncline.node.examination import PLAIN, sound_own
from syncline.node.fsm import FSM, LimitedFSM
from syncline.node.futures import Queued
from syncline.node.rejections import AskAgain

__all__ = ["MAX_BACKLOG_ENTRIES", "Intake"]

MAX_OPENED: Final = 1_000
"""Sessions that a leader lets be opened within `OPENED_S`. At 10,000 the least recently used one ends: so a caller that
opens one after the other can't end those of all others within seconds."""

OPENED_S: Final = 60.0

MAX_BACKLOG_ENTRIES: Final = 10_000
"""Committed and not applied. At a millisecond for an entry they take ten seconds, twice the usual deadline: the callers
of further ones would wait in vain. It also bounds for how long a change of the membership behind them, committed and
not in force, keeps a leader's successor from campaigning."""

NEAR: Final = 3 / 4
"""Up to this share of its limit a state is far from it: commands are counted by their length. Above, each is looked at,
which takes some microseconds."""

_LIMITED: Final = frozenset({int(Kind.COMMAND), int(Kind.BARRIER), int(Kind.SESSION_COMMAND), int(Kind.SESSION)})
"""Kinds that are refused while the backlog is full."""

_payload_of: Final = itemgetter(2)
"""Returns the payload of a queued proposal."""


class Intake:
    """The limits of one node. For the event loop's thread."""

    def __init__(
        self,
        core: RawNode,
        fsm: FSM[object],
        name: str,
        applied: Callable[[], int],
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._core = core
        self._clock = clock
        self._opened_since_s = -OPENED_S
        self._opened = 0
        """Sessions that were opened since then."""
        self._name = name
        self._applied = applied
        self._sized = fsm if isinstance(fsm, LimitedFSM) else None
        self._limited = self._sized if self._sized is not None and self._sized.max_bytes else None
        self.is_full: bool = False
        """Whether the backlog has reached its limit, as of the last `look`."""
        self.refused_no_space: int = 0
        """Commands that were refused because the state has reached its limit."""
        self._granted_bytes = 0
        """The largest possible growth by all accepted commands."""
        self._settled_bytes = 0
        """The part of it that is applied."""
        self._granted_last = 0
        """The last index of the log when a command was accepted last."""
        self._step_bytes = 0
        """Growth of the commands accepted since the log had that last index."""
        self._granted_end = 0
        """The last index that one of them can have."""
        self._placed_last = self._placed = 0
        """A last index of the log, and how many proposals of any kind were accepted since it had that."""
        self._term = 0
        self._freeing_after: int | None = None
        """The last index when a command that may free space was accepted, if nothing was appended since."""
        self._freed_at = 0
        """At this applied index all known commands that may free space are applied."""
        self._marks: deque[tuple[int, int]] = deque()
        """(index, growth accepted up to there) of commands that are not applied, oldest first."""

    @property
    def state_bytes(self) -> int:
        """The size of the state, if the state machine tells it; else 0."""
        return self._sized.size_bytes if self._sized is not None else 0

    @property
    def max_state_bytes(self) -> int:
        """The limit of the state; 0: none."""
        return self._limited.max_bytes if self._limited is not None else 0

    # -- the backlog --------------------------------------------------------------------------------------------------

    def look(self, waiting: int) -> None:
        """Set the number of entries that are committed and not applied. Called once in each turn of the node's loop."""
        self.is_full = waiting > MAX_BACKLOG_ENTRIES

    def backlog_full(self) -> BacklogFull:
        """The refusal of a command while `is_full`, or while the core has too many bytes that are not applied."""
        waiting = self._core.commit_index - self._applied()
        return BacklogFull(
            f"{waiting} committed entries wait to be applied on node {self._name}, whose state machine is slower than"
            " its callers: nothing was proposed. Propose less at a time, or try again later"
        )

    def dropped(self) -> BacklogFull | None:
        """The core took none of the commands accepted last. Returns the refusal if the reason is the backlog's bytes.

        That is so if more of the waiting entries wait for the state machine than for a quorum.
        """
        core = self._core
        if core.last_index == self._freeing_after:
            self._freeing_after = None
        if core.last_index == self._granted_last:
            self._granted_bytes -= self._step_bytes
            self._step_bytes = 0
        unapplied, uncommitted = core.commit_index - self._applied(), core.last_index - core.commit_index
        return self.backlog_full() if unapplied > uncommitted else None

    # -- the state's limit --------------------------------------------------------------------------------------------

    def admitted(
        self, queue: list[Queued], node_id: NodeId, refuse: Callable[[int, SynclineError], None]
    ) -> tuple[list[Queued], list[Queued]]:
        """The leader's own valid proposals for which the state has room, and those that wait.

        The others are refused. Proposals behind a waiting one wait too: they keep their order. Call it in the same
        step in which the first ones are appended.
        """
        queue = sound_own(queue, node_id, refuse, self._check_opening)
        limited = self._limited
        if limited is None or not queue:
            return queue, []
        size_bytes = sum(map(len, map(_payload_of, queue)))
        if self._is_far(limited, _most_bytes(limited, size_bytes, len(queue))):
            self._place(len(queue))
            return queue, []
        kept: list[Queued] = []
        for position, item in enumerate(queue):
            try:
                if item[1] == DATA:
                    command = command_in(decode_proposal(item[2]))
                    if command is not None:
                        self._admit(limited, command)
            except AskAgain:
                self._forget_openings(queue[position:])
                self._place(len(kept))
                return kept, queue[position:]
            except OperationError as error:
                refuse(item[0].number, error)
            else:
                kept.append(item)
        self._place(len(kept))
        return kept, []

    def admit(self, proposal: Proposal) -> None:
        """Accept proposals that another node forwards to this leader. Raises `BacklogFull`, `NoSpace`, `AskAgain`,
        `Rejected`.

        Call it in the same step in which they are appended.
        """
        if self.is_full and proposal.kind in _LIMITED:
            raise self.backlog_full()
        self._check_opening(proposal)
        limited = self._limited
        if limited is None:
            return
        data = command_in(proposal)
        if data is not None and not self._is_far(limited, _most_bytes(limited, len(data), 1)):
            self._admit(limited, data)
        self._place(1)

    def _check_opening(self, proposal: Proposal) -> None:
        """Raise LimitReached if too many sessions were opened within a short time."""
        if proposal.kind != Kind.SESSION or not decode_session_change(proposal.data).opened:
            return
        now_s = self._clock()
        if now_s - self._opened_since_s >= OPENED_S:
            self._opened_since_s, self._opened = now_s, 0
        if self._opened >= MAX_OPENED:
            raise LimitReached(
                f"{MAX_OPENED} sessions were opened through the leader, node {self._name}, within {OPENED_S:g} s: none"
                " was opened. Use a session for many commands, and try again in a minute"
            )
        self._opened += 1

    def _forget_openings(self, waiting: list[Queued]) -> None:
        """These wait, and come again: each is counted once."""
        for _, kind, payload in waiting:
            if kind == DATA and payload[:2] not in PLAIN:
                proposal = decode_proposal(payload)
                if proposal.kind == Kind.SESSION and decode_session_change(proposal.data).opened:
                    self._opened = max(0, self._opened - 1)

    def _is_far(self, limited: LimitedFSM, most_bytes: int) -> bool:
        """Count commands by their largest growth, if the state stays far from its limit with them."""
        term, last = self._core.term, self._core.last_index
        if term != self._term:  # entries of leaders of earlier terms may free space
            self._term, self._freed_at = term, last
        if limited.size_bytes + self._in_flight(last) + most_bytes > limited.max_bytes * NEAR:
            return False
        self._grant(most_bytes, last)
        return True

    def _admit(self, limited: LimitedFSM, data: bytes) -> None:
        growth, last = limited.growth(data), self._core.last_index
        if not growth:
            self._freeing_after = last
            return
        size_bytes, in_flight = limited.size_bytes, self._in_flight(last)
        if size_bytes + in_flight + growth > limited.max_bytes:
            if self._may_be_freed(last):
                raise AskAgain("commands that may free space are on their way to the state machine")
            self.refused_no_space += 1
            raise NoSpace(
                f"the state of the leader, node {self._name}, counts for {size_bytes} bytes and {in_flight} more are on"
                f" their way; the limit is {limited.max_bytes}, and the command adds {growth}. Nothing was stored."
                " Deletes pass and make room; or raise the limit (--max-store-bytes) on all nodes"
            )
        self._grant(growth, last)

    def _may_be_freed(self, last: int) -> bool:
        """Whether a command that may free space is not applied yet."""
        if self._freeing_after is not None and last > self._freeing_after:
            self._freeing_after, self._freed_at = None, last
        return self._freeing_after is not None or self._applied() < self._freed_at

    def _grant(self, size_bytes: int, last: int) -> None:
        if last != self._granted_last:
            self._granted_last, self._step_bytes = last, 0
        self._step_bytes += size_bytes
        self._granted_bytes += size_bytes

    def _place(self, count: int) -> None:
        """So many accepted proposals, of any kind, are the next ones to be appended."""
        last = self._core.last_index
        if last != self._placed_last:
            self._placed_last, self._placed = last, 0
        self._placed += count
        if last == self._granted_last:
            self._granted_end = last + self._placed

    def _in_flight(self, last: int) -> int:
        """Growth of the commands that were accepted and are not applied."""
        marks, granted = self._marks, self._granted_bytes
        if last > self._granted_last and granted != (marks[-1][1] if marks else self._settled_bytes):
            # The log has grown since: all accepted commands are in it. Entries of others may stand behind them; what
            # is applied already must not be counted until those are applied, too.
            marks.append((min(last, self._granted_end), granted))
        if marks:
            applied = self._applied()
            while marks and marks[0][0] <= applied:
                self._settled_bytes = marks.popleft()[1]
        return granted - self._settled_bytes


def _most_bytes(limited: LimitedFSM, size_bytes: int, count: int) -> int:
    """By how many bytes so many commands of this size in total can enlarge the state, whatever they are."""
    return min(size_bytes + count * limited.growth_overhead_bytes, size_bytes * limited.growth_factor)
