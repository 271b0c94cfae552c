"""A budget for what is done in one turn of the event loop. What finds no room waits for a later turn, in its order."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

__all__ = ["TurnBudget"]


class TurnBudget:
    """The budget of the present turn, and what waits for a later one, in its order. Everything runs on the event loop.

    turns = TurnBudget(2_048)
    turns.spend(1)
    if turns.left <= 0:
        turns.wait(self._go_on)     # called in a later turn, which has room
    """

    __slots__ = ("_cost", "_scheduled", "_waiting", "enough", "left")

    def __init__(self, cost: int) -> None:
        """`cost`: what one turn may spend. It may be an eighth less, if turns before have spent that little."""
        self._cost = cost
        self.left: int = cost
        """What may still be spent in this turn: nothing, if it is not above 0. A hot path may take from it."""
        self.enough: int = cost - cost // 8
        """With as much left no refill is scheduled: one for each request would take a microsecond of it."""
        self._scheduled = False
        self._waiting: deque[tuple[Callable[[], None], int]] = deque()

    def spend(self, cost: int) -> None:
        """Something was done, or is about to be."""
        self.left -= cost
        if self.left < self.enough and not self._scheduled:
            self.refill()

    def wait(self, go_on: Callable[[], None], cost: int = 0) -> None:
        """Call `go_on` in a later turn. `cost` is taken from that turn's budget before the call."""
        self._waiting.append((go_on, cost))
        self.refill()

    async def read(self, cost: int) -> None:
        """Spend this cost, after all that waits if there is no room."""
        if self.left > 0:
            self.spend(cost)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def go_on() -> None:
            if not turn.done():  # else its caller was cancelled
                turn.set_result(None)

        self.wait(go_on, cost)
        await turn

    def refill(self) -> None:
        """Begin a later turn with a whole budget: for a hot path that took from `left`, and left less than `enough`."""
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """A turn begins: its budget is whole, and those that have waited come first."""
        self._scheduled = False
        self.left = self._cost
        waiting = self._waiting
        for _ in range(len(waiting)):
            if self.left <= 0:
                break
            go_on, cost = waiting.popleft()
            self.left -= cost
            go_on()
        if waiting or self.left < self._cost:
            self.refill()
