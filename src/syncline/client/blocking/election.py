"""Terms of leadership for blocking code."""

from __future__ import annotations

import threading
from collections.abc import AsyncGenerator
from contextlib import aclosing
from types import TracebackType
from typing import Self

from syncline.client.blocking.portal import HeldObject, Portal
from syncline.client.coordination.election import Term

__all__ = ["BlockingTerm", "blocking_terms"]


class BlockingTerm(HeldObject[Term]):
    """One term of leadership. `Client.elect` gives it.

        for term in kv.elect("master", value=b"10.0.0.1"):
            with term:  # ends quietly if the term is lost
                while not term.lost.wait(1):
                    lead(fence=term.token)

    The term lasts until the loop goes on, or ends; or until it is lost.
    """

    def __init__(self, portal: Portal, term: Term) -> None:
        super().__init__(portal, term, "the term")
        self.lost: threading.Event = threading.Event()
        """Set when the term is lost: another candidate may lead."""
        term._on_loss(self.lost.set)

    @property
    def token(self) -> int:
        """The fencing token: it is larger than that of each term before."""
        return self._here().token

    @property
    def key(self) -> bytes:
        """The key that stands for this candidate."""
        return self._here().key

    @property
    def rest_s(self) -> float:
        """How many seconds the term surely lasts without another keep-alive; 0 if it is lost."""
        return self._call(_rest_s)

    def check(self) -> None:
        """Make sure that this candidate leads: call it before each step that relies on it.

            term.check()

        Raises:
            LockLost: the term may be lost. In the block of a term this ends the block quietly.
        """
        self._call(_check)

    def __enter__(self) -> Self:
        self._here()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        return self._here()._is_own_loss(error)


async def blocking_terms(portal: Portal, terms: AsyncGenerator[Term, None]) -> AsyncGenerator[BlockingTerm, None]:
    """The same terms, for blocking code."""
    async with aclosing(terms):
        async for term in terms:
            yield BlockingTerm(portal, term)


async def _rest_s(term: Term) -> float:
    return term.rest_s


async def _check(term: Term) -> None:
    term.check()
