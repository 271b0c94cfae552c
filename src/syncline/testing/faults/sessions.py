"""Clients with sessions, which send a write again until they know what became of it, and also afterwards."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import msgspec

from syncline.client.schemas import ErrorAnswer
from syncline.client.session_schemas import SessionReply
from syncline.errors import Outcome
from syncline.server.http.request import Request as HttpRequest
from syncline.server.http.response import Response
from syncline.testing.faults.base import Trouble
from syncline.testing.linearizability.history import Call, NotApplied
from syncline.testing.sim.client import GRACE_S, http_request, result_of
from syncline.testing.sim.server import SimServer
from syncline.testing.sim.workload import Chooser, Workload

__all__ = ["sessions"]

SAME: Final = "a repeated command has the first answer"

CLIENTS: Final = 2

ATTEMPTS: Final = 8
"""Attempts of one write: then its outcome stays unknown."""

_opened = msgspec.json.Decoder(SessionReply)
_failed = msgspec.json.Decoder(ErrorAnswer)


async def sessions(trouble: Trouble) -> None:
    """Not a fault: clients whose writes have keys. They ask again on any server, and repeat what was answered."""
    workload = trouble.workload
    assert workload is not None, "a scenario has clients"
    seeds = [trouble.rng.getrandbits(64) for _ in range(CLIENTS)]
    clients = [_Client(trouble, workload, f"s{number}", seed) for number, seed in enumerate(seeds, 1)]
    await asyncio.gather(*(client.run() for client in clients))


class _Sent(msgspec.Struct):
    """A write whose answer is known."""

    request: HttpRequest
    status: int
    body: bytes


class _Client:
    """One client. Its writes are in the history of the run, each with all its attempts as one."""

    def __init__(self, trouble: Trouble, workload: Workload, name: str, seed: int) -> None:
        self._trouble = trouble
        self._workload = workload
        self._name = name
        self._rng = random.Random(seed)
        self._timeout_s = self._rng.choice([0.2, 0.5])
        self._query = b"timeout=%dms" % round(self._timeout_s * 1000)
        self._chooser = Chooser(workload, name, seed, self._timeout_s)
        self._session = ""
        self._count = 0
        self._sent: list[_Sent] = []

    async def run(self) -> None:
        rng, workload = self._rng, self._workload
        while not workload.stopping:
            await asyncio.sleep(rng.expovariate(1.0 / workload.think_s))
            if not self._session and not await self._open():
                continue
            chance = rng.random()
            if chance < 0.05:
                await self._end()
            elif chance < 0.4 and self._sent:
                await self._repeat(rng.choice(self._sent))
            else:
                await self._write(self._chooser.write())

    async def _open(self) -> bool:
        answer = await self._ask(HttpRequest("POST", b"/session", self._query, {}, b""))
        if answer is not None and answer.status == 200:
            self._session, self._count = _opened.decode(answer.body).id, 0
        return bool(self._session)

    async def _end(self) -> None:
        """End the session. What was sent in it is still repeated: it must not take effect again."""
        session, self._session = self._session, ""
        await self._ask(HttpRequest("DELETE", b"/session/" + session.encode(), self._query, {}, b""))

    async def _write(self, call: Call) -> None:
        """Ask until the outcome is known."""
        self._count += 1
        free = self._rng.random() < 0.2
        key = (
            f"{self._name} {self._session} {self._count}".replace(" ", "-")
            if free
            else f"{self._session}/{self._count}"
        )
        request = http_request(call, self._query)
        request.headers = {**request.headers, b"idempotency-key": key.encode()}
        token, doubt = self._workload.recorder.call(self._name, call), False
        for _ in range(ATTEMPTS):
            server = self._server()
            answer = None if server is None else await self._ask(request, server)
            if answer is None:
                doubt |= server is not None
                await self._trouble.wait(0.3)
                continue
            if answer.status == 410:
                self._session = ""
                if not doubt:
                    self._workload.recorder.returned(token, NotApplied("session_expired"))
                return
            result = result_of(call, answer)
            if result is not None and not isinstance(result, NotApplied):
                self._workload.recorder.returned(token, result)
                self._sent.append(_Sent(request, answer.status, answer.body))
                return
            doubt |= result is None
            await self._trouble.wait(0.3)
        if not doubt:
            self._workload.recorder.returned(token, NotApplied("no attempt was taken"))

    async def _repeat(self, sent: _Sent) -> None:
        """Send a write again that was answered: it has no effect, and the same answer, or none any more."""
        answer = await self._ask(sent.request)
        if answer is None or answer.status == 410:
            return
        if answer.status in (200, 412):
            if (answer.status, answer.body) != (sent.status, sent.body):
                key = sent.request.headers[b"idempotency-key"].decode()
                self._trouble.broken(SAME, f"{key}: {sent.body!r} before, and {answer.body!r} now")
        elif _failed.decode(answer.body).error.code == "idempotency_mismatch":
            self._trouble.broken(SAME, f"the same write is another one by now: {answer.body!r}")

    def _server(self) -> SimServer | None:
        running = [server for server in self._trouble.cluster.running if not server.retired]
        return self._rng.choice(running) if running else None

    async def _ask(self, request: HttpRequest, server: SimServer | None = None) -> Response | None:
        """The answer of a server; None if none came, or it does not know the outcome."""
        server = server or self._server()
        if server is None:
            return None
        again = msgspec.structs.replace(request, argument=b"", route="")
        future = server.serve(again)
        await asyncio.wait([future], timeout=self._timeout_s + GRACE_S)
        if not future.done():
            return None
        answer = future.result()
        unknown = answer.status >= 500 and _failed.decode(answer.body).error.outcome is Outcome.UNKNOWN
        return None if unknown else answer
