"""Answers of one connection: they leave in the order of the requests, and what is finished in one turn in one write.

A finished answer waits in its slot until it is the first. If nothing is before it, behind it or under way, it is
written at once: most connections have one request at a time. `flush` writes all others at the end of the turn, and then
lets waiting requests and input go on.

An answer that may be large is `Deferred`: it is made when it is the first, and the client has read those before it.
Until then its request counts as running, so that no later write overtakes it, and it takes no memory.

The last answer ends the connection. A refusal (malformed input, a limit, a time-out) is an answer like any other, in
its turn, and the last. The connection then half-closes and throws away what still arrives for a few seconds. To close
with unread input would reset the connection, and the client could lose the answer that says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from syncline.server.http.large_answers import TURN_BYTES
from syncline.server.http.parser import ENDED, IDLE, RequestReader
from syncline.server.http.response import Deferred, Response
from syncline.server.http.shared import Shared
from syncline.server.http.state import DRAINING, GIVEN, LINGERING, REFUSED, HeldBytes, Link, Slot, SlotQueue

__all__ = ["Output"]

logger: logging.Logger = logging.getLogger("syncline.server")

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class Output:
    """Writes the answers of one connection, and ends it with the last one.

    `go_on` is called when answers have left and something waits.
    """

    __slots__ = (
        "_go_on",
        "_held",
        "_link",
        "_queue",
        "_reader",
        "_shared",
        "collecting",
        "flush_scheduled",
    )

    def __init__(
        self,
        shared: Shared,
        link: Link,
        queue: SlotQueue,
        held: HeldBytes,
        reader: RequestReader,
        *,
        go_on: Callable[[], None],
    ) -> None:
        self._shared = shared
        self._link = link
        self._queue = queue
        self._held = held
        self._reader = reader
        self._go_on = go_on
        self.collecting: bool = False
        """The parser runs: answers are kept until all of its input is read."""
        self.flush_scheduled: bool = False

    # --- answers

    def answered(self, slot: Slot, answer: Response) -> None:
        """Take the answer to a slot's request: the `Respond` of each request, with its slot."""
        if slot.answer is not None:
            logger.error("a request was answered twice; the second answer (%d) is dropped", answer.status)
            return
        link, slots, shared = self._link, self._queue.slots, self._shared
        transport = link.transport
        if transport is None:
            slot.answer = GIVEN
            return  # the client has gone
        if type(answer) is Deferred:
            if slots[0] is not slot or link.write_paused:
                slot.answer = answer  # `flush` makes it when it is its turn
                return
            if not shared.making.has_time:
                slot.answer = answer
                shared.making.later(self)
                return
            answer = shared.making.make(answer)
        slot.answer = answer
        if slot.request is not None:
            self._queue.in_flight -= 1
            if shared.observe is not None:
                shared.observe(slot.request.route, answer.status, shared.clock() - slot.started_s)
        if slot.plain and len(slots) == 1 and self._is_free():  # nothing is before it or behind it
            slots.popleft()
            slot.answer = GIVEN
            if slot.held_bytes:
                self._held.release(slot)
            transport.write(b"".join((answer.head, shared.tail, answer.body)))
            return
        self._held.hold(slot, len(answer.head) + len(answer.body))
        if not self.collecting and slots[0] is slot:
            self.schedule_flush()

    def found(self, slot: Slot, head: bytes, body: bytes) -> None:
        """Take an answer of the GET fast path: `answered`, and shorter if it can be written at once."""
        queue, shared = self._queue, self._shared
        slots, transport = queue.slots, self._link.transport
        if transport is None or len(slots) != 1 or slots[0] is not slot or not self._is_free():
            self.answered(slot, Response(200, head, body))
            return
        slots.popleft()
        queue.in_flight -= 1
        slot.answer = GIVEN
        if shared.observe is not None:
            assert slot.request is not None
            shared.observe(slot.request.route, 200, shared.clock() - slot.started_s)
        transport.write(b"".join((head, shared.tail, body)))

    def refuse(self, response: Response) -> None:
        """Give up on the input: this answer is the last."""
        link, reader = self._link, self._reader
        if link.transport is None or link.stage >= REFUSED:
            return
        slot = Slot(None, True, False, plain=False)
        link.stage = REFUSED
        reader.phase = ENDED
        reader.continue_due = False
        self._queue.slots.append(slot)
        self.answered(slot, response)
        if (observe := self._shared.observe) is not None:
            observe("", response.status, 0.0)

    def _is_free(self) -> bool:
        """Whether an answer may be written at once, if it is the only one."""
        link = self._link
        return self._reader.phase == IDLE and not (self.collecting or link.read_paused or link.stage)

    # --- writing

    def schedule_flush(self) -> None:
        """Call `flush` at the end of the turn."""
        if not self.flush_scheduled:
            self.flush_scheduled = True
            self._shared.flush_later(self)

    def flush(self) -> None:
        """Write every answer whose turn it is, in one write; then go on with input that had to wait."""
        link, queue, shared = self._link, self._queue, self._shared
        if link.transport is None or link.write_paused:
            return
        slots, closing = queue.slots, False
        parts: list[bytes] = []
        size_bytes = 0
        while slots and not closing:
            slot = slots[0]
            answer = slot.answer
            if answer is None:
                break
            if isinstance(answer, Deferred):
                if size_bytes > TURN_BYTES or not shared.making.has_time:
                    shared.making.later(self)  # unless the client is found not to read
                    break
                answer = self._make(slot, answer)
            size_bytes += len(answer.body)
            slots.popleft()
            slot.answer = GIVEN
            self._held.release(slot)
            closing = slot.close or (link.stage == DRAINING and not slots)
            parts.append(answer.head)
            parts.append(shared.tail_close if closing else shared.tail_http10 if slot.http10 else shared.tail)
            if slot.request is None or slot.request.method != "HEAD":
                parts.append(answer.body)
        if self._reader.continue_due and not slots and not closing:
            self._reader.continue_due = False
            parts.append(CONTINUE)
        if parts:
            link.transport.write(b"".join(parts))
        if closing:
            self._end()
        elif link.read_paused:  # else nothing waits
            self._go_on()

    def _make(self, slot: Slot, answer: Deferred) -> Response:
        """Make an answer whose turn it is."""
        request, shared = slot.request, self._shared
        assert request is not None, "a refusal is there at once"
        made = shared.making.make(answer)
        self._queue.in_flight -= 1
        if shared.observe is not None:
            shared.observe(request.route, made.status, shared.clock() - slot.started_s)
        return made

    # --- the end

    def _end(self) -> None:
        """The last answer has been written."""
        link = self._link
        transport = link.transport
        if transport is None:
            return
        self._reader.phase = ENDED
        link.unparsed = b""
        if link.stage < REFUSED or not transport.can_write_eof():
            transport.close()  # what is buffered is still sent
            return
        link.stage = LINGERING
        transport.write_eof()
        link.resume_reading()

    def drain(self, *, idle: bool) -> None:
        """Close as soon as everything that was asked is answered: now if nothing is, and `idle`."""
        link = self._link
        link.stage = max(link.stage, DRAINING)
        if not idle or link.transport is None or self._queue.slots:
            return
        if self._reader.phase <= IDLE or link.stage == LINGERING:
            link.transport.close()
