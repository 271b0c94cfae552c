"""Blocking changes that depend on the present value."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable

from syncline.client.blocking.portal import PortalObject
from syncline.client.calls import Key
from syncline.client.client import AsyncClient
from syncline.client.results import KeyValue
from syncline.client.updates import NewValue

__all__ = ["BlockingUpdateCalls"]


class BlockingUpdateCalls(PortalObject[AsyncClient]):
    """Changes that depend on the present value."""

    def update(
        self, key: Key, change: Callable[[bytes | None], NewValue], *, timeout: float | None = None
    ) -> KeyValue | None:
        """Set a key to what `change` makes of its value. Returns the key as it is then; None if it does not exist.

            def longer(value: bytes | None) -> bytes:
                return (value or b"") + b"!"

            changed = kv.update("greeting", longer)
            print(changed.value if changed is not None else "deleted")

        `change` runs in the thread of the caller, and may block. The deadline does not stop it.

        Its arguments and errors are those of `AsyncClient.update`.
        """
        update = self._plain(lambda kv: _Update(kv, key, timeout))
        try:
            while not self._call(lambda _: update.asks()):
                new = change(update.value)
                _refuse_coroutine(new)
                update.answers(new)
        except BaseException:
            self._call(lambda _: update.stop())
            raise
        return self._call(lambda _: update.result())


class _Update:
    """An `AsyncClient.update` that asks for each new value, and waits for it. On the loop."""

    def __init__(self, kv: AsyncClient, key: Key, timeout_s: float | None) -> None:
        self.value: bytes | None = None
        """What the key has."""
        self._new: NewValue = None
        self._has_new = False
        self._asked = asyncio.Event()
        self._answered = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(kv.update(key, self._ask, timeout=timeout_s))
        self._task.add_done_callback(lambda _: self._asked.set())

    def answers(self, new: NewValue) -> None:
        """Say what the key is to have. The caller's thread calls it after `asks`, and before the next one."""
        self._new, self._has_new = new, True

    async def asks(self) -> bool:
        """Take the last answer, and wait for the next question. True: the update has ended."""
        # The first question may have come before the first call: there is no answer yet.
        if self._has_new:
            self._has_new = False
            self._answered.set()
        await self._asked.wait()
        self._asked.clear()
        return self._task.done()

    async def result(self) -> KeyValue | None:
        return self._task.result()

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()  # the caller has an error of its own

    async def _ask(self, value: bytes | None) -> NewValue:
        self.value = value
        self._answered.clear()
        self._asked.set()
        await self._answered.wait()
        return self._new


def _refuse_coroutine(new: object) -> None:
    if inspect.iscoroutine(new):
        new.close()  # else Python warns that it was never awaited
        raise TypeError("change is a coroutine function: use a plain one here, or AsyncClient")
