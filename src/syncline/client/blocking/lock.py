"""Locks and semaphores for blocking code."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from syncline.client.blocking.portal import HeldObject, Portal
from syncline.client.coordination.lock import Lock
from syncline.errors import SynclineError

__all__ = ["BlockingLock"]


class BlockingLock(HeldObject[Lock]):
    """A lock, for one use. `Client.lock` makes it.

        with kv.lock("printer", ttl=10) as held:
            held.check()  # raises LockLost
            printer.write(page, fence=held.token)

    It is renewed by the client's own thread, so the block may compute for as long as it likes. No thread can be
    interrupted: the block looks at `lost`, or calls `check`, before each step that relies on the lock. If the lock was
    lost, the block ends with `LockLost`, unless it has raised something itself.

    Otherwise it is `Lock`: `holders` above 1 makes it a semaphore, it is fair, and it is not re-entrant.
    """

    def __init__(self, portal: Portal, lock: Lock) -> None:
        super().__init__(portal, lock, "the lock")
        self.lost: threading.Event = threading.Event()
        """Set when the lock is lost while it is held: another client may hold it."""

    @property
    def token(self) -> int:
        """The fencing token, larger than that of each holder before. Raises `UsageError` if it was not acquired."""
        return self._here().token

    @property
    def key(self) -> bytes:
        """The key that stands for this holder; empty before it was asked for."""
        return self._here().key

    @property
    def rest_s(self) -> float:
        """How many seconds it surely is held without another keep-alive; 0 if it is not held."""
        return self._call(_rest_s)

    def check(self) -> None:
        """Make sure that the lock is held: call it before each step that relies on it.

        Raises:
            LockLost: it may be lost.
            UsageError: it was not acquired, or is released.
        """
        self._call(_check)

    def acquire(self) -> Self:
        """Wait for the lock. If this is interrupted, or fails, its key is deleted.

            lock = kv.lock("printer").acquire()

        It raises what `Lock.acquire` raises.
        """
        try:
            self._call(lambda lock: _acquire(lock, self.lost))
        except SynclineError:
            raise
        except BaseException:  # a signal: it may be held by now
            self._call(_give_back)
            raise
        return self

    def release(self) -> None:
        """Give the lock back. A second time nothing happens.

            lock.release()

        It waits for some seconds at most, and raises what `Lock.release` raises.
        """
        self._call(lambda lock: lock.release())

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._call(_give_back if error is not None else _release)
        except SynclineError:
            if error is None:
                raise  # else the client was closed: the block's own error is the one to raise
        except BaseException:  # a signal, perhaps before the release has begun: the lock would go on to be renewed
            self._call(_give_back)
            raise


async def _acquire(lock: Lock, lost: threading.Event) -> None:
    await lock.acquire()
    lock._on_loss(lost.set)


async def _release(lock: Lock) -> None:
    await lock._release(quiet=False)


async def _give_back(lock: Lock) -> None:
    await lock._release(quiet=True)


async def _rest_s(lock: Lock) -> float:
    return lock.rest_s


async def _check(lock: Lock) -> None:
    lock.check()
