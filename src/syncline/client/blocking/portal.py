"""The way from blocking code to asynchronous objects: one event loop on one thread for each portal and process."""

from __future__ import annotations

from asyncio import _get_running_loop as running_loop
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Final, Generic, Self, TypeVar

from syncline.client.blocking.iterator import PortalIterator
from syncline.client.blocking.process import PortalProcess
from syncline.client.blocking.scope import Scope
from syncline.errors import Closed, UsageError
from syncline.platform.forks import call_in_child
from syncline.platform.loop_thread import LoopEnded, LoopThread

__all__ = ["HeldObject", "Portal", "PortalObject", "PortalOwner"]

Result = TypeVar("Result")
Object = TypeVar("Object")

AHEAD: Final = 256
"""Items of an iteration that are taken before they are wanted: one change of threads for so many."""


async def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class PortalOwner:
    """What a portal belongs to, in the words of its errors."""

    what: str = "the client"
    in_a_loop: str = "AsyncClient"
    """What to use in its place in a thread with an event loop."""
    after_close: str = "make another one"
    after_fork: str = "begin another one here"
    """What to do in a forked child in place of using an object of the parent's."""


CLIENT: Final = PortalOwner()


class Portal:
    """Carries out calls of any number of threads on one event loop.

    The loop's thread begins with the first call. A forked child has a thread and a loop of its own from its first
    call on. A program that ends without `close` ends at once: the thread holds nothing up.
    """

    def __init__(
        self,
        name: str = "syncline client",
        *,
        last: Callable[[], Awaitable[object]] = _nothing,
        owner: PortalOwner = CLIENT,
    ) -> None:
        """`name`: of the thread. `last` is awaited when the portal is closed, on the loop, if there was a call."""
        self._name = name
        self._last = last
        self._owner = owner
        self._closed = False
        self._process = PortalProcess()
        call_in_child(self)

    @property
    def process(self) -> PortalProcess:
        """What belongs to this process. A forked child has another one."""
        return self._process

    @property
    def owner(self) -> PortalOwner:
        """What it belongs to."""
        return self._owner

    @property
    def closed(self) -> bool:
        """Whether `close` was called, in this process or in one that it was forked from."""
        return self._closed

    def call(self, make: Callable[[], Awaitable[Result]]) -> Result:
        """Call `make` on the loop's thread, await what it returns, and return its result or raise its error.

        KeyboardInterrupt cancels it.

        Raises:
            UsageError: the portal is closed, or an event loop runs in this thread.
            Closed: the portal was closed meanwhile.
        """
        if running_loop() is not None:
            raise self._use_in_a_loop()
        thread = self._process.thread or self._begin()
        try:
            return thread.call(make)
        except LoopEnded as ended:
            if ended.begun:
                raise Closed(f"{self._owner.what} was closed before the operation ended") from None
            raise self._use_after_close() from None

    def check_open(self) -> None:
        """Raise `UsageError` if the portal is closed."""
        if self._closed:
            raise self._use_after_close()

    def post(self, callback: Callable[[], object]) -> None:
        """Call it on the loop's thread, and don't wait. A signal's handler may do so."""
        thread = self._process.thread
        if thread is not None:
            thread.post(callback)

    def iterate(self, make: Callable[[], AsyncIterator[Result]], *, ahead: int = AHEAD) -> PortalIterator[Result]:
        """What the asynchronous iterator gives, as a plain iterator. It begins with the first item that is wanted.

        Up to `ahead` items are taken before they are wanted. With 1 the next one is begun when it is wanted, and not
        before. All runs in one task.
        """
        return PortalIterator(self.call, lambda: self._process, make, ahead)

    def scope(self, make: Callable[[], AbstractAsyncContextManager[Result]], what: str) -> Scope[Result]:
        """An asynchronous context manager for a `with` statement. Its begin and its end run in one task.

        `what` it is, for errors: "the lease", for instance.
        """
        return Scope(self.call, lambda: self._process, make, what)

    def close(self) -> None:
        """Do the last work, cancel what is under way, end the thread.

        The second call does nothing.

        Raises:
            UsageError: an event loop runs in this thread.
        """
        if running_loop() is not None:
            raise self._use_in_a_loop()
        process = self._process
        with process.lock:
            self._closed = True
            thread, process.thread = process.thread, None
        if thread is not None:
            thread.end(self._last)

    def forked(self) -> None:
        """Start over, in a forked child. No other thread runs in it yet, and no lock of the parent is touched."""
        self._process = PortalProcess(before=self._process)

    def __del__(self) -> None:
        """End the thread of a portal that nothing refers to. Nothing waits for it."""
        if self._process.thread is not None:
            self._process.thread.end_soon(self._last)

    def _begin(self) -> LoopThread:
        process = self._process
        with process.lock:
            if self._closed:
                raise self._use_after_close()
            if process.thread is None:
                process.thread = LoopThread(self._name)
            return process.thread

    def _use_after_close(self) -> UsageError:
        return UsageError(f"{self._owner.what} is closed: {self._owner.after_close}")

    def _use_in_a_loop(self) -> UsageError:
        return UsageError(
            f"a blocking call would stop the event loop that runs in this thread: use {self._owner.in_a_loop} here"
        )


class PortalObject(Generic[Object]):
    """Base of the blocking face of an asynchronous object that each process makes for itself, such as a client.

    The async object is made and used on the loop's thread only.
    """

    def __init__(self, portal: Portal, make: Callable[[], Object]) -> None:
        """`make` is called once in each process, on the loop's thread."""
        self._portal = portal
        self._make = make
        self._made: tuple[PortalProcess, Object] | None = None

    def _object(self) -> Object:
        """The async object of this process. On the loop's thread only."""
        made = self._made
        process = self._portal.process
        if made is None or made[0] is not process:
            self._made = made = (process, self._make())
        return made[1]

    def _call(self, use: Callable[[Object], Awaitable[Result]]) -> Result:
        return self._portal.call(lambda: use(self._object()))

    def _plain(self, use: Callable[[Object], Result]) -> Result:
        """Call a method that is not async, on the loop's thread."""

        async def used() -> Result:
            return use(self._object())

        return self._portal.call(used)

    def _iterate(self, use: Callable[[Object], AsyncIterator[Result]], *, ahead: int = AHEAD) -> PortalIterator[Result]:
        return self._portal.iterate(lambda: use(self._object()), ahead=ahead)

    def _scope(self, use: Callable[[Object], AbstractAsyncContextManager[Result]], what: str) -> Scope[Result]:
        return self._portal.scope(lambda: use(self._object()), what)

    def _like(self, make: Callable[[], Object]) -> Self:
        """An object like this one, on the same portal, for another async object."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._make, other._made = make, None
        return other


class HeldObject(Generic[Object]):
    """Base of the blocking face of an asynchronous object that one process holds, such as a lock.

    A forked child does not hold it: there each use is a `UsageError`.
    """

    def __init__(self, portal: Portal, held: Object, what: str) -> None:
        """`what` it is, for errors: "the lock", for instance."""
        self._portal = portal
        self._held = held
        self._what = what
        self._process = portal.process

    def _call(self, use: Callable[[Object], Awaitable[Result]]) -> Result:
        self._here()
        return self._portal.call(lambda: use(self._held))

    def _here(self) -> Object:
        """The async object, in the process that holds it. Its plain attributes may be read by any thread."""
        self._process.check(self._portal.process, self._what, self._portal.owner.after_fork)
        return self._held
