"""Keep-alives that wait for a quorum: one confirmation of the leader is for all that came in before it began."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

from syncline.errors import SynclineError
from syncline.kv.lease_calls import LeaseTime, encode_times
from syncline.node.futures import settle_error

__all__ = ["AskedCall", "LeaseRounds", "WaitingCall"]


class WaitingCall(Protocol):
    """Keep-alives that wait for a confirmation, and for more if something is decided about their leases."""

    leases: tuple[int, ...]
    deadline_s: float
    """When the call ends, by the loop's clock."""

    def done(self) -> bool:
        """Whether its caller waits no more."""
        ...

    def answered(self, times: list[LeaseTime]) -> None:
        """Give the times of the leases, unless it is done."""
        ...

    def failed(self, error: SynclineError) -> None:
        """End it without an answer, unless it is done."""
        ...

    def cancel(self) -> None:
        """End it because the node closes, unless it is done."""
        ...


class AskedCall:
    """A call that came as a message: its answer is bytes."""

    __slots__ = ("deadline_s", "future", "leases")

    def __init__(self, leases: tuple[int, ...], deadline_s: float, future: asyncio.Future[bytes]) -> None:
        self.leases: tuple[int, ...] = leases
        self.deadline_s: float = deadline_s
        self.future: asyncio.Future[bytes] = future

    def done(self) -> bool:
        return self.future.done()

    def answered(self, times: list[LeaseTime]) -> None:
        if not self.future.done():
            self.future.set_result(encode_times(times))

    def failed(self, error: SynclineError) -> None:
        settle_error(self.future, error)

    def cancel(self) -> None:
        self.future.cancel()


class LeaseRounds:
    """The confirmations of one term.

    `confirm` has a quorum confirm the leader of this term since the moment of the call, or raises a `SynclineError`:
    that ends the calls. `confirmed` gets each call that may be answered.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        spawn: Callable[[Coroutine[Any, Any, None]], None],
        confirm: Callable[[], Awaitable[None]],
        confirmed: Callable[[WaitingCall], None],
    ) -> None:
        self._loop = loop
        self._spawn = spawn
        self._confirm = confirm
        self.join: Callable[[], None] | None = None
        """Called before a confirmation begins: what this node has gathered may be added, and shares it."""
        self._confirmed = confirmed
        self._gathered: list[WaitingCall] = []
        """They wait for the next confirmation to begin."""
        self._asked: dict[int, Sequence[WaitingCall]] = {}
        """By its number, a confirmation that is under way: the calls that came in before it began."""
        self._number = 0
        self._next: asyncio.Handle | None = None
        """Begins the next one."""

    def add(self, call: WaitingCall) -> None:
        """Have the next confirmation speak for this call, too."""
        self._gathered.append(call)
        if self._next is None:  # in the next turn: what comes in together shares a confirmation
            self._next = self._loop.call_soon(self._begin)

    def end(self, error: SynclineError) -> None:
        """End all calls: the term is over."""
        if self._next is not None:
            self._next.cancel()
            self._next = None
        for calls in (self._gathered, *self._asked.values()):
            for call in calls:
                call.failed(error)
        self._gathered = []
        self._asked.clear()

    def _begin(self) -> None:
        if self.join is not None:
            self.join()
        self._next = None
        self._number += 1
        # What comes in from now on waits for the next one: this one does not speak for it.
        self._asked[self._number], self._gathered = self._gathered, []
        self._spawn(self._run(self._number))

    async def _run(self, number: int) -> None:
        try:
            await self._confirm()
        except SynclineError as error:
            for call in self._asked.pop(number, ()):
                call.failed(error)
            return
        except BaseException:
            for call in self._asked.pop(number, ()):
                call.cancel()
            raise
        for call in self._asked.pop(number, ()):  # none if the term is over
            if not call.done():
                self._confirmed(call)
