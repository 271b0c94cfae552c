"""A scope that ends when something is lost: `asyncio.timeout`, with a loss in place of a deadline."""

from __future__ import annotations

import asyncio

__all__ = ["LossScope"]


class LossScope:
    """Cancels the task that is inside it, once.

    It takes back its own cancellation and no other: a task that was cancelled for another reason, too, stays cancelled.
    """

    def __init__(self) -> None:
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._fired = False

    def enter(self) -> None:
        """The current task is inside from now on."""
        task = asyncio.current_task()
        assert task is not None
        self._task = task
        self._cancelling = task.cancelling()

    def fire(self) -> None:
        """Cancel the task inside. Must not be called by this task itself."""
        if self._task is not None and not self._fired:
            self._fired = True
            self._task.cancel()

    def leave(self, kind: type[BaseException] | None) -> bool:
        """The task goes out, with an exception of this kind. Whether it is the cancellation by `fire`, and no other.

        There is no `await` between the block and this call: a cancellation always reaches the task inside its block.
        """
        task, self._task = self._task, None
        if task is None or not self._fired:
            return False
        rest = task.uncancel()
        return rest <= self._cancelling and kind is not None and issubclass(kind, asyncio.CancelledError)
