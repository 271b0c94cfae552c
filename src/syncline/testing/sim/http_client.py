"""A client of the servers' HTTP port in a simulation: it keeps one connection to each server, as long as that lasts.

Requests go as bytes over the simulated network into the server's own `HttpConnection`. Most are plain reads and writes
with one header, so that a connection takes the server's fast paths from its third request on. Some are sent together
with another one, some in two pieces, and some connections are closed while an answer is under way.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence
from typing import Final

from syncline.server.http.request import Request
from syncline.server.http.response import Response
from syncline.testing.linearizability.history import Call, ReadCall, Recorder, Result
from syncline.testing.sim.client import http_request, result_of
from syncline.testing.sim.http_connection import Answered, HttpClientConnection, request_bytes
from syncline.testing.sim.net import SimHost
from syncline.testing.sim.server import HTTP_PORT, SimServer

__all__ = ["HttpSender", "HttpSimClient"]

DIAL_S: Final = 1.0
PIPELINED: Final = 0.06
IN_PIECES: Final = 0.03
LEFT_EARLY: Final = 0.01
"""Shares of the requests: with another one behind them; in two pieces; with a connection that is closed too early."""

PIECE_S: Final = 0.003

FAULTY: Final = frozenset({400, 405, 408, 411, 413, 414, 415, 417, 421, 431, 500, 501, 505})
"""Statuses for a faulty message, or for a fault in the server's code: no request of these clients may have one."""


class HttpSender:
    """Connections of one client to the servers' HTTP ports, and what was sent on them.

    `fields`: header fields of each request, each line ended. `broken` is called with each answer that no server may
    give.
    """

    def __init__(self, host: SimHost, rng: random.Random, *, fields: bytes, broken: Callable[[str], None]) -> None:
        self.rng: random.Random = rng
        self.answered: int = 0
        """Answers that have come."""
        self._host = host
        self._fields = fields
        self._broken = broken
        self._connections: dict[str, HttpClientConnection] = {}
        self._unanswered: list[tuple[SimServer, int, Answered, bytes]] = []

    def unanswered(self) -> list[str]:
        """Requests whose connection is there, and which a server that still lives has not answered."""
        self._unanswered = [item for item in self._unanswered if not item[2].done()]
        return [
            f"{self._host.name} to life {life} of {server.name}: {sent!r}"
            for server, life, _, sent in self._unanswered
            if server.running and server.lives == life
        ]

    async def connection(self, server: SimServer) -> HttpClientConnection | None:
        """The connection to a server, or a new one; None if the server can't be reached."""
        known = self._connections.get(server.name)
        if known is not None and known.is_open:
            return known
        life = server.lives
        try:
            _, made = await self._host.connect(
                lambda: HttpClientConnection(life, self._broken), server.name, HTTP_PORT, timeout_s=DIAL_S
            )
        except OSError:  # a timeout is one, too
            return None
        assert isinstance(made, HttpClientConnection)
        self._connections[server.name] = made
        return made

    async def send(self, server: SimServer, connection: HttpClientConnection, *requests: Request) -> list[Answered]:
        """Send requests, in one way or another; what each of them will be answered."""
        sent = [request_bytes(request, self._fields) for request in requests]
        size = sum(map(len, sent))
        at_once = self.rng.randrange(1, size) if self.rng.random() < IN_PIECES else None
        answers = connection.ask(*sent, at_once=at_once)
        self._unanswered = [item for item in self._unanswered if not item[2].done()]
        self._unanswered += [(server, connection.life, *item) for item in zip(answers, sent, strict=True)]
        if at_once is not None:
            try:
                await asyncio.sleep(PIECE_S * self.rng.random())
            finally:
                connection.send_rest()
        if self.rng.random() < LEFT_EARLY:
            await asyncio.sleep(PIECE_S * self.rng.random())
            connection.close(abort=self.rng.random() < 0.5)
        return answers

    async def answer(self, server: SimServer, request: Request, timeout_s: float) -> Response | None:
        """The answer to one request; None if none came in time."""
        connection = await self.connection(server)
        if connection is None:
            return None
        [answer] = await self.send(server, connection, request)
        await asyncio.wait([answer], timeout=timeout_s)
        if not answer.done():
            self.gave_up(connection)
            return None
        response = answer.result()
        if response is not None:
            self.check(request, response)
        return response

    def check(self, request: object, response: Response) -> None:
        """Count an answer, and report one with a status of `FAULTY`."""
        self.answered += 1
        if response.status in FAULTY:
            self._broken(f"{request} is answered {response.status}: {response.body!r}")

    def gave_up(self, connection: HttpClientConnection) -> None:
        """An answer did not come in time: the client goes on with another connection, and may leave this one open."""
        if self.rng.random() < 0.5:
            connection.close(abort=True)
        connection.is_open = False


class HttpSimClient:
    """Calls on keys by HTTP, into a history. It waits for `timeout_s` at most; the servers may take longer."""

    def __init__(self, name: str, sender: HttpSender, recorder: Recorder, *, timeout_s: float) -> None:
        self.name = name
        self.sender: HttpSender = sender
        self._recorder = recorder
        self._timeout_s = timeout_s

    async def ask(self, server: SimServer, request: Call) -> Result | None:
        """Send a request; return its result, or None if the outcome is unknown, or nothing was sent."""
        connection = await self.sender.connection(server)
        if connection is None:
            return None
        calls = [(self.name, request)]
        if self.sender.rng.random() < PIPELINED and (key := getattr(request, "key", None)) is not None:
            calls.append((f"{self.name} again", ReadCall(key)))
        place = f"{server.name}{' (emptied)' if server.lost else ''}"
        tokens = [self._recorder.call(name, call, node=place) for name, call in calls]
        requests = [http_request(call, b"") for _, call in calls]
        answers = await self.sender.send(server, connection, *requests)
        results = [
            self._record(token, call, answer)
            for token, (_, call), answer in zip(tokens, calls, await self._answered(connection, answers), strict=True)
        ]
        return results[0]

    async def _answered(self, connection: HttpClientConnection, answers: Sequence[Answered]) -> list[Response | None]:
        await asyncio.wait(answers, timeout=self._timeout_s)
        if not all(answer.done() for answer in answers):
            self.sender.gave_up(connection)
        return [answer.result() if answer.done() else None for answer in answers]

    def _record(self, token: int, call: Call, response: Response | None) -> Result | None:
        if response is None:
            return None
        self.sender.check(call, response)
        result = result_of(call, response)
        if result is not None:
            self._recorder.returned(token, result)
        return result
