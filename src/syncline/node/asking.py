"""Calls to the leader that do not enter the log: `Raft.ask_leader`, and the handler that answers them.

A follower sends an `Ask`; the leader gives it to the program's handler and sends an `AskReply`. The leader's own calls
go the same way without a message, so a call behaves alike on each node. A call goes to one leader at a time. It goes
to the next one only after an answer that says that the handler has not acted on it. If the leader changes, or the link
to it is lost, while a call is under way, the call ends and its outcome is `unknown`.

The leader runs the handler if it believes that it leads. A handler whose answer depends on it confirms that by a
quorum (`Raft.verify_leader`).
"""

from __future__ import annotations

import asyncio
import inspect
import random
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeAlias

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import NONE, NodeId, StateType
from syncline.errors import (
    BacklogFull,
    DeadlineExceeded,
    DiskFull,
    Dropped,
    NoLeader,
    NoSpace,
    NotLeader,
    OperationError,
    Outcome,
    Rejected,
    RequestFailed,
    Superseded,
    SynclineError,
    TooLarge,
)
from syncline.node.arguments import checked_bytes
from syncline.node.futures import settle_error
from syncline.node.rejections import DISK_FULL, sendable
from syncline.platform.texts import named_error
from syncline.transport.messages import ASK_BYTES, Ask, AskReply

__all__ = ["AskHandler", "Asking"]

AskHandler: TypeAlias = Callable[[bytes], bytes | Awaitable[bytes]]
"""Answers a call on the leader: a function, or a coroutine function. One that returns an `asyncio.Future` needs no task
for each call."""

MAX_CALLS: Final = 1024
"""Calls under way: of one node, and on the leader of each node. Beyond it a call is dropped, so that no node can fill
the memory of another. Callers with more to ask put many questions into one call."""

MAX_CALL_BYTES: Final = 16 << 20
"""Bytes of the same calls."""

CODE_CHARACTERS: Final = 128

FAILED: Final = "ask_failed"
"""The handler raised an error that is not one of `syncline.errors`, or returned no bytes."""

_ERRORS: Final[dict[str, type[OperationError]]] = {
    error.code: error
    for error in (Dropped, BacklogFull, NoSpace, NotLeader, NoLeader, TooLarge, DeadlineExceeded, Superseded)
}


class _Load:
    """Calls of one node, and their bytes."""

    __slots__ = ("calls", "size_bytes")

    def __init__(self) -> None:
        self.calls = self.size_bytes = 0

    def add(self, size_bytes: int) -> bool:
        """Count one more call; False if there is no room for it."""
        if self.calls >= MAX_CALLS or self.size_bytes + size_bytes > MAX_CALL_BYTES:
            return False
        self.calls += 1
        self.size_bytes += size_bytes
        return True

    def remove(self, size_bytes: int) -> None:
        self.calls -= 1
        self.size_bytes -= size_bytes


class _Handled:
    """A call that the handler of this leader answers: of which node, and the load that it is counted in."""

    __slots__ = ("future", "load", "number", "sender", "size_bytes")

    def __init__(self, sender: NodeId, number: int, load: _Load, size_bytes: int) -> None:
        self.sender = sender
        self.number = number
        self.load = load
        self.size_bytes = size_bytes
        self.future: asyncio.Future[object] | None = None
        """What the handler has returned, if it is not the answer itself."""


class Asking:
    """Both ends of the calls, for one node.

    `send` queues a message for a peer and says whether it was taken; `schedule` makes the node send what is queued.
    """

    def __init__(
        self,
        core: RawNode,
        loop: asyncio.AbstractEventLoop,
        rng: random.Random,
        send: Callable[[NodeId, Ask | AskReply], bool],
        schedule: Callable[[], None],
        *,
        heartbeat_s: float,
    ) -> None:
        self._core = core
        self._loop = loop
        self._rng = rng
        self._send = send
        self._schedule = schedule
        self.heartbeat_s: float = heartbeat_s
        self.handler: AskHandler | None = None
        self._open: dict[int, tuple[NodeId, asyncio.Future[AskReply]]] = {}
        """Calls under way, by number, with the leader that was asked."""
        self._number = 0
        """Of the newest call. The first one is drawn at random: an answer to an earlier process fits no call."""
        self._own = _Load()
        self._loads: dict[NodeId, _Load] = {}
        """Calls that the handler has not answered yet, by node."""
        self._handled: dict[_Handled, None] = {}
        """Calls that the handler answers later."""
        self._changed: asyncio.Future[None] | None = None
        """Done at the next change of leader."""
        self._stopped_by: SynclineError | None = None

    # -- on the node that asks ----------------------------------------------------------------------------------------

    async def ask(self, data: bytes, timeout_s: float) -> bytes:
        """Ask the leader; see `Raft.ask_leader`."""
        size = len(data)
        if size > ASK_BYTES:
            raise TooLarge(f"a call to the leader of {size} bytes; the limit is {ASK_BYTES}")
        if not self._own.add(size):
            raise Dropped(
                f"this node has {self._own.calls} calls to the leader under way, with {self._own.size_bytes} bytes; the"
                f" limits are {MAX_CALLS} and {MAX_CALL_BYTES}: wait for some, or put several questions into one call"
            )
        try:
            return await self._ask(data, self._loop.time() + timeout_s)
        finally:
            self._own.remove(size)

    async def _ask(self, data: bytes, deadline_s: float) -> bytes:
        refusal: OperationError = NoLeader("no leader was found before the deadline: the call was not made")
        while True:
            if self._stopped_by is not None:
                raise self._stopped_by
            leader = self._core.leader
            if leader != NONE:
                reply = await self._attempt(leader, data, deadline_s)
                if reply is not None:
                    if not reply.code:
                        return reply.data
                    error = _error_of(reply, leader)
                    if not isinstance(error, NotLeader) or error.outcome is not Outcome.NOT_APPLIED:
                        raise error
                    refusal = error
            left_s = deadline_s - self._loop.time()
            if left_s <= 0:
                raise refusal
            await self._wait_for_leader(left_s if leader == NONE else min(left_s, self.heartbeat_s))

    async def _attempt(self, leader: NodeId, data: bytes, deadline_s: float) -> AskReply | None:
        """Ask this leader. None: the link did not take the call."""
        self._number = number = self._number + 1 if self._number else self._rng.getrandbits(62) + 1
        future: asyncio.Future[AskReply] = self._loop.create_future()
        self._open[number] = leader, future
        try:
            if leader == self._core.id:
                self.on_ask(leader, Ask(number, data))
            elif not self._send(leader, Ask(number, data)):
                return None
            else:
                self._schedule()
            timer = self._loop.call_at(deadline_s, _end_late, future, leader)  # cheaper than a wait with a time-out
            try:
                return await future
            finally:
                timer.cancel()
        finally:
            del self._open[number]

    async def _wait_for_leader(self, timeout_s: float) -> None:
        """Wait for another leader, for so long at most: the link to the same one may be up again."""
        if self._changed is None:
            self._changed = self._loop.create_future()
        await asyncio.wait([self._changed], timeout=timeout_s)

    def on_reply(self, sender: NodeId, reply: AskReply) -> None:
        """A node answers. It has no effect if this node has not asked that one under this number."""
        leader, future = self._open.get(reply.number, (NONE, None))
        if future is not None and leader == sender and not future.done():
            future.set_result(reply)

    def leader_changed(self, leader: NodeId) -> None:
        """Another node leads, or none: the leaders before it may or may not have acted on what they were asked."""
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None
        text = "the leader changed before it answered"
        self._end(
            lambda asked: asked != leader, lambda: NotLeader(text, outcome=Outcome.UNKNOWN, leader=leader or None)
        )

    def link_lost(self, peer: NodeId) -> None:
        """The link to this peer was lost, and with it perhaps what was asked."""
        text = "the link to the leader was lost before it answered"
        self._end(lambda asked: asked == peer, lambda: Dropped(text, outcome=Outcome.UNKNOWN, leader=peer))

    def stop(self, sent: SynclineError, unsent: SynclineError) -> None:
        """End all calls; no handler runs any more."""
        self._stopped_by = unsent
        self._end(lambda _: True, lambda: sent)
        if self._changed is not None:
            self._changed.set_result(None)
            self._changed = None
        for call in self._handled:
            if call.future is not None:
                call.future.cancel()

    def _end(self, ends: Callable[[NodeId], bool], error: Callable[[], SynclineError]) -> None:
        for leader, future in self._open.values():
            if ends(leader):
                settle_error(future, error())

    # -- on the leader ------------------------------------------------------------------------------------------------

    def on_ask(self, sender: NodeId, ask: Ask) -> None:
        """A node, perhaps this one, asks the leader."""
        size, handler = len(ask.data), self.handler
        load = self._loads.get(sender)
        if self._core.state is not StateType.LEADER:
            self._reply(sender, _reply_of(ask.number, NotLeader("this node does not lead")))
        elif handler is None:
            text = "the leader's program answers no calls: it has not called `answer_asks`"
            self._reply(sender, AskReply(ask.number, code="unsupported", message=text))
        elif not (load := load or self._loads.setdefault(sender, _Load())).add(size):
            text = f"the leader has {load.calls} unanswered calls of this node, with {load.size_bytes} bytes"
            self._reply(sender, _reply_of(ask.number, Dropped(text)))
        else:
            # In the next turn: what the handler does must not meet a node that is handling messages.
            self._loop.call_soon(self._handle, handler, ask.data, _Handled(sender, ask.number, load, size))

    def _handle(self, handler: AskHandler, data: bytes, call: _Handled) -> None:
        """Run the handler, unless the node has stopped. A task is made for a coroutine alone."""
        if self._stopped_by is not None:
            return
        try:
            answer = handler(data)
            if not inspect.isawaitable(answer):
                self._answered(call, _data_reply(call.number, answer))
                return
            if isinstance(answer, asyncio.Future) and answer.get_loop() is self._loop:
                future = answer
            else:
                future = self._loop.create_task(_result_of(answer))
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - see `_failed`
            self._answered(call, self._failed(call.number, error))
            return
        call.future = future
        self._handled[call] = None
        future.add_done_callback(partial(self._on_done, call))

    def _on_done(self, call: _Handled, future: asyncio.Future[bytes]) -> None:
        """The handler has ended."""
        del self._handled[call]
        if self._stopped_by is not None:
            if not future.cancelled():
                future.exception()  # the node has stopped, and so has the caller
            return
        try:
            reply = _data_reply(call.number, future.result())
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - see `_failed`
            reply = self._failed(call.number, error)
        self._answered(call, reply)

    def _failed(self, number: int, error: BaseException) -> AskReply:
        """The reply for what the handler has raised: a fault of the program's handler must not stop the node."""
        if isinstance(error, SynclineError):
            return _reply_of(number, error)
        if isinstance(error, asyncio.CancelledError):
            return AskReply(number, code=FAILED, message="the handler was cancelled", unknown=True)
        self._loop.call_exception_handler({"message": "the handler of `answer_asks` failed", "exception": error})
        text = f"the leader's handler failed: {named_error(error)}"
        return AskReply(number, code=FAILED, message=sendable(text), unknown=True)

    def _answered(self, call: _Handled, reply: AskReply) -> None:
        load = call.load
        load.remove(call.size_bytes)
        if not load.calls:
            self._loads.pop(call.sender, None)
        self._reply(call.sender, reply)

    def _reply(self, sender: NodeId, reply: AskReply) -> None:
        if sender == self._core.id:
            self.on_reply(sender, reply)
        elif self._send(sender, reply):
            self._schedule()


async def _result_of(answer: Awaitable[bytes]) -> bytes:
    return await answer


def _data_reply(number: int, answer: object) -> AskReply:
    """The reply with an answer of the handler. Raises if that is not bytes, or too large."""
    data = checked_bytes(answer, "the answer of the handler of calls to the leader")
    if len(data) > ASK_BYTES:
        raise TooLarge(f"an answer of {len(data)} bytes; the limit is {ASK_BYTES}", outcome=Outcome.UNKNOWN)
    return AskReply(number, data)


def _end_late(future: asyncio.Future[AskReply], leader: NodeId) -> None:
    settle_error(future, DeadlineExceeded("the leader did not answer before the deadline", leader=leader))


def _reply_of(number: int, error: SynclineError) -> AskReply:
    """An error of the handler, ready to be sent."""
    unknown = error.outcome is Outcome.UNKNOWN
    if isinstance(error, Rejected):
        reason = sendable(str(error.code))[:CODE_CHARACTERS]
        return AskReply(number, code=Rejected.code, message=sendable(str(error)), reason=reason, unknown=unknown)
    code = error.code if isinstance(error, OperationError) else FAILED
    if isinstance(error, DiskFull):
        code = DISK_FULL
    return AskReply(number, code=sendable(str(code))[:CODE_CHARACTERS], message=sendable(str(error)), unknown=unknown)


def _error_of(reply: AskReply, leader: NodeId) -> SynclineError:
    """The error that the leader has sent; with a code that has no class of its own it is `RequestFailed`."""
    outcome = Outcome.UNKNOWN if reply.unknown else Outcome.NOT_APPLIED
    if reply.code == Rejected.code:
        rejected = Rejected(reply.message, code=reply.reason or None)
        rejected.outcome = outcome
        return rejected
    if reply.code == DISK_FULL:
        return DiskFull(reply.message)
    kind = _ERRORS.get(reply.code)
    if kind is None:
        return RequestFailed(reply.message, code=reply.code, outcome=outcome, leader=leader)
    return kind(reply.message, outcome=outcome, leader=None if kind is NotLeader else leader)
