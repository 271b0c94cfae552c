"""The way of this node's proposals: from the call to the queue that the node's next turn empties.

Each write takes it. So `Proposer` holds the parts that it uses, and does not look for them in the driver.
"""

from __future__ import annotations

from asyncio.events import _get_running_loop as running_loop
from collections.abc import Callable, Sequence
from typing import Final

from syncline.consensus.types import NodeId
from syncline.errors import TooLarge
from syncline.node.arguments import MAX_TIMEOUT_S, check_timeout, checked_bytes
from syncline.node.envelope import DATA, Kind, Proposal, encode
from syncline.node.futures import Queued, Waiter
from syncline.node.intake import Intake
from syncline.node.proposals import Proposals
from syncline.node.running import Running
from syncline.storage.space import CheckSpace

__all__ = ["Proposer"]

_COMMAND: Final = int(Kind.COMMAND)
"""A plain number, and plain numbers below: a member of an enumeration takes longer to encode and to compare."""

_PROPOSED_AGAIN: Final = frozenset({_COMMAND, *map(int, (Kind.BARRIER, Kind.SESSION, Kind.SESSION_COMMAND))})
"""Kinds that are proposed again once an attempt can't take effect any more."""


class Proposer:
    """The queue of this node's proposals, and the only way into it. `schedule` asks for a turn.

    `check` is that of the state machine: it raises for a command that no node could apply.
    """

    __slots__ = (
        "_check",
        "_check_space",
        "_intake",
        "_loop",
        "_node_id",
        "_proposals",
        "_running",
        "_schedule",
        "max_entry_bytes",
        "queue",
        "queued_bytes",
    )

    def __init__(
        self,
        node_id: NodeId,
        running: Running,
        proposals: Proposals,
        intake: Intake,
        *,
        check_space: CheckSpace,
        check: Callable[[bytes], None] | None,
        schedule: Callable[[], None],
        max_entry_bytes: int,
    ) -> None:
        self._node_id = node_id
        self._running = running
        self._loop = running.loop
        self._proposals = proposals
        self._intake = intake
        self._check_space = check_space
        self._check = check
        self._schedule = schedule
        self.max_entry_bytes: int = max_entry_bytes
        self.queue: list[Queued] = []
        """Those that wait for a turn, or for a leader, in their order."""
        self.queued_bytes: int = 0
        """The size of their data."""

    def propose(
        self, waiter: Waiter, kind: int, data: bytes, timeout_s: float, extensions: bytes, checked: bool
    ) -> None:
        """Queue a command or barrier, or one of a session. `checked`: the state machine's `check` passes it.

        Raises:
            TypeError, ConfigError, UsageError: an argument is wrong, or the call is on another thread or loop.
            TooLarge, BacklogFull, DiskFull, Dropped: a limit is reached.
            Rejected: the state machine's `check` refused it.
            Closed, NodeFailed: the node has stopped.
        """
        if type(data) is not bytes or type(extensions) is not bytes:
            data, extensions = checked_bytes(data), checked_bytes(extensions, "extensions")
        if type(timeout_s) is not float or not 0.0 < timeout_s <= MAX_TIMEOUT_S:
            check_timeout(timeout_s)
        running, loop = self._running, self._loop
        if running.stopped_by is not None or running_loop() is not loop:
            running.check()
        size = len(data) + len(extensions)
        if size > self.max_entry_bytes:
            raise TooLarge(f"a command of {size} bytes; the limit is {self.max_entry_bytes}")
        if self._intake.is_full:
            raise self._intake.backlog_full()
        self._check_space(size, frees_space=waiter.frees_space)
        if not checked and self._check is not None and kind == _COMMAND:
            self._check(data)
        number = self._proposals.add(waiter, size, loop.time() + timeout_s)
        payload = encode(Proposal(kind, self._node_id, number, data, extensions))
        if waiter.fence:
            self._proposals.fenced = True
        elif kind in _PROPOSED_AGAIN:
            waiter.payload = payload
        assert not running.stopped, "a proposal on a stopped node would never end"
        self.queue.append((waiter, DATA, payload))
        self.queued_bytes += len(payload)
        self._schedule()

    def add(self, waiter: Waiter, kind: int, payload: bytes) -> None:
        """Queue a proposal of the runtime's own that has its number already."""
        assert not self._running.stopped, "a proposal on a stopped node would never end"
        self.queue.append((waiter, kind, payload))
        self.queued_bytes += len(payload)
        self._schedule()

    def take(self) -> list[Queued]:
        """All that wait; none waits any more."""
        queue, self.queue, self.queued_bytes = self.queue, [], 0
        return queue

    def put_back(self, waiting: Sequence[Queued]) -> None:
        """Have these wait again, before all others."""
        self._proposals.fenced |= any(waiter.fence for waiter, _, _ in waiting)
        self._replace([*waiting, *self.queue])

    def add_again(self, again: Sequence[Queued]) -> None:
        """Queue proposals whose attempt can't take effect any more; all are in their order."""
        self._proposals.fenced |= any(waiter.fence for waiter, _, _ in again)
        self._replace(sorted([*again, *self.queue], key=lambda item: item[0].number))
        self._schedule()

    def drop_ended(self) -> None:
        """Forget those that have ended: they must not stay in memory while there is no leader."""
        if self.queue:
            self._replace([item for item in self.queue if not item[0].done()])

    def clear(self) -> None:
        """Forget all: the node stops."""
        self._replace([])

    def _replace(self, queue: list[Queued]) -> None:
        self.queue = queue
        self.queued_bytes = sum(len(payload) for _, _, payload in queue)
