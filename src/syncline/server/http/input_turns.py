"""What all connections of a server may have read in one turn of the event loop.

Each connection reads a bounded part of its input and goes on in a later turn. That alone bounds no turn: many
connections could each have their part in the same one. So what they read has a cost, and a turn has a budget. When it
is spent, the others wait in their order.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

__all__ = ["InputTurns", "input_cost", "message_cost"]

TURN_COST: Final = 2_048
"""Of all connections in one turn. 1 stands for about 10 us, such as a frame of HTTP/2: so a turn has 20 ms, and what
the last message took. Elections are timed in hundreds of milliseconds."""

BYTES_A_COST: Final = 8
"""Bytes of a message that cost 1: decoding takes a microsecond for each in the worst case, a field of two bytes."""
LARGEST_COST: Final = TURN_COST
"""Of one message. A longer one has long values: the number of fields is limited."""


def message_cost(size_bytes: int) -> int:
    """The cost of decoding a message of this size."""
    return min(size_bytes // BYTES_A_COST, LARGEST_COST)


REQUEST_COST: Final = 6
"""Of one request of HTTP/1.1 with its answer."""
HEAD_BYTES_A_COST: Final = 64
"""Bytes of headers that cost 1: a field takes half a microsecond."""
BODY_BYTES_A_COST: Final = 1024
"""Bytes of bodies that cost 1: they are copied."""


def input_cost(size_bytes: int, requests: int, *, is_body: bool) -> int:
    """The cost of input of HTTP/1.1 with so many new requests. `is_body`: it began within a body."""
    return requests * REQUEST_COST + size_bytes // (BODY_BYTES_A_COST if is_body else HEAD_BYTES_A_COST)


class InputTurns:
    """The budget of the present turn, and what waits for a later one, in its order. Everything runs on the event loop.

    turns.spend(1)
    if turns.left <= 0:
        turns.wait(self._go_on)     # called in a later turn, which has room
    """

    __slots__ = ("_left", "_scheduled", "_waiting")

    def __init__(self) -> None:
        self._left = TURN_COST
        self._scheduled = False
        self._waiting: deque[tuple[Callable[[], None], int]] = deque()

    @property
    def left(self) -> int:
        """What may still be spent in this turn: nothing, if it is not above 0."""
        return self._left

    def spend(self, cost: int) -> None:
        """Something was read, or is about to be."""
        self._left -= cost
        self._schedule()

    def wait(self, go_on: Callable[[], None], cost: int = 0) -> None:
        """Call `go_on` in a later turn. `cost` is taken from that turn's budget before the call."""
        self._waiting.append((go_on, cost))
        self._schedule()

    async def read(self, cost: int) -> None:
        """Spend this cost, after all that waits if there is no room."""
        if self._left > 0:
            self.spend(cost)
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def go_on() -> None:
            if not turn.done():  # else its caller was cancelled
                turn.set_result(None)

        self.wait(go_on, cost)
        await turn

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        """A turn begins: its budget is whole, and those that have waited come first."""
        self._scheduled = False
        self._left = TURN_COST
        waiting = self._waiting
        for _ in range(len(waiting)):
            if self._left <= 0:
                break
            go_on, cost = waiting.popleft()
            self._left -= cost
            go_on()
        if waiting or self._left < TURN_COST:
            self._schedule()
