"""Propose commands, and read: a part of `Raft`."""

from __future__ import annotations

import asyncio
from asyncio.events import _get_running_loop as running_loop
from collections.abc import Callable, Sequence
from typing import Final, Generic, TypeVar, cast

from syncline.consensus.types import StateType
from syncline.errors import (
    DeadlineExceeded,
    Dropped,
    NodeFailed,
    NotLeader,
    OperationError,
    Outcome,
    StorageError,
    UsageError,
)
from syncline.node.arguments import (
    check_term,
    check_timeout,
    checked_bytes,
    checked_commands,
    checked_flag,
)
from syncline.node.asking import AskHandler
from syncline.node.envelope import Kind
from syncline.node.futures import ApplyCall, ApplyFuture, ReadFuture, Then, settle_error
from syncline.node.looks import LookWork, check_look
from syncline.node.member_registry import Member
from syncline.node.proposals import fence_passed
from syncline.node.runtime import Driver

__all__ = ["Operations"]

_COMMAND, _BARRIER = int(Kind.COMMAND), int(Kind.BARRIER)
"""Plain numbers: a member of an enumeration takes longer to encode and to compare."""

ENDED_AT_ONCE: Final = (OperationError, NodeFailed, StorageError)
"""Errors of a proposal before it is made. They end the future; wrong arguments raise."""

Answer = TypeVar("Answer")
R_co = TypeVar("R_co", covariant=True)
"""What the state machine answers to a command."""


class Operations(Generic[R_co]):
    """Commands and linearizable reads. Base of `Raft`."""

    _driver: Driver
    _failure: asyncio.Future[NodeFailed]

    @property
    def leader(self) -> Member | None:
        """The leader, as far as this node knows; None after the node has stopped.

        Its name and addresses are empty if this node does not know them yet.

            if raft.leader is not None:
                print(f"clients go to {raft.leader.http}")
        """
        leader_id = self._leader_id
        return None if leader_id is None else self._member(leader_id)

    def _member(self, node_id: int) -> Member:
        driver = self._driver
        return driver.parts.book.member(node_id, driver.core.membership)

    def _observe(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each change of the leader, of the role, of members or of their addresses."""
        self._driver.running.observe(callback)

    @property
    def _leader_id(self) -> int | None:
        return None if self._driver.running.stopped else self._driver.core.leader or None

    def apply(
        self,
        data: bytes,
        *,
        timeout: float = 5.0,
        extensions: bytes = b"",
        term: int | None = None,
        frees_space: bool = False,
    ) -> ApplyFuture[R_co]:
        """Replicate a command and apply it to the state machine. Await the future for the state machine's answer.

            answer = await raft.apply(b"a command")

        `timeout` (seconds) bounds the whole operation. A change of leader does not end it: a proposal that certainly
        can't take effect any more is proposed again until then, and the proposals of one node keep their order.

        `term` fences it: it takes effect in this term or not at all, and is not proposed again. That is for what a
        program decided because it leads (`stats().term`): the next leader must not carry it out.

            await raft.apply(b"expire lease 7", term=raft.stats().term)

        `extensions` are bytes that travel beside the data. `frees_space`: the command lets the state shrink. On a full
        disk it may use a part of the reserve.

        Raises:
            TypeError: `data` or `extensions` are not bytes.
            ConfigError: `timeout` is out of range, or `term` is no term.

        The future fails with:
            Rejected: the state machine refused the command (`not_applied`).
            NoLeader, NotLeader, Dropped, Superseded: it did not enter the log, or never will (`not_applied`).
            TooLarge, BacklogFull, NoSpace, DiskFull: a limit was reached (`not_applied`).
            DeadlineExceeded, Closed, NodeFailed: see their `outcome`.
        """
        fence = check_term(term)
        if frees_space is not False:
            checked_flag(frees_space, "frees_space")
        return self._apply(_COMMAND, data, timeout, extensions, fence, frees_space=frees_space)

    def apply_many(self, commands: Sequence[bytes], *, timeout: float = 5.0) -> list[ApplyFuture[R_co]]:
        """Replicate several commands in this order, in one batch. They are not atomic together.

            answers = await asyncio.gather(*raft.apply_many([b"one", b"two"]))

        Raises:
            TypeError: a command is not bytes; none is proposed.
            ConfigError: `timeout` is out of range.

        Each future fails as that of `apply` does.
        """
        check_timeout(timeout)
        return [self._apply(_COMMAND, data, timeout, b"") for data in checked_commands(commands)]

    def _apply_then(
        self, data: bytes, then: Then, *, timeout: float = 5.0, checked: bool = False, frees_space: bool = False
    ) -> None:
        """`apply` with a callback in place of a future: `then(answer, None)`, or `then(None, error)`.

        It is called exactly once, on the event loop: at once if the proposal fails at once, else in the turn of the
        loop in which the answer becomes known. So it must be short and must not block. What it raises goes to the
        exception handler of the loop. `checked`: the caller has made sure that the state machine's `check` passes the
        command.
        """
        if not callable(then):
            raise TypeError(f"then must be a function of an answer and an error, not {type(then).__name__}")
        call = ApplyCall(then)
        if frees_space:
            call.frees_space = True
        try:
            self._driver.proposer.propose(call, _COMMAND, data, timeout, b"", checked)
        except ENDED_AT_ONCE as error:
            call.failed(error)

    def barrier(self, *, timeout: float = 5.0) -> ApplyFuture[None]:
        """Replicate an entry without a command. When it is done, all that was committed before it is applied here.

            await raft.barrier()

        Raises:
            ConfigError: `timeout` is out of range.

        The future fails as that of `apply` does.
        """
        return cast("ApplyFuture[None]", self._apply(_BARRIER, b"", timeout, b""))

    def read_index(self, *, timeout: float = 5.0) -> ReadFuture:
        """Confirm the local state (ReadIndex). When it is done, a read of the local state machine is linearizable.

            await raft.read_index()
            print(machine.items)

        A quorum has confirmed the leader after this call, and this node has applied what was committed then (thesis,
        6.4). Calls that come close together share one future and one confirmation, so it can't be cancelled; a task
        that awaits it can. It works on any node. `read` does both steps.

        Raises:
            ConfigError: `timeout` is out of range.

        The future fails with:
            DeadlineExceeded, NoLeader: no quorum confirmed it before the deadline (`not_applied`).
            Closed, NodeFailed: the node has stopped.
        """
        driver, loop = self._driver, self._driver.loop
        check_timeout(timeout)
        if running_loop() is not loop:
            driver.running.check_place()
        if driver.running.stopped_by is not None:
            future = ReadFuture(loop=loop)
            settle_error(future, driver.running.stopped_by)
            return future
        driver.schedule()
        future = driver.reads.new(loop, loop.time() + timeout, driver.step_s)
        future._running = driver.running
        return future

    async def read(self, look: Callable[[], Answer], *, timeout: float = 5.0, stale: bool = False) -> Answer:
        """Call `look()` linearizably, and return its answer; on any node.

        It runs on the state machine's thread, between two applies: it sees everything that was committed before this
        call, and nothing half applied. It must be short and must not change the state. What it raises is raised here.

            count = await raft.read(lambda: len(machine.items))

        `stale`: look at the state of this node without a confirmation. It may be old, and it needs no quorum.

        Raises:
            TypeError: `look` can't be called, or is `async def`.
            DeadlineExceeded, NoLeader: no quorum confirmed it, or its turn did not come, before the deadline.
            Closed, NodeFailed: the node has stopped.
        """
        check_look(look)
        driver = self._driver
        check_timeout(timeout)
        checked_flag(stale, "stale")
        driver.running.check()
        deadline_s = driver.loop.time() + timeout
        if not stale:
            await self.read_index(timeout=timeout)
        driver.running.check()
        future: asyncio.Future[Answer] = driver.loop.create_future()
        driver.parts.machine.put(cast("LookWork[object]", LookWork(look, future)))
        left_s = max(0.0, deadline_s - driver.loop.time())
        try:
            ends = [cast("asyncio.Future[object]", future), cast("asyncio.Future[object]", self._failure)]
            await asyncio.wait(ends, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            if future.done():
                return future.result()
            driver.running.check()
            message = "the state machine was busy until the deadline"
            raise DeadlineExceeded(message, outcome=Outcome.NOT_APPLIED, leader=self._leader_id)
        finally:
            future.cancel()

    async def verify_leader(self, *, timeout: float = 5.0) -> int:
        """Confirm by a quorum that this node leads, and return its term.

        A quorum has confirmed it after this call, and this node has applied the first entry of that term.

            term = await raft.verify_leader()

        Raises:
            NotLeader: another node leads, or none; or the leadership changed meanwhile.
            DeadlineExceeded, NoLeader: no quorum confirmed it before the deadline.
            Closed, NodeFailed: the node has stopped.
        """
        check_timeout(timeout)
        self._driver.running.check()
        term = self._driver.core.term
        self._check_leads()
        await self.read_index(timeout=timeout)
        self._check_leads()
        if self._driver.core.term != term:
            raise NotLeader("the leadership changed meanwhile", leader=self._leader_id)
        return term

    async def ask_leader(self, data: bytes, *, timeout: float = 5.0) -> bytes:
        """Call the leader's handler (`answer_asks`) with `data`, and return its answer; on any node.

        Nothing enters the log. The call waits for a leader until the deadline, and goes to the next one only if the
        handler has certainly not acted on it. `data` and the answer have at most 1 MiB; a node has at most 1,024 calls
        and 16 MiB of them under way.

            raft.answer_asks(lambda data: b"the leader was asked " + data)
            print(await raft.ask_leader(b"something"))

        Raises:
            TypeError: `data` is not bytes.
            ConfigError: `timeout` is out of range.
            NoLeader, NotLeader: the handler was not reached (`not_applied`), or the leader changed during the call
                (`unknown`).
            Dropped, TooLarge: a limit was reached (`not_applied`), or the link to the leader was lost (`unknown`).
            DeadlineExceeded: the leader did not answer (`unknown`).
            RequestFailed: the leader has no handler (code `unsupported`), or it failed (`ask_failed`).
            Rejected, and other errors of `syncline.errors`: the handler has raised them.
            Closed, NodeFailed: the node has stopped.
        """
        data = checked_bytes(data)
        check_timeout(timeout)
        self._driver.running.check()
        return await self._driver.asking.ask(data, timeout)

    def answer_asks(self, handler: AskHandler | None) -> None:
        """Answer calls of `ask_leader` while this node leads: `handler(data)` returns bytes, or is a coroutine.

        It runs on the event loop and must not block it; it may return an `asyncio.Future`, too. It runs if this node
        believes that it leads. A handler that must be certain of it awaits `verify_leader` before it answers. An error
        of `syncline.errors` that it raises is the caller's, with code and outcome; any other reaches the loop's
        exception handler, and the caller gets `RequestFailed`. Each node has one handler; None removes it. A node that
        has stopped answers nothing more.

            async def answer(data: bytes) -> bytes:
                await raft.verify_leader()
                return data

            raft.answer_asks(answer)

        Raises:
            TypeError: `handler` can't be called.
            UsageError: the node has another handler, or the call is on another thread or loop than the node's.
        """
        if handler is not None and not callable(handler):
            raise TypeError(f"handler must be a function of bytes, not {type(handler).__name__}")
        driver = self._driver
        driver.running.check_place()
        asking = driver.asking
        if handler is not None and asking.handler is not None:
            raise UsageError("this node has a handler of calls to the leader: remove it by `answer_asks(None)` first")
        asking.handler = handler

    def _check_leads(self) -> None:
        if self._driver.core.state is not StateType.LEADER:
            raise NotLeader("this node does not lead", leader=self._leader_id)

    def _apply(
        self,
        kind: int,
        data: bytes,
        timeout_s: float,
        extensions: bytes,
        fence: int = 0,
        *,
        frees_space: bool = False,
    ) -> ApplyFuture[R_co]:
        future: ApplyFuture[R_co] = ApplyFuture(loop=self._driver.loop)
        future._running = self._driver.running
        if frees_space:
            future.frees_space = True
        try:
            if fence:
                future.fence = fence
                self._check_fence(fence)
            self._driver.proposer.propose(future, kind, data, timeout_s, extensions, False)
        except ENDED_AT_ONCE as error:
            future.failed(error)
        return future

    def _check_fence(self, fence: int) -> None:
        """Raise if nothing can be proposed in this term now."""
        driver = self._driver
        driver.running.check()
        term = driver.core.term
        if fence < term:
            raise fence_passed(fence, term)
        if fence > term:
            raise Dropped(f"this node has not heard of term {fence}: it is in term {term}; try again")
