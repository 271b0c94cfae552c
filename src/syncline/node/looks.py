"""Reads on the state machine's thread: between two applies, never at the same time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from syncline.platform.user_calls import is_async

__all__ = ["LookWork", "check_look"]

Answer = TypeVar("Answer")

NOT_AWAITED: Final = "the look is `async def`, and nothing awaits it between two applies: give an ordinary function"


def check_look(look: Callable[[], object]) -> None:
    """Raise TypeError if `look` is no function, or an asynchronous one."""
    if not callable(look):
        raise TypeError(f"look must be a function without arguments, not {type(look).__name__}")
    if is_async(look):
        raise TypeError(NOT_AWAITED)


class LookWork(Generic[Answer]):
    """One call of a caller's function, for the applier. Its exception goes to the caller, and is no fault of the
    node.
    """

    __slots__ = ("_answer", "_error", "_future", "_look")

    def __init__(self, look: Callable[[], Answer], future: asyncio.Future[Answer]) -> None:
        self._look = look
        self._future = future
        self._answer: list[Answer] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Call the function, unless the caller has gone. On the state machine's thread."""
        if self._future.done():
            return
        try:
            answer = self._look()
            if inspect.iscoroutine(answer):  # a lambda that calls one
                answer.close()
                raise TypeError(NOT_AWAITED)
            self._answer.append(answer)
        except BaseException as error:  # noqa: BLE001 - given to the caller; the state machine is not in doubt
            self._error = error

    def deliver(self) -> None:
        """Give the result to the caller. On the event loop."""
        if self._future.done():
            return
        if isinstance(self._error, StopIteration):  # a future does not accept a StopIteration
            self._future.set_exception(RuntimeError("the look raised StopIteration"))
        elif self._error is not None:
            self._future.set_exception(self._error)
        else:
            [answer] = self._answer
            self._future.set_result(answer)
