"""The queue of one connection, flushed as frames at the end of a turn of the event loop."""

from __future__ import annotations

from collections.abc import Callable

from syncline.consensus.types import Message
from syncline.errors import FrameError
from syncline.transport.connection import Connection
from syncline.transport.limits import TransportLimits
from syncline.transport.messages import Ask, AskReply, DigestReport, Forward, Notice, PeerMessage
from syncline.transport.wire import MAX_BATCH_MESSAGES, MAX_BATCH_REPORTS, Batch, message_size_bytes

__all__ = ["Outbox"]


def _no_echo(_size_bytes: int) -> int:
    return 0


class Outbox:
    """The queued messages of one connection.

    `echo` returns, for a frame of about so many bytes, the number of the echo that it asks for; 0: none. `too_large`
    is called with a message that is above the limit on a frame.
    """

    def __init__(
        self, limits: TransportLimits, too_large: Callable[[FrameError], None], echo: Callable[[int], int] = _no_echo
    ) -> None:
        self.queued_bytes: int = 0
        self.sent_messages: int = 0
        self._limits = limits
        self._too_large = too_large
        self._echo = echo
        self._queue: list[PeerMessage] = []
        self._reports = 0
        """Digest reports in the queue: a batch may hold few of them."""

    def add(self, message: PeerMessage, unsent_bytes: int) -> bool:
        """Queue a message; `unsent_bytes` wait in the connection already. False: there is no room for it."""
        size = message_size_bytes(message)
        waiting = self.queued_bytes + unsent_bytes
        if waiting and waiting + size > self._limits.send_buffer_bytes:
            return False
        self._queue.append(message)
        self.queued_bytes += size
        if isinstance(message, DigestReport):
            self._reports += 1
        return True

    def clear(self) -> int:
        """Drop the queued messages; return their number."""
        count = len(self._queue)
        self._queue = []
        self.queued_bytes = self._reports = 0
        return count

    def flush(self, connection: Connection) -> None:
        """Write what is queued, in frames of about `batch_bytes`."""
        queue, queued_bytes = self._queue, self.queued_bytes
        if not queue:
            return
        self._queue, self.queued_bytes = [], 0
        reports, self._reports = self._reports, 0
        if len(queue) == 1:  # as nearly always
            self._write(connection, queue, queued_bytes)
            return
        most = MAX_BATCH_MESSAGES if reports <= MAX_BATCH_REPORTS else MAX_BATCH_REPORTS
        if queued_bytes <= self._limits.batch_bytes and len(queue) <= most:
            self._write(connection, queue, queued_bytes)
            return
        part: list[PeerMessage] = []
        part_bytes = 0
        for message in queue:
            size = message_size_bytes(message)
            if part and (part_bytes + size > self._limits.batch_bytes or len(part) == most):
                self._write(connection, part, part_bytes)
                part, part_bytes = [], 0
            part.append(message)
            part_bytes += size
        self._write(connection, part, part_bytes)

    def _write(self, connection: Connection, messages: list[PeerMessage], size_bytes: int) -> None:
        try:
            connection.send(_batch(messages, self._echo(size_bytes)))
        except FrameError as error:
            if len(messages) > 1:
                for message in messages:
                    self._write(connection, [message], message_size_bytes(message))
                return
            self._too_large(error)
            return
        self.sent_messages += len(messages)


def _batch(messages: list[PeerMessage], ping: int) -> Batch:
    if len(messages) == 1 and isinstance(message := messages[0], Message):
        return Batch(messages=[message], ping=ping)
    batch = Batch(messages=[], forwards=[], replies=[], notices=[], reports=[], asks=[], answers=[], ping=ping)
    for message in messages:
        if isinstance(message, Message):
            batch.messages.append(message)
        elif isinstance(message, Forward):
            batch.forwards.append(message)
        elif isinstance(message, Notice):
            batch.notices.append(message)
        elif isinstance(message, DigestReport):
            batch.reports.append(message)
        elif isinstance(message, Ask):
            batch.asks.append(message)
        elif isinstance(message, AskReply):
            batch.answers.append(message)
        else:
            batch.replies.append(message)
    return batch
