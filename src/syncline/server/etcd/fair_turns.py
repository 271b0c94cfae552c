"""Turns at something that few may do at a time: clients of different addresses take turns, whatever each asks for."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["FairTurns"]


class FairTurns:
    """A semaphore whose waiting groups take turns. Within a group the first one comes first.

    await turns.acquire("10.0.0.1")
    try: ...
    finally: turns.release()
    """

    def __init__(self, count: int) -> None:
        self._free = count
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}
        """By group, in the order in which they come next; none is empty."""

    async def acquire(self, group: str) -> None:
        """Wait for a turn. Cancel it to wait no more."""
        if self._free:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(group, deque()).append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.release()  # it was given to a caller that has left
            else:
                self._forget(group, turn)
            raise

    def release(self) -> None:
        """End a turn: the next group has one, and is the last one after it."""
        if not self._waiting:
            self._free += 1
            return
        group = next(iter(self._waiting))
        turns = self._waiting.pop(group)
        turns.popleft().set_result(None)
        if turns:
            self._waiting[group] = turns

    def _forget(self, group: str, turn: asyncio.Future[None]) -> None:
        turns = self._waiting[group]
        turns.remove(turn)
        if not turns:
            del self._waiting[group]
