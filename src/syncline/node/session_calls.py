"""Commands of sessions under way: as those of `futures`, and they tell whether the command was applied before."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias, TypeVar

from syncline.errors import SynclineError
from syncline.node.futures import ApplyCall, ApplyFuture, Repeated

__all__ = ["SessionCall", "SessionFuture", "ThenOnce"]

R = TypeVar("R")
"""What the state machine answers."""

ThenOnce: TypeAlias = Callable[[object, SynclineError | None, bool], None]
"""Called once, with the answer or the error, and whether it is the recorded one of an earlier attempt."""


class SessionFuture(ApplyFuture[R]):
    """An `ApplyFuture`. `repeated`: the command was applied before, and this is the recorded answer."""

    repeated: bool = False

    def answered(self, answer: object) -> None:
        """Resolve with the answer, or fail with the refusal."""
        if isinstance(answer, Repeated):
            self.repeated, answer = True, answer.answer
        if isinstance(answer, SynclineError):
            self.failed(answer)
        else:
            super().answered(answer)


class SessionCall(ApplyCall):
    """An `ApplyCall` with a callback that also gets whether the command was applied before."""

    repeated: bool = False

    def __init__(self, then: ThenOnce) -> None:
        super().__init__(lambda answer, error: then(answer, error, self.repeated))

    def answered(self, answer: object) -> None:
        if isinstance(answer, Repeated):
            self.repeated, answer = True, answer.answer
        if isinstance(answer, SynclineError):
            self.failed(answer)
        else:
            super().answered(answer)
