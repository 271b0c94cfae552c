"""A number that many clients add to."""

from __future__ import annotations

from syncline.client.arguments import checked_number
from syncline.client.calls import Key
from syncline.client.coordination.calls import KeyValueCalls
from syncline.client.coordination.names import word_key
from syncline.errors import Rejected

__all__ = ["SharedCounter"]


class SharedCounter:
    """A whole number of 64 bits in the cluster. `kv.counter` makes it.

        visits = kv.counter("visits")
        print(await visits.add())

    Its key is `counters/NAME`; the value is decimal text. Additions are made on the servers, so none is lost.
    """

    def __init__(self, kv: KeyValueCalls, name: Key) -> None:
        self._kv = kv
        self.key: bytes = word_key(b"counters", name, "a counter", room=0)

    async def add(self, by: int = 1, *, timeout: float | None = None) -> int:
        """Add `by`, which may be negative; return the sum. An absent counter is 0.

            print(await visits.add(5))

        Raises:
            Rejected: the sum needs more than 64 bits, or the key's value is no number: code `not_a_number`.
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        return await self._kv.increment(self.key, checked_number(by, "by"), timeout=timeout)

    async def value(self, *, timeout: float | None = None) -> int:
        """Read it, linearizably. An absent counter is 0.

            print(await visits.value())

        Raises:
            Rejected: the key's value is no number: code `not_a_number`.
            DeadlineExceeded, Unreachable: no answer came in time, or no server.
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        found = await self._kv.get(self.key, timeout=timeout)
        if found is None:
            return 0
        try:
            return int(found.value)
        except ValueError as error:
            text = f"the value of {self.key!r} is no number: {found.value[:40]!r}"
            raise Rejected(text, code="not_a_number") from error

    async def reset(self, to: int = 0, *, timeout: float | None = None) -> None:
        """Set it to a number. Additions of other clients before it are lost, later ones count from it.

            await visits.reset()

        Raises:
            DeadlineExceeded, Unreachable: no answer came in time, or no server (see their `outcome`).
            OperationError: the cluster refused it, or could not do it.
            ConfigError, TypeError: an argument can't be used; nothing was sent.
        """
        await self._kv.put(self.key, str(checked_number(to, "to")), timeout=timeout)
