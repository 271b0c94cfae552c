"""Change a value by a function of it: read, compute, and write if no other client has written meanwhile."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from syncline.client.arguments import to_bytes, to_key
from syncline.client.calls import Key
from syncline.client.results import KeyValue
from syncline.client.single_keys import SingleKeyCalls
from syncline.errors import DeadlineExceeded, Outcome, Rejected

__all__ = ["NewValue", "UpdateCalls"]

NewValue: TypeAlias = bytes | str | None
"""What a key is to have; None: it is to be deleted."""


class UpdateCalls(SingleKeyCalls):
    """Changes that depend on the present value."""

    async def update(
        self,
        key: Key,
        change: Callable[[bytes | None], NewValue | Awaitable[NewValue]],
        *,
        timeout: float | None = None,
    ) -> KeyValue | None:
        """Set a key to what `change` makes of its value. Returns the key as it is then; None if it does not exist.

            def longer(value: bytes | None) -> bytes:
                return (value or b"") + b"!"

            changed = await kv.update("greeting", longer)
            print(changed.value if changed is not None else "deleted")

        `change` gets the value, or None if there is no such key. It returns the new value, or None to delete the key.
        It is a function or a coroutine function. **It may run several times**, once for each time that another client
        was faster: it should have no effect of its own. If it returns the value that it got, nothing is written. What
        it raises ends the call, and nothing is written.

        `timeout` bounds the whole call. The pauses between the attempts grow, with jitter.

        Raises:
            DeadlineExceeded: other clients were faster each time (`not_applied`), or no answer came in time.
            Unreachable: no server answered (see its `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument, or what `change` returned, can't be used; nothing was written.
        """
        name = to_key(key)
        if not callable(change):
            raise TypeError(f"change must be a function of the value, not {type(change).__name__}")
        loop = asyncio.get_running_loop()
        limit_s = self._limit_s(timeout)
        deadline_s = loop.time() + limit_s
        attempts = 0
        left_s = limit_s
        while True:
            found = await self.get(name, timeout=left_s)
            value = None if found is None else found.value
            made = change(value)
            wanted = await made if inspect.isawaitable(made) else made
            new = None if wanted is None else to_bytes(wanted, "the new value")
            if new == value:
                return found
            left_s = max(0.001, deadline_s - loop.time())
            try:
                return await self._replace(name, found, new, left_s)
            except Rejected as error:
                if error.code != "precondition_failed":
                    raise
                attempts += 1
                pause_s = self._conflict_pause_s(attempts)
                left_s = deadline_s - loop.time() - pause_s
                if left_s <= 0:
                    raise DeadlineExceeded(
                        f"another client changed the key before each of {attempts} attempts within {limit_s:.3g} s;"
                        " give it a longer timeout",
                        outcome=Outcome.NOT_APPLIED,
                    ) from error
            await asyncio.sleep(pause_s)

    async def _replace(
        self, key: bytes, found: KeyValue | None, new: bytes | None, timeout_s: float
    ) -> KeyValue | None:
        """Write the new value if the key is as it was found."""
        revision = 0 if found is None else found.mod_revision
        if new is None:
            await self.delete(key, if_revision=revision, timeout=timeout_s)
            return None
        written = await self.put(key, new, if_revision=revision, timeout=timeout_s)
        return KeyValue(key, new, written.revision, written.revision)
