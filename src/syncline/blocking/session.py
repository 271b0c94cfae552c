"""Sessions without async: commands that take effect exactly once."""

from __future__ import annotations

from types import TracebackType
from typing import Generic, Self, TypeVar

from syncline.client.blocking.portal import HeldObject, Portal
from syncline.errors import SynclineError
from syncline.node.session import Session

__all__ = ["BlockingSession"]

R = TypeVar("R")
"""What the state machine answers to a command."""


class BlockingSession(HeldObject[Session[R]], Generic[R]):
    """A session of one caller, as `syncline.Session`. Made by `Raft.session`.

        with raft.session() as session:
            answer = session.apply(b"a command")

    Any number of threads may use it.
    """

    def __init__(self, portal: Portal, session: Session[R]) -> None:
        super().__init__(portal, session, "the session")

    @property
    def id(self) -> int:
        """The id of the session."""
        return self._here().id

    def apply(self, data: bytes, *, timeout: float = 5.0, extensions: bytes = b"", frees_space: bool = False) -> R:
        """Replicate a command, and have it applied exactly once. Returns the state machine's answer.

            answer = session.apply(b"a command")

        Its arguments and errors are those of `syncline.Session.apply`.
        """
        return self._call(
            lambda session: session.apply(data, timeout=timeout, extensions=extensions, frees_space=frees_space)
        )

    def close(self, *, timeout: float = 5.0) -> None:
        """End the session: its recorded answers are dropped on all nodes. Idempotent.

            session.close()

        Its arguments and errors are those of `syncline.Session.close`.
        """
        self._call(lambda session: session.close(timeout=timeout))

    def __enter__(self) -> Self:
        self._here()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except SynclineError:
            if error is None:
                raise  # else the node was closed: the block's own error is the one to raise
