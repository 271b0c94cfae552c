"""Elections: one of many candidates leads, for one term after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import Self

import msgspec

from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.coordination.place import Place
from syncline.client.coordination.place_queue import places_in, read_places
from syncline.client.coordination.waiting import PAUSE_S, passes
from syncline.errors import LockLost, OperationError
from syncline.platform.loss import LossScope

__all__ = ["ElectedLeader", "Term", "leader_of", "terms_of"]


class ElectedLeader(msgspec.Struct, frozen=True):
    """A leader: the `value` that the candidate gave, the `token` of its term, and its `key`."""

    value: bytes
    token: int
    key: bytes


class Term:
    """One term of leadership. `AsyncClient.elect` gives it.

        async for term in kv.elect("master", value=b"10.0.0.1"):
            async with term:  # cancelled when the term is lost; then it ends quietly
                await lead(fence=term.token)

    The term lasts until the loop goes on, or ends; or until it is lost.
    """

    _place: Place

    def __init__(self) -> None:
        self._scope: LossScope | None = None
        self.lost: asyncio.Event = asyncio.Event()
        """Set when the term is lost: another candidate may lead."""

    @classmethod
    def _of(cls, place: Place) -> Self:
        """The term of a place that has the turn."""
        term = cls()
        term._place = place
        term._on_loss(term.lost.set)
        term._on_loss(term._fire)
        return term

    @property
    def token(self) -> int:
        """The fencing token: it is larger than that of each term before."""
        return self._place.revision

    @property
    def key(self) -> bytes:
        """The key that stands for this candidate."""
        return self._place.key

    @property
    def rest_s(self) -> float:
        """How many seconds the term surely lasts without another keep-alive; 0 if it is lost."""
        return self._place.rest_s

    def check(self) -> None:
        """Make sure that this candidate leads: call it before each step that relies on it.

            term.check()

        Raises:
            LockLost: the term may be lost. In the block of a term this ends the block quietly.
        """
        self._place.check()

    async def __aenter__(self) -> Self:
        self._scope = scope = LossScope()
        scope.enter()
        if self.lost.is_set():  # before the block: cancel it at its first `await`
            asyncio.get_running_loop().call_soon(scope.fire)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        scope, self._scope = self._scope, None
        assert scope is not None
        return scope.leave(kind) or self._is_own_loss(error)

    def _is_own_loss(self, error: BaseException | None) -> bool:
        return isinstance(error, LockLost) and error.key == self.key

    def _on_loss(self, callback: Callable[[], None]) -> None:
        """Call it when the term is lost."""
        self._place.tell(callback)

    def _fire(self) -> None:
        if self._scope is not None:
            self._scope.fire()


async def terms_of(
    kv: KeyValueCalls, prefix: bytes, ttl_s: float, value: bytes, what: str
) -> AsyncGenerator[Term, None]:
    """Campaign, lead, campaign again. The first campaign needs a server; later ones wait for one."""
    begun = False
    while True:
        place = Place(kv, prefix, ttl_s, value=value, what=what)
        try:
            try:
                await place.take()
                begun = True
                await place.turn(1)
            except LockLost:
                await asyncio.sleep(PAUSE_S)
                continue
            except OperationError as error:
                if not begun or not passes(error):
                    raise
                await asyncio.sleep(PAUSE_S)
                continue
            term = Term._of(place)
            place.watch_over()
            yield term
        finally:
            await place.leave()


async def leader_of(kv: KeyValueCalls, prefix: bytes) -> ElectedLeader | None:
    """The present leader, by a linearizable read; None if there is no candidate."""
    _, items = await read_places(kv, prefix, values=True)
    for first in places_in(items, prefix):
        return ElectedLeader(value=first.value or b"", token=first.create_revision, key=first.key)
    return None
