"""The state of one connection, in four small parts. Each says which invariants hold between its fields.

| part | says |
| --- | --- |
| `Link` | the transport, in which direction it stands still, and how far the connection is on its way to its end |
| `SlotQueue` | the requests in the order of their answers, and which of them run |
| `HeldBytes` | the memory that the connection holds, counted by what for |
| `TotalBytes` | the same of all connections of the server together |

How far the input has been read is the parser's phase (`parser.py`). `connection.py` shows all phases in one table.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from syncline.server.http.fields import SAFE_METHODS
from syncline.server.http.limits import KIB
from syncline.server.http.request import Request
from syncline.server.http.response import Response

__all__ = [
    "AHEAD_BYTES",
    "DRAINING",
    "GIVEN",
    "LINGERING",
    "OPEN",
    "REFUSED",
    "HeldBytes",
    "Link",
    "Slot",
    "SlotQueue",
    "TotalBytes",
    "nothing",
]

AHEAD_BYTES: Final = 16 * KIB
"""Of input that waits behind a live stream. When there is more the stream ends: to read on takes memory, and a client
that is not read may leave unseen, so that its stream would not end."""

# The stages of a connection. A stage only ever grows. Plain integers: read for every request.
OPEN: Final = 0  # requests are taken
DRAINING: Final = 1  # the server closes: the connection ends when everything that was asked is answered
REFUSED: Final = 2  # the input was refused: the last answer tells why
LINGERING: Final = 3  # that answer was written: what still arrives is thrown away


class Slot(msgspec.Struct, eq=False, gc=False):
    """A request's place in the order of answers."""

    request: Request | None
    """None for a refusal: no handler is called for it."""
    close: bool
    """Whether the connection ends with this answer."""
    http10: bool
    plain: bool
    """Whether its answer is written as it is, with a body and nothing about the connection."""
    answer: Response | None = None
    held_bytes: int = 0
    """Its part of the connection's `HeldBytes`: of `waiting` until the request is started, of `running` from then."""
    started_s: float = 0.0
    counted: bool = False
    """Whether it counts as a request in work, of all connections of the server together."""


GIVEN: Final = Response(200, b"")
"""Stands for an answer that was written: what is counted no more is not kept, and a second answer is noticed."""


def nothing(*_: object) -> None:
    """Stand for a callback to a connection that has ended. One that was kept would be in a circle with its parts."""


class Link:
    """The transport of one connection, and what stops it.

    Invariants, until the connection lingers: while the client does not read (`write_paused`), nothing is read from it
    either. While input waits to be parsed, nothing is read, but for a little behind a live stream (`reads_ahead`).
    """

    __slots__ = ("ends", "is_extra", "read_paused", "reads_ahead", "stage", "transport", "unparsed", "write_paused")

    def __init__(self) -> None:
        self.is_extra: bool = False
        """It is above the limit of connections: it drains from its start, and has vital answers alone."""
        self.transport: asyncio.Transport | None = None
        """None before the connection is made, and after it is lost."""
        self.stage: int = OPEN
        self.read_paused: bool = False
        """A limit is reached, a request waits for those before it, or the client does not read its answers."""
        self.reads_ahead: bool = False
        """A live stream is under way. What is behind it is read, though it has to wait: a stream has no end of its own,
        and a client that is not read can't be seen leaving."""
        self.unparsed: bytes = b""
        """Input that was read and has to wait."""
        self.write_paused: bool = False
        """The send buffer is full: the client does not read its answers."""
        self.ends: dict[Callable[[], None], None] | None = None
        """What is to be called when the client has left."""

    def when_left(self, end: Callable[[], None]) -> Callable[[], None]:
        """Call `end` once if the client leaves. Call what is returned when that is not needed any more."""
        ends = self.ends = {} if self.ends is None else self.ends
        ends[end] = None
        if self.transport is None:  # it has left before
            asyncio.get_running_loop().call_soon(self.left)
        return partial(ends.pop, end, None)

    def left(self) -> None:
        """The client has left."""
        self.transport = None
        self.unparsed = b""
        ends, self.ends = self.ends, None
        for end in list(ends or ()):
            end()

    @property
    def address(self) -> str:
        """The address of the client; empty if there is no connection."""
        peer = None if self.transport is None else self.transport.get_extra_info("peername")
        return str(peer[0]) if isinstance(peer, tuple) and peer else ""

    @property
    def may_read_ahead(self) -> bool:
        """Whether reading goes on though the input has to wait."""
        return self.reads_ahead and not self.write_paused and len(self.unparsed) <= AHEAD_BYTES

    def pause_reading(self) -> None:
        """Read nothing more, until `resume_reading`."""
        if not self.read_paused and self.stage != LINGERING and self.transport is not None:
            self.read_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self.read_paused and self.transport is not None:
            self.read_paused = False
            self.transport.resume_reading()

    def check(self) -> None:
        """Assert the invariants. They need not hold while input is parsed."""
        if not self.read_paused and self.stage != LINGERING:
            assert not self.write_paused, "what is not read must not be asked for"
            assert not self.unparsed or self.may_read_ahead, "what is read is parsed first, or is short"


class SlotQueue:
    """The requests of one connection in the order in which they arrived, which is that of their answers.

    Invariants: `unstarted` is the end of the requests in `slots`; all before it are started. A refusal may follow, as
    the last slot. `in_flight` counts the started ones that have no answer yet. If one that runs is not safe, nothing
    runs beside it.
    """

    __slots__ = ("in_flight", "last_method", "slots", "unstarted")

    def __init__(self) -> None:
        self.slots: deque[Slot] = deque()
        """All whose answer is not written."""
        self.unstarted: deque[Slot] = deque()
        """Those that wait for the ones before them, or for room."""
        self.in_flight: int = 0
        self.last_method: str = ""
        """Of the request that was started last: noted only when another might have to wait for it."""

    def note_last(self) -> None:
        """Note what was started last, before another request joins the queue."""
        if not self.unstarted:
            last = self.slots[-1].request
            assert last is not None, "nothing is read after a refusal"
            self.last_method = last.method

    def in_turn(self, request: Request) -> bool:
        """Whether the first request that is not started may run beside those that run.

        Safe ones change nothing, so their order makes no difference. An unsafe one runs alone: if one runs, it is the
        last that was started.
        """
        return not self.in_flight or (request.method in SAFE_METHODS and self.last_method in SAFE_METHODS)

    def clear(self, total: TotalBytes) -> None:
        """Forget all: the connection is lost."""
        for slot in self.slots:
            if slot.counted:
                slot.counted = False
                total.requests -= 1
        self.slots.clear()
        self.unstarted.clear()
        self.in_flight = 0  # an answer that still comes is dropped, and counts nothing

    def check(self) -> None:
        """Assert the invariants."""
        slots = [slot for slot in self.slots if slot.request is not None]
        assert all(slot.request is not None for slot in list(self.slots)[:-1]), "a refusal is the last"
        started = slots[: len(slots) - len(self.unstarted)]
        assert slots[len(started) :] == list(self.unstarted), "those that wait are the last requests"
        running = [slot for slot in started if slot.answer is None or type(slot.answer) is not Response]
        assert len(running) == self.in_flight, "each that runs is counted"
        methods = [slot.request.method for slot in running if slot.request is not None]
        assert len(methods) <= 1 or SAFE_METHODS.issuperset(methods), "an unsafe request runs alone"


class TotalBytes:
    """Bodies and answers in memory, and requests in work, of all connections of a server.

    Invariants: `bytes` is the sum of their `HeldBytes`; `requests` is the number of slots that are `counted`.
    """

    __slots__ = ("bytes", "limit_bytes", "max_requests", "requests")

    def __init__(self, limit_bytes: int, max_requests: int = 1 << 62) -> None:
        self.bytes: int = 0
        self.limit_bytes: int = limit_bytes
        """Above it requests are refused."""
        self.requests: int = 0
        """Started and not answered. A stream counts until it begins; a read that waits for a change never does."""
        self.max_requests: int = max_requests
        """Above it requests are refused."""


class HeldBytes:
    """Bodies, answers and waiting input of one connection in memory, by what they are held for.

    Invariants: no part is negative; `running` and `waiting` are the sums over the slots; each change is a change of
    the server's total.
    """

    __slots__ = ("reading", "running", "total", "unparsed", "unsent", "waiting")

    def __init__(self, total: TotalBytes) -> None:
        self.total: TotalBytes = total
        self.running: int = 0
        """Bodies of started requests, and answers that are not written yet."""
        self.waiting: int = 0
        """Bodies of requests that are not started. They are no reason not to start: they would never start."""
        self.reading: int = 0
        """Of the body that is being read, when it does not come at once."""
        self.unsent: int = 0
        """Of answers in the send buffer, when the client does not read."""
        self.unparsed: int = 0
        """Input that has to wait (`Link.unparsed`)."""

    def hold(self, slot: Slot, size_bytes: int) -> None:
        """Count a body or an answer of a started request."""
        slot.held_bytes += size_bytes
        self.running += size_bytes
        self.total.bytes += size_bytes

    def release(self, slot: Slot) -> None:
        """Count no more what `hold` has counted for this slot."""
        size_bytes = slot.held_bytes
        slot.held_bytes = 0
        self.running -= size_bytes
        self.total.bytes -= size_bytes

    def wait(self, slot: Slot, size_bytes: int) -> None:
        """Count the body of a request that is not started."""
        slot.held_bytes = size_bytes
        self.waiting += size_bytes
        self.total.bytes += size_bytes

    def end_wait(self, slot: Slot) -> None:
        """Count no more what `wait` has counted: the request is about to be started."""
        size_bytes = slot.held_bytes
        slot.held_bytes = 0
        self.waiting -= size_bytes
        self.total.bytes -= size_bytes

    def read(self, size_bytes: int) -> bool:
        """Count a part of the body that is being read; whether there is room for it."""
        self.reading += size_bytes
        self.total.bytes += size_bytes
        return self.total.bytes <= self.total.limit_bytes

    def end_read(self) -> None:
        """The body is whole."""
        self.total.bytes -= self.reading
        self.reading = 0

    def set_unsent(self, size_bytes: int) -> None:
        """Count what the send buffer has, as of now."""
        self.total.bytes += size_bytes - self.unsent
        self.unsent = size_bytes

    def set_unparsed(self, size_bytes: int) -> None:
        """Count the input that has to wait, as of now."""
        self.total.bytes += size_bytes - self.unparsed
        self.unparsed = size_bytes

    def clear(self) -> None:
        """Count nothing any more: the connection is lost."""
        self.total.bytes -= self.running + self.waiting + self.reading + self.unsent + self.unparsed
        self.running = self.waiting = self.reading = self.unsent = self.unparsed = 0

    def check(self, queue: SlotQueue) -> None:
        """Assert the invariants, with the slots that the bytes are counted for."""
        waiting = sum(slot.held_bytes for slot in queue.unstarted)
        assert self.waiting == waiting, "of those that wait"
        assert self.running == sum(slot.held_bytes for slot in queue.slots) - waiting, "of the others"
        assert min(self.reading, self.unsent, self.unparsed) >= 0
        own = self.running + self.waiting + self.reading + self.unsent + self.unparsed
        assert self.total.bytes >= own, "all count together"
