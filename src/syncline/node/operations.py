"""What programs do with a node: propose commands, and read. A part of `Raft`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from syncline.consensus.types import NodeId, StateType
from syncline.errors import NodeFailed, NotLeader, OperationError, StorageError, TooLarge
from syncline.node.arguments import MAX_TIMEOUT_S, check_timeout, checked_bytes, checked_commands
from syncline.node.driver import Driver
from syncline.node.envelope import DATA, Kind, Proposal, encode
from syncline.node.futures import ApplyCall, ApplyFuture, ReadFuture, Then, Waiter, settle_error

__all__ = ["Operations"]

ENDED_AT_ONCE: Final = (OperationError, NodeFailed, StorageError)
"""Why a proposal may fail before it is one. It is told as any failure is; wrong arguments raise."""


class Operations:
    """Commands and linearizable reads. Base of `Raft`."""

    _driver: Driver

    @property
    def leader(self) -> NodeId | None:
        """Who leads, as far as this node knows."""
        return self._driver.core.leader or None

    def apply(self, data: bytes, *, timeout: float = 5.0, extensions: bytes = b"") -> ApplyFuture:
        """Replicate a command and apply it to the state machine. Await the future for the state machine's answer.

        `timeout` (seconds) bounds the whole operation. Failures: `Rejected` (the state machine refused), `TooLarge`,
        `Dropped`, `NoLeader`, `NotLeader`, `Superseded` (all `not_applied`), `DeadlineExceeded`, `Closed` (see their
        `outcome`), `DiskFull`, `NodeFailed`. Raises TypeError for data that are not bytes, ConfigError for a `timeout`
        out of range: then nothing was proposed.
        """
        return self._apply(Kind.COMMAND, data, timeout, extensions)

    def apply_many(self, commands: Sequence[bytes], *, timeout: float = 5.0) -> list[ApplyFuture]:
        """`apply` for each, in this order, in one batch. They are not atomic together.

        Raises as `apply` does, and then proposes none of them.
        """
        check_timeout(timeout)
        return [self._apply(Kind.COMMAND, data, timeout, b"") for data in checked_commands(commands)]

    def apply_then(self, data: bytes, then: Then, *, timeout: float = 5.0, checked: bool = False) -> None:
        """`apply` for those who go on in a callback: `then(answer, None)`, or `then(None, error)`.

        It is called exactly once, on the event loop: at once where the proposal fails at once, else in the very turn of
        the loop in which the answer is known, so it must be short and must not block. What it raises goes to the loop's
        exception handler. `checked`: the caller has made sure that the state machine's `check` passes the command.
        """
        if not callable(then):
            raise TypeError(f"then must be a function of an answer and an error, not {type(then).__name__}")
        call = ApplyCall(then)
        try:
            self._propose(call, Kind.COMMAND, data, timeout, b"", checked=checked)
        except ENDED_AT_ONCE as error:
            call.failed(error)

    def barrier(self, *, timeout: float = 5.0) -> ApplyFuture:
        """Done when everything committed before it has been applied here."""
        return self._apply(Kind.BARRIER, b"", timeout, b"")

    def read_index(self, *, timeout: float = 5.0) -> ReadFuture:
        """When the future is done, a read of the local state machine is linearizable; on any node.

        A quorum has confirmed the leader after this call, and this node has applied what was committed then (thesis,
        6.4). Calls that come close together share one future and one confirmation, so it can't be cancelled; a task
        that awaits it can.
        """
        driver, loop = self._driver, self._driver.loop
        check_timeout(timeout)
        if driver.stopped_by is not None:
            future = ReadFuture(loop=loop)
            settle_error(future, driver.stopped_by)
            return future
        driver.schedule()
        return driver.reads.new(loop, loop.time() + timeout, driver.config.heartbeat_s)

    async def verify_leader(self, *, timeout: float = 5.0) -> None:  # noqa: ASYNC109
        """Return if this node leads, as confirmed by a quorum after the call; else raise NotLeader."""
        term = self._driver.core.term
        self._check_leads()
        await self.read_index(timeout=timeout)
        self._check_leads()
        if self._driver.core.term != term:
            raise NotLeader("the leadership changed meanwhile", leader=self.leader)

    def _check_leads(self) -> None:
        if self._driver.core.state is not StateType.LEADER:
            raise NotLeader("this node does not lead", leader=self.leader)

    def _apply(self, kind: Kind, data: bytes, timeout_s: float, extensions: bytes) -> ApplyFuture:
        future = ApplyFuture(loop=self._driver.loop)
        try:
            self._propose(future, kind, data, timeout_s, extensions)
        except ENDED_AT_ONCE as error:
            future.failed(error)
        return future

    def _propose(
        self, waiter: Waiter, kind: Kind, data: bytes, timeout_s: float, extensions: bytes, *, checked: bool = False
    ) -> None:
        if type(data) is not bytes or type(extensions) is not bytes:
            data, extensions = checked_bytes(data), checked_bytes(extensions, "extensions")
        if type(timeout_s) is not float or not 0.0 < timeout_s <= MAX_TIMEOUT_S:
            check_timeout(timeout_s)
        driver = self._driver
        driver.check_running()
        size = len(data) + len(extensions)
        if size > driver.config.max_entry_bytes:
            raise TooLarge(f"a command of {size} bytes; the limit is {driver.config.max_entry_bytes}")
        driver.parts.wal.check_space(size)
        if driver.parts.check is not None and not checked and kind is Kind.COMMAND:
            driver.parts.check(data)
        driver.proposals.add(waiter, size, driver.loop.time() + timeout_s)
        driver.propose(waiter, DATA, encode(Proposal(kind, driver.core.raft.id, waiter.number, data, extensions)))
