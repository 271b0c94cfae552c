"""One streamed answer of the JSON gateway: between the coroutine that sends and the connection that reads."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

from syncline.server.etcd.errors import EtcdError
from syncline.server.etcd.messages import Message
from syncline.server.http.limits import KIB
from syncline.server.http.response import JSON, NO_STORE, Respond, Response, status_line
from syncline.server.http.stream import Stream

__all__ = ["StreamBridge"]

UNREAD_BYTES: Final = 64 * KIB
"""Of messages that the connection has not taken: with more, `send` waits. One message may be larger."""

BEGIN_S: Final = 10.0
"""A live stream without a message begins after so long: from then on it is known whether its client has left. Calls
that end with an error have ended before."""


class StreamBridge:
    """Takes messages by `send`, and gives them to the connection as it reads: each as one piece, so as one chunk.

    The answer begins with the first message: an error before it has a status of its own. When the client leaves, the
    coroutine is cancelled.
    """

    def __init__(
        self,
        respond: Respond,
        *,
        write: Callable[[Message], bytes],
        refuse: Callable[[EtcdError], Response],
        error: Callable[[EtcdError], bytes],
        live: bool,
    ) -> None:
        """`write` makes bytes of a message, `error` those of an error within the stream, `refuse` a whole answer of an
        error before it. `live`: the stream has no end of its own.
        """
        self._respond: Respond | None = respond
        """None when it was called: it refers to the answer, which refers to this bridge, and the garbage collector does
        not know answers."""
        self._write = write
        self._refuse = refuse
        self._error = error
        self._live = live
        self._pieces: deque[bytes] = deque()
        self._unread_bytes = 0
        self._room: asyncio.Future[None] | None = None
        self._wake: Callable[[], None] = _nothing
        self._task: asyncio.Task[Any] | None = None
        self._ended = False

    async def inbox(self, messages: list[Message]) -> AsyncIterator[Message]:
        """The messages of the request's body."""
        for message in messages:
            yield message

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Run the call, and end the answer with it."""
        self._task = asyncio.current_task()
        timer = asyncio.get_running_loop().call_later(BEGIN_S, self._begin) if self._live else None
        try:
            await work
        except EtcdError as error:
            if (respond := self._take_respond()) is not None:
                respond(self._refuse(error))
                return
            self._put(self._error(error))
        finally:
            if timer is not None:
                timer.cancel()
        self._begin()
        self._ended = True
        self._wake()

    async def send(self, message: Message) -> None:
        """Give one message to the connection; wait while it has more than it takes."""
        self._put(self._write(message))
        self._begin()
        while self._unread_bytes > UNREAD_BYTES:
            self._room = asyncio.get_running_loop().create_future()
            await self._room

    def _put(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._unread_bytes += len(piece)
        if len(self._pieces) == 1:
            self._wake()

    def _begin(self) -> None:
        if (respond := self._take_respond()) is not None:
            head = b"%s%s%s" % (status_line(200), JSON, NO_STORE)
            respond(Stream(200, head, source=self, live=self._live))

    def _take_respond(self) -> Respond | None:
        """What gives the answer, if none was given."""
        respond, self._respond = self._respond, None
        return respond

    # --- the connection's side (`StreamSource`)

    def start(self, wake: Callable[[], None]) -> None:
        """The answer's turn has come."""
        self._wake = wake
        wake()

    @property
    def has_more(self) -> bool:
        """Whether there is another message, or the end."""
        return self._ended or bool(self._pieces)

    def read(self) -> bytes | None:
        """The next message; None at the end."""
        if self._pieces:
            piece = self._pieces.popleft()
            self._unread_bytes -= len(piece)
            if self._room is not None and self._unread_bytes <= UNREAD_BYTES and not self._room.done():
                self._room.set_result(None)
            return piece
        return None if self._ended else b""

    def close(self) -> None:
        """End the call: the client has left, or has it all."""
        self._wake = _nothing
        if self._task is not None and not self._ended:
            self._task.cancel()


def _nothing() -> None:
    pass
