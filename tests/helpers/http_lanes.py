"""A connection whose reads and writes of keys take the fast paths, or do not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, TypeAlias

from syncline.server.http.limits import HttpLimits
from syncline.server.http.observing import Observe
from syncline.server.http.request import Request
from syncline.server.http.response import Response
from syncline.server.http.server import HttpServer
from syncline.server.http.shortcuts import FastRequest, FastRoute
from tests.helpers.http_wire import Wire, get

__all__ = ["SMALL", "Lane"]

SMALL: Final = HttpLimits(
    max_url_bytes=90, max_header_bytes=200, max_headers=5, max_body_bytes=50, max_in_flight=2, max_held_bytes=400,
    max_total_held_bytes=900,
)  # fmt: skip
"""Limits that a test can pass."""

Take: TypeAlias = Callable[[str, FastRequest], None]


class Lane(Wire):
    """A connection whose reads and writes of keys take the fast paths, or do not."""

    def __init__(
        self, *, fast: bool = True, hold: bool = False, limits: HttpLimits = SMALL, observe: Observe | None = None
    ) -> None:
        self.told: list[tuple[str, int, float]] = []
        server = HttpServer(
            lambda _, __: None,
            limits=limits,
            observe=observe or (lambda *answer: self.told.append(answer[:3])),
            clock=lambda: self.now_s,
            wall_time_s=lambda: 0.0,
        )
        self.taken = 0
        self.taken_writes = 0
        super().__init__(server=server)
        self.transport._high_water = 300
        server.shared.handler = self.hold if hold else self.echo
        if fast:
            self.serve(self.take_fast)

    def serve(self, fast: Take) -> None:
        """Have this function answer the requests of the fast paths."""
        read, write = (
            FastRoute(method.encode() + b" /key/", Request(method, b"", b"", {}, b""), partial(fast, method))
            for method in ("GET", "PUT")
        )
        self.server.shared.fast_get, self.server.shared.fast_writes = read, (write,)

    def take_fast(self, method: str, request: FastRequest) -> None:
        """Does with it as the handler does with a request that was read."""
        self.taken += 1
        self.taken_writes += method == "PUT"

        def respond(answer: Response) -> None:
            if answer.status == 200:
                request.found(answer.head, answer.body)
            else:
                request.respond(answer)

        made = Request(method, b"/key/" + request.argument, b"", request.headers, request.body)
        self.server.shared.handler(made, respond)

    def open(self, first: bytes = get("/")) -> None:
        """Send what a lane begins with: a header that came twice before."""
        for _ in range(3):
            self.send(first)
            for position in range(len(self.responds)):
                self.answer(position)
            self.responds.clear()
        self.transport.written.clear()
        self.requests.clear()
        self.taken = self.taken_writes = 0
