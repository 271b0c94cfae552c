"""Answers of one connection: they leave in the order of the requests, and what is finished in one turn in one write.

A finished answer waits in its slot until it is the first. If nothing is before it, behind it or under way, it is
written at once: most connections have one request at a time. `flush` writes all others at the end of the turn, and then
lets waiting requests and input go on.

An answer that may be large is `Deferred`: it is made when it is the first, and the client has read those before it.
Until then its request counts as running, so that no later write overtakes it, and it takes no memory.

A `Stream` begins when it is the first, and its request counts as running until its end. Its source is read while the
client reads, a share per turn. Answers behind it wait until it has ended. A live one ends when the client leaves, or
sends more behind it than is kept (`Input`).

The last answer ends the connection. A refusal (malformed input, a limit, a time-out) is an answer like any other, in
its turn, and the last. The connection then half-closes and throws away what still arrives for a few seconds. To close
with unread input would reset the connection, and the client could lose the answer that says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from syncline.server.http.input_turns import REFUSED_COST, REFUSED_STATUS
from syncline.server.http.large_answers import TURN_BYTES
from syncline.server.http.parser import ENDED, IDLE, RequestReader
from syncline.server.http.response import Deferred, Response
from syncline.server.http.shared import Shared
from syncline.server.http.state import DRAINING, GIVEN, LINGERING, REFUSED, HeldBytes, Link, Slot, SlotQueue, nothing
from syncline.server.http.stream import CHUNKED, Stream, StreamUnderWay

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
        "_input_ended",
        "_link",
        "_queue",
        "_reader",
        "_shared",
        "_stream",
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
        self._stream: StreamUnderWay | None = None
        """The answer of the first slot, if its head was written and its body is not complete."""
        self._input_ended = False
        self.collecting: bool = False
        """The parser runs: answers are kept until all of its input is read."""
        self.flush_scheduled: bool = False

    # --- answers

    def answered(self, slot: Slot, answer: Response) -> None:
        """Take the answer to a slot's request: the `Respond` of each request, with its slot."""
        if slot.answer is not None:
            logger.error("a request was answered twice; the second answer (%d) is dropped", answer.status)
            _drop(answer)
            return
        link, slots, shared = self._link, self._queue.slots, self._shared
        transport = link.transport
        if transport is None:
            slot.answer = GIVEN
            _drop(answer)
            return  # the client has gone
        if slot.counted:
            slot.counted = False
            shared.total.requests -= 1
        if answer.status in REFUSED_STATUS:
            shared.turns.spend(REFUSED_COST)
        if type(answer) is not Response:
            if slots[0] is not slot or link.write_paused:
                slot.answer = answer  # `flush` makes it when it is its turn
                return
            if not isinstance(answer, Deferred):
                slot.answer = answer
                if not self.collecting:
                    self.schedule_flush()
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
                took_s = shared.clock() - slot.started_s
                shared.observe(slot.request.route, answer.status, took_s, slot.request, answer.code)
        if (  # nothing is before it or behind it, and it may be written at once
            slot.plain
            and len(slots) == 1
            and self._reader.phase == IDLE
            and not (self.collecting or link.read_paused or link.stage)
        ):
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
        queue, shared, link = self._queue, self._shared, self._link
        slots, transport = queue.slots, link.transport
        if (
            transport is None
            or len(slots) != 1
            or slots[0] is not slot
            or self._reader.phase != IDLE
            or self.collecting
            or link.read_paused
            or link.stage
        ):
            self.answered(slot, Response(200, head, body))
            return
        slots.popleft()
        queue.in_flight -= 1
        slot.counted = False
        shared.total.requests -= 1
        slot.answer = GIVEN
        if shared.observe is not None:
            assert slot.request is not None
            shared.observe(slot.request.route, 200, shared.clock() - slot.started_s, slot.request, "")
        transport.write(b"".join((head, shared.tail, body)))

    def written(self, slot: Slot, head: bytes, body: bytes) -> None:
        """The same of the fast paths of writes, whose requests may have a body."""
        if self._link.transport is not None:  # else all that the connection held is forgotten
            self._held.release(slot)
        self.found(slot, head, body)

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
            observe("", response.status, 0.0, None, response.code)

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
        if self._stream is not None and not self._go_on_streaming(self._stream):
            if link.read_paused:
                self._go_on()
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
            elif isinstance(answer, Stream):
                parts += self._begin(slot, answer)
                if self._stream is not None:
                    break
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
            return
        if self._stream is not None and not link.write_paused:
            self.schedule_flush()
        if link.read_paused:  # else nothing waits
            self._go_on()

    def _make(self, slot: Slot, answer: Deferred) -> Response:
        """Make an answer whose turn it is."""
        request, shared = slot.request, self._shared
        assert request is not None, "a refusal is there at once"
        made = shared.making.make(answer)
        self._queue.in_flight -= 1
        if shared.observe is not None:
            shared.observe(request.route, made.status, shared.clock() - slot.started_s, request, made.code)
        return made

    # --- streams

    def _begin(self, slot: Slot, answer: Stream) -> list[bytes]:
        """Begin a stream whose turn it is; return its head. HEAD wants no body: its answer is one like any other."""
        request, shared = slot.request, self._shared
        assert request is not None, "a refusal is no stream"
        if shared.observe is not None:
            shared.observe(request.route, answer.status, shared.clock() - slot.started_s, None, answer.code)
        if request.method == "HEAD":
            self._queue.in_flight -= 1
            answer.source.close()
            return []
        slot.close = slot.close or slot.http10  # its end is the end of the body
        self._stream = StreamUnderWay(answer, chunked=not slot.http10)
        self._link.reads_ahead = answer.live
        answer.source.start(self._wake)
        return [
            answer.head,
            b"" if slot.http10 else CHUNKED,
            shared.tail_close if slot.close else shared.tail,
        ]

    def _wake(self) -> None:
        if not (self.flush_scheduled or self._link.write_paused):  # else it is read when the client has read
            self.flush_scheduled = True
            self._shared.flush_later(self)

    def _go_on_streaming(self, stream: StreamUnderWay) -> bool:
        """Write what the source has. Return whether the stream has ended, so that those behind it may be written."""
        link, live = self._link, stream.live
        transport = link.transport
        assert transport is not None
        if not live and not self._shared.making.has_time:
            self._shared.making.later(self)
            return False
        try:
            data = stream.take()
        except Exception as error:
            logger.error("a stream is cut off: its source failed", exc_info=error)
            transport.abort()
            return False
        if not live:
            self._shared.making.count(len(data))
        elif (self._input_ended or stream.last) and not (stream.more or stream.ended):
            data += stream.finish()
        if data:
            transport.write(data)
        if not stream.ended:
            if stream.more and not link.write_paused:
                self.schedule_flush()
            return False
        slots = self._queue.slots
        self._stream = None
        if link.reads_ahead:
            link.reads_ahead = False
            link.pause_reading()  # `flush` goes on with what has waited, and reads again
        slot = slots.popleft()
        slot.answer = GIVEN
        self._held.release(slot)
        self._queue.in_flight -= 1
        stream.source.close()
        if slot.close or (link.stage == DRAINING and not slots):
            self._end()
            return False
        return not link.write_paused

    def write_stream(self) -> bool:
        """Write what a live stream has, before the end of the turn; no input is looked at.

        Return whether `flush` is not needed any more.
        """
        stream, link = self._stream, self._link
        if stream is None or not stream.live or link.write_paused or link.read_paused or link.transport is None:
            return False
        self._go_on_streaming(stream)
        if self._stream is not stream or stream.more:
            return False
        self.flush_scheduled = False
        return True

    def end_input(self) -> bool:
        """Note that the client sends no more. Return whether it has left a live stream that is under way.

        One that is still to begin gives what it has by then, and ends.
        """
        self._input_ended = True
        return self._stream is not None and self._stream.live

    def end_live(self) -> None:
        """End the live stream that is under way, with what its source has."""
        if self._stream is not None:
            self._stream.last = True
            self.schedule_flush()

    # --- the end

    def lost(self) -> None:
        """Release the streams: the client has left."""
        self._stream = None
        self._link.reads_ahead = False
        for slot in self._queue.slots:
            if (answer := slot.answer) is not None:
                # The collector knows neither slots nor answers: it would never find a source that refers to its slot.
                slot.answer = GIVEN
                _drop(answer)

    def forget(self) -> None:
        """Nothing waits any more: forget the connection, which refers to this."""
        self._go_on = nothing

    def check(self) -> None:
        """Assert the invariants."""
        assert self._link.reads_ahead == (self._stream is not None and self._stream.live)
        if (stream := self._stream) is not None:
            answer = self._queue.slots[0].answer
            assert isinstance(answer, Stream), "a stream is the first answer"
            assert answer.source is stream.source
            assert not stream.ended, "a stream that has ended was written"

    def _end(self) -> None:
        """The last answer has been written."""
        link = self._link
        transport = link.transport
        if transport is None:
            return
        self._reader.phase = ENDED
        link.unparsed = b""
        self._held.set_unparsed(0)
        if link.stage < REFUSED or not transport.can_write_eof():
            transport.close()  # what is buffered is still sent
            return
        link.stage = LINGERING
        try:
            transport.write_eof()
        except OSError:  # the client has reset the connection, and the loop has not told of it yet
            transport.abort()
            return
        link.resume_reading()

    def drain(self, *, idle: bool) -> None:
        """Close as soon as everything that was asked is answered: now if nothing is, and `idle`."""
        link = self._link
        link.stage = max(link.stage, DRAINING)
        if not idle or link.transport is None or self._queue.slots:
            return
        if self._reader.phase <= IDLE or link.stage == LINGERING:
            link.transport.close()


def _drop(answer: Response) -> None:
    """Release what an answer holds that is not written."""
    if isinstance(answer, Stream):
        answer.source.close()
