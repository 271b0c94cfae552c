"""The places of one connection's requests in the order of its answers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import msgspec

from syncline.server.http.fast_get import Express
from syncline.server.http.request import Request
from syncline.server.http.response import Respond, Response

if TYPE_CHECKING:
    from syncline.server.http.connection import HttpConnection
    from syncline.server.http.server import HttpServer

__all__ = ["GIVEN", "Lane", "Slot"]


class Slot(msgspec.Struct, eq=False, gc=False):
    """A request's place in the order of answers."""

    request: Request | None
    """None for a refusal: there is nothing to hand to the handler."""
    close: bool
    """Whether the connection ends with this answer."""
    http10: bool
    plain: bool
    """Whether its answer is written as it is, with a body and nothing about the connection."""
    answer: Response | None = None
    held_bytes: int = 0
    """Its part of the connection's `_held_bytes`: the body once it is started, the answer once it is there; before it
    is started, of `_waiting_bytes`."""
    started_s: float = 0.0


GIVEN: Final = Response(200, b"")
"""Stands for an answer that was written: what nobody counts any more is not kept, and a second one is noticed."""


class Lane:
    """The express requests of one connection. There is one at a time: while it runs, others take the ordinary way."""

    __slots__ = ("_connection", "_server", "argument", "end", "respond", "slot")

    def __init__(self, connection: HttpConnection, server: HttpServer, express: Express, end: bytes) -> None:
        self._connection = connection
        self._server = server
        self.argument: bytes = b""
        self.end: bytes = end
        """What follows the argument: this connection's usual header."""
        self.slot: Slot = Slot(express.request, False, False, True)
        self.respond: Respond = partial(connection.answered, self.slot)

    def found(self, head: bytes, body: bytes) -> None:
        """`respond`, and shorter where the answer can be written at once."""
        slot, server = self.slot, self._server
        transport = self._connection.let_go(slot)
        if transport is None:
            self.respond(Response(200, head, body))
            return
        if server.observe is not None:
            assert slot.request is not None
            server.observe(slot.request.route, 200, server.clock() - slot.started_s)
        transport.write(b"".join((head, server.tail, body)))
