"""Time limits of one connection: how long a client may take, and when a request is late.

A limit on the whole time of a body would refuse 1 MiB at 25 kB/s. So the limit is on each part of a transfer: what the
least rate moves in the limit's time. A client that moves a part in time has another such time for the next one.

`sweep` looks at intervals, about once a second. What is the same as at the last sweep has lasted since it was first
seen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from syncline.server.api.errors import problem
from syncline.server.http.limits import HttpLimits
from syncline.server.http.parser import BODY, HEADER, IDLE, START, RequestReader
from syncline.server.http.response import Response
from syncline.server.http.state import LINGERING, Link, SlotQueue, nothing

__all__ = ["TimeLimits"]


class TimeLimits:
    """Watches one connection. `refuse` gives the last answer to a client that is too slow."""

    __slots__ = ("_limits", "_link", "_progress", "_queue", "_reader", "_refuse", "_since_s", "_swept_bytes")

    def __init__(
        self,
        limits: HttpLimits,
        link: Link,
        queue: SlotQueue,
        reader: RequestReader,
        *,
        now_s: float,
        refuse: Callable[[Response], None],
    ) -> None:
        self._limits = limits
        self._link = link
        self._queue = queue
        self._reader = reader
        self._refuse = refuse
        self._since_s = now_s
        """When `_progress` was first seen."""
        self._progress: tuple[object, ...] = ()
        self._swept_bytes = 0
        """What was left in the send buffer at the last sweep."""

    def forget(self) -> None:
        """There is nothing to refuse any more: forget the connection, which refers to this."""
        self._refuse = nothing

    def rests(self, now_s: float) -> bool:
        """Whether nothing is under way, and was not at the last sweep: it may be closed to make room for another."""
        link, transport = self._link, self._link.transport
        if transport is None or transport.is_closing() or self._queue.slots or self._reader.phase > IDLE:
            return False
        return self._since_s < now_s and not link.write_paused

    def is_unfinished(self, now_s: float) -> bool:
        """Whether all that is under way is a request that has not come whole, and no part of it since the last sweep.

        It may be given up to make room for another connection.
        """
        reader = self._reader
        if reader.phase not in (HEADER, BODY) or self._queue.slots or self._link.transport is None:
            return False
        return self._since_s < now_s and self._progress == self._state(self._link.transport)

    def stalled_bytes(self) -> int:
        """What waits for a client that has read nothing since the last call; 0 if it reads, or nothing waits."""
        link = self._link
        before, self._swept_bytes = self._swept_bytes, 0
        if link.write_paused and link.transport is not None:
            self._swept_bytes = link.transport.get_write_buffer_size()
        return before if before == self._swept_bytes else 0

    def sweep(self, now_s: float) -> None:
        """Enforce the time limits as of `now_s`."""
        link, limits = self._link, self._limits
        transport = link.transport
        if transport is None:
            return
        progress = self._state(transport)
        stuck, lingering = progress[0], progress[3]
        if progress != self._progress:
            self._progress = progress
            self._since_s = now_s
            return
        waited_s = now_s - self._since_s
        if stuck:
            if waited_s > limits.write_timeout_s:
                transport.abort()
        elif lingering:
            if waited_s > limits.linger_timeout_s:
                transport.abort()
        elif not (link.read_paused or link.unparsed):  # while this side does not read or parse, the client is not late
            self._check_input(waited_s)

    def _state(self, transport: asyncio.Transport) -> tuple[object, ...]:
        """All that changes when the client or this side goes on."""
        reader, link, limits = self._reader, self._link, self._limits
        stuck = link.write_paused or transport.is_closing()
        moved = _parts_read(limits, reader.wire_bytes)
        if stuck:
            moved = _parts_left(limits, transport.get_write_buffer_size())
        busy = reader.phase == IDLE and bool(self._queue.slots)
        return (stuck, moved, busy, link.stage == LINGERING, link.read_paused, reader.phase, reader.messages)

    def _check_input(self, waited_s: float) -> None:
        limits, phase, transport = self._limits, self._reader.phase, self._link.transport
        assert transport is not None
        if why := _why_late(limits, phase, waited_s):
            self._refuse(problem(408, "request_timeout", why))
        elif (phase == START and waited_s > limits.header_timeout_s) or (
            phase == IDLE and not self._queue.slots and waited_s > limits.idle_timeout_s
        ):
            transport.close()


def _parts_read(limits: HttpLimits, wire_bytes: int) -> int:
    """How many parts of a body have come."""
    return int(wire_bytes / (limits.least_bytes_per_s * limits.body_timeout_s))


def _parts_left(limits: HttpLimits, unsent_bytes: int) -> int:
    """How many whole parts of the answers in the send buffer the client has not taken yet."""
    return int(unsent_bytes / (limits.least_bytes_per_s * limits.write_timeout_s))


def _why_late(limits: HttpLimits, phase: int, waited_s: float) -> str:
    """Why a request is given up that has been in this phase for so long without a part of it; empty if it is not."""
    if phase == HEADER and waited_s > limits.header_timeout_s:
        return f"the header took more than {limits.header_timeout_s:g} s to arrive"
    if phase == BODY and waited_s > limits.body_timeout_s:
        rate = f"{limits.least_bytes_per_s} bytes per second, over {limits.body_timeout_s:g} s"
        return f"the body arrives more slowly than {rate}"
    return ""
