"""Whether a node runs, and where: what has stopped it, and the tasks that wait for a change of its state."""

from __future__ import annotations

import asyncio
from asyncio.events import _get_running_loop as running_loop
from collections.abc import Callable
from threading import get_ident
from typing import Final

from syncline.errors import SynclineError, UsageError
from syncline.platform.forks import call_in_child

__all__ = ["EARLY_S", "Running"]

EARLY_S: Final = 0.001
"""How much too early a timer may fire: loops round to a millisecond or to the clock's resolution. A loop that waits
for a deadline would spin in that time."""

NO_THREAD: Final = -1


class Running:
    """The life of one node on its event loop: it runs until `end` is called, once."""

    def __init__(self) -> None:
        self.loop: asyncio.AbstractEventLoop = asyncio.get_running_loop()
        self.thread: int = get_ident()
        """The thread of the loop; no thread's number in a forked child."""
        self.in_child: bool = False
        """Whether this process is a forked child of the node's."""
        call_in_child(self)
        self.stopped: bool = False
        self.stopped_by: SynclineError | None = None
        """What stopped the node, for operations that begin afterwards: nothing of them has happened."""
        self._stopped_midway: SynclineError | None = None
        self._watchers: dict[asyncio.Future[None], None] = {}
        self._observers: list[Callable[[], None]] = []

    def forked(self) -> None:
        """In a forked child: the node is the parent's."""
        self.in_child, self.thread = True, NO_THREAD

    def check(self, *, begun: bool = False) -> None:
        """Raise what stopped the node (`begun`: with an `unknown` outcome), or as `check_place` does."""
        self.check_place()
        error = self._stopped_midway if begun else self.stopped_by
        if error is not None:
            raise error

    def check_place(self) -> None:
        """Raise `UsageError` on another thread or event loop than the node's, or in a forked child."""
        thread = get_ident()
        if self.thread == thread and self.loop.is_running():
            return  # the other loops of this thread do not run then
        if self.in_child:
            raise UsageError(
                "this node belongs to the process that opened it, and this is a forked child: open a node in one"
                " process, and call it from others as a client (`syncline.client`)"
            )
        if self.thread != thread:
            raise UsageError(
                "this node belongs to the event loop of another thread: use loop.call_soon_threadsafe or"
                " asyncio.run_coroutine_threadsafe to call it there"
            )
        if running_loop() is not None:
            raise UsageError(
                "this node belongs to another event loop of this thread, the one on which it was opened: use it within"
                " the same asyncio.run"
            )
        if self.loop.is_closed():
            raise UsageError(
                "the event loop of this node is closed, and the node was not closed before: open it again from its data"
                " directory, within the asyncio.run that uses it"
            )

    def end(self, sent: SynclineError, unsent: SynclineError) -> None:
        """The node stops: `sent` is the error of operations under way, `unsent` that of later ones."""
        self.stopped_by, self._stopped_midway, self.stopped = unsent, sent, True

    # -- waiting ------------------------------------------------------------------------------------------------------

    def changed(self) -> asyncio.Future[None]:
        """Done at the next change of leader, role, addresses, membership or applied index of a change, and when a peer
        is lost; for waiting in a loop.
        """
        future: asyncio.Future[None] = self.loop.create_future()
        self._watchers[future] = None
        future.add_done_callback(lambda done: self._watchers.pop(done, None))
        return future

    def observe(self, observer: Callable[[], None]) -> None:
        """Call `observer` at each change for which `changed` waits, as long as the node lives. It must not raise."""
        self._observers.append(observer)

    def wake(self) -> None:
        """Something has changed for which tasks may wait."""
        for future in [waiting for waiting in self._watchers if not waiting.done()]:
            future.set_result(None)
        for observer in self._observers:
            observer()

    async def wait(self, until_s: float) -> None:
        """Wait for a change of the node's state, at most this time. Callers check the clock themselves."""
        future = self.changed()
        handle = self.loop.call_at(until_s + EARLY_S, _wake, future)
        try:
            await future
        finally:
            handle.cancel()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
