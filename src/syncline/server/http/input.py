"""Input of one connection: parsed as far as the limits allow.

A long piece of input is parsed slice by slice. When a limit is reached, or a request waits for those before it, the
rest of the input stays unparsed and reading is paused. So at most one slice is read ahead, and the body that ends in
it: a client holds no more memory than it was granted. `go_on` parses the rest when there is room.

Behind a live stream reading goes on, up to `AHEAD_BYTES`: a client that is not read can't be seen leaving. If it sends
more the stream ends, and what has waited is parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from syncline.server.http.dispatch import Dispatcher
from syncline.server.http.input_turns import input_cost
from syncline.server.http.output import Output
from syncline.server.http.parser import BODY, ENDED, IDLE, SLICE_BYTES, RequestReader, RequestRefused
from syncline.server.http.request import Request
from syncline.server.http.shared import Shared
from syncline.server.http.state import AHEAD_BYTES, HeldBytes, Link, Slot, SlotQueue, nothing

__all__ = ["Input"]

LINGER_BYTES: Final = 64 << 20
"""After the last request: what is read and thrown away at most, for a client that sends before it reads."""

TLS_HELLO: Final = b"\x16\x03"
"""How a TLS handshake begins (RFC 8446, 5.1)."""


class Input:
    """Parses the input of one connection, and pauses its reading."""

    __slots__ = (
        "_again",
        "_dispatcher",
        "_held",
        "_linger_left",
        "_link",
        "_offered",
        "_output",
        "_queue",
        "_reader",
        "_shared",
        "_starts",
        "_waits_for_turn",
    )

    def __init__(
        self,
        shared: Shared,
        link: Link,
        queue: SlotQueue,
        held: HeldBytes,
        reader: RequestReader,
        dispatcher: Dispatcher,
        output: Output,
        *,
        again: Callable[[bytes], None],
    ) -> None:
        """`again` takes input that has waited for its turn, as if it came now: a shortcut may take it."""
        self._shared = shared
        self._link = link
        self._queue = queue
        self._held = held
        self._reader = reader
        self._dispatcher = dispatcher
        self._output = output
        self._again = again
        self._offered = b""
        """What is being parsed, if it may be one whole request for the header cache to learn from."""
        self._starts = 0
        """How many requests of one long piece of input were started as they were read."""
        self._linger_left = LINGER_BYTES
        self._waits_for_turn = False

    def forget(self) -> None:
        """Nothing comes any more: forget the connection, which refers to this."""
        self._again = nothing

    def receive(self, data: bytes) -> None:
        """Take input of a connection that is not at rest."""
        link = self._link
        if self._reader.phase == ENDED:
            self._linger_left -= len(data)
            if self._linger_left < 0 and link.transport is not None:
                link.transport.abort()
        elif link.unparsed:  # behind a stream; or a transport delivers what it held when it was paused
            self._keep(link.unparsed + data)
            self._hold_up()
        else:
            self.feed(data)

    def offer(self, data: bytes) -> None:
        """`feed` at the start of a message. If `data` is one whole request, the header cache learns from it."""
        self._offered = data if len(data) <= SLICE_BYTES else b""
        self.feed(data)
        self._offered = b""

    def feed(self, data: bytes) -> None:
        """Parse; each request that is complete is given to the `Dispatcher`."""
        output, queue, link = self._output, self._queue, self._link
        output.collecting = True
        try:
            if len(data) <= SLICE_BYTES and not queue.unstarted and self._shared.turns.left > 0:
                self._parse(data)
            else:
                self._feed_slices(memoryview(data))
        except RequestRefused as refusal:
            if data[:2] == TLS_HELLO:
                self._shared.speaks_tls(link.transport)
            output.refuse(refusal.response)
        output.collecting = False
        if link.unparsed:
            self._hold_up()
            output.schedule_flush()  # goes on in the next turn: one client must not have the loop to itself
            return
        if queue.unstarted or not self._dispatcher.has_room():
            self._hold_up()
        output.flush()

    def _keep(self, data: bytes) -> None:
        """Keep the input that has to wait, and count it."""
        self._link.unparsed = data
        self._held.set_unparsed(len(data))

    def _hold_up(self) -> None:
        """Read nothing more, as something has to wait; but read a little behind a live stream."""
        link = self._link
        if link.may_read_ahead:
            link.resume_reading()
            return
        link.pause_reading()
        if link.reads_ahead and len(link.unparsed) > AHEAD_BYTES:
            self._output.end_live()

    def _feed_slices(self, data: memoryview) -> None:
        self._starts = 0
        reader, dispatcher, most = self._reader, self._dispatcher, self._shared.limits.max_in_flight
        turns = self._shared.turns
        for start in range(0, len(data), SLICE_BYTES):
            if reader.phase == ENDED:
                break
            is_over = self._starts > most or turns.left <= 0
            if is_over or self._queue.unstarted or not dispatcher.has_room():
                self._keep(bytes(data[start:]))
                break
            self._parse(data[start : start + SLICE_BYTES])

    def _parse(self, data: bytes | memoryview) -> None:
        """Give the parser one slice, and take what it costs from the turn."""
        reader = self._reader
        before, is_body = reader.messages, reader.phase == BODY
        try:
            reader.feed(data)
        finally:
            self._shared.turns.spend(input_cost(len(data), reader.messages - before, is_body=is_body))

    def take(self, request: Request, close: bool, http10: bool) -> None:
        """Take a complete request: what the parser calls (`Take`)."""
        if self._held.reading:
            self._held.end_read()
        if self._offered and not close:
            self._shared.header_cache.learn(self._offered, request)
        slot = Slot(request, close, http10, plain=not (close or http10 or request.method == "HEAD"))
        if self._dispatcher.add(slot):
            self._starts += 1

    def go_on(self) -> None:
        """Start what had to wait, parse what was not parsed, read again: as far as the limits allow."""
        link, dispatcher = self._link, self._dispatcher
        if dispatcher.start_waiting():
            self._output.schedule_flush()
        if link.transport is None:
            return
        if self._queue.unstarted or not dispatcher.has_room():
            self._hold_up()
            return
        if not link.unparsed:
            link.resume_reading()
        elif not self._waits_for_turn:
            self._waits_for_turn = True
            self._shared.turns.wait(self._turn)

    def _turn(self) -> None:
        """Parse what was not parsed, after the connections that waited before: if it still may be parsed."""
        self._waits_for_turn = False
        link = self._link
        if link.transport is None or not link.unparsed:
            return
        if self._queue.unstarted or not self._dispatcher.has_room():
            self._hold_up()
            return
        data = link.unparsed
        self._keep(b"")
        if self._queue.slots or self._reader.phase > IDLE:
            self.feed(data)
            return
        link.resume_reading()  # what a transport reads it delivers later, not in this call
        self._again(data)
