"""Barriers for blocking code."""

from __future__ import annotations

from syncline.client.blocking.portal import HeldObject, Portal
from syncline.client.coordination.barrier import Barrier

__all__ = ["BlockingBarrier"]


class BlockingBarrier(HeldObject[Barrier]):
    """Lets its parties through when so many wait. `Client.barrier` makes it.

        barrier = kv.barrier("start", parties=3)
        barrier.wait(timeout=60)

    It can be used again, as `Barrier`. A forked child makes its own.
    """

    def __init__(self, portal: Portal, barrier: Barrier) -> None:
        super().__init__(portal, barrier, "the barrier")

    def wait(self, *, timeout: float | None = None) -> None:
        """Wait until so many parties wait. `timeout`: seconds; None: without a limit; 0: only if this is the last one.

            kv.barrier("start", parties=3).wait(timeout=60)

        It raises what `Barrier.wait` raises.
        """
        self._call(lambda barrier: barrier.wait(timeout=timeout))
