"""Dial a peer for the owner of an outgoing connection: one dial at a time, or a timer for the next one."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable

from syncline.transport.connection import Connection, ConnectionOwner
from syncline.transport.dialling import Dialler
from syncline.transport.messages import PeerAddress
from syncline.transport.tls import describe_failure

__all__ = ["DialAttempts"]


class DialAttempts:
    """The dials of one owner. `failed` is called with the reason when one has made no connection."""

    def __init__(self, dialler: Dialler, owner: ConnectionOwner, name: str, failed: Callable[[str], None]) -> None:
        self._dialler = dialler
        self._owner = owner
        self._name = name
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._number = 0
        """Of the present dial. A dial with another number was cancelled, though it may connect at that very moment."""
        self._made: Connection | None = None
        self._timer: asyncio.TimerHandle | None = None
        self.task: asyncio.Task[None] | None = None

    def start(self, address: PeerAddress) -> None:
        """Dial now."""
        self.cancel()
        self.task = self._loop.create_task(self._connect(address, self._number), name=self._name)

    def later(self, pause_s: float, start: Callable[[], None]) -> None:
        """Have `start` called after a pause, unless `start` or `cancel` comes first."""
        self._timer = self._loop.call_later(pause_s, start)

    def cancel(self) -> None:
        """Give up the dial, or the pause before it, whichever there is."""
        self._number += 1
        self._made = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.task is not None:
            self.task.cancel()
            self.task = None

    def has_made(self, connection: Connection) -> bool:
        """Whether a connection is that of the present dial."""
        return connection is self._made

    async def _connect(self, address: PeerAddress, number: int) -> None:
        def made(connection: Connection) -> None:
            if number == self._number:
                self._made = connection

        try:
            await self._dialler.connect(self._owner, address, made)
        except OSError as error:
            if number == self._number:
                told = describe_failure(error) if isinstance(error, ssl.SSLError) else error.strerror or error
                self._failed(f"can't connect to {address}: {told}")
        # From here on the connection drives its owner: it called `on_made`, and may even be lost already.
