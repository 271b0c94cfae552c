"""The lab's door of `up`: which orders it takes, from which page, with which token."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from syncline.cli.up.lab import Lab
from syncline.cli.up.plan import UpPlan, make_plan
from syncline.cli.up.supervisor import Supervisor

ORIGIN = "Origin: http://127.0.0.1:8081"


class FakeSupervisor:
    """Two nodes that run; n3 has ended."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, int]] = []
        self.started: list[str] = []
        self.cut_off: list[str] = []

    def cut(self, name: str, *, off: bool) -> bool:
        self.cut_off = [name] if off else []
        return name != "n3"

    async def start_again(self, name: str) -> bool:
        self.started.append(name)
        return name == "n3"

    def send(self, name: str, number: signal.Signals) -> bool:
        self.sent.append((name, number))
        return name != "n3"


class Door:
    """A door, and requests to it."""

    def __init__(self, plan: UpPlan, nodes: FakeSupervisor) -> None:
        self.plan = plan
        self.nodes = nodes
        self._port = int(plan.lab.rpartition(":")[2])

    async def ask(self, method: str, path: str, *fields: str, token: str | None = None) -> tuple[int, str]:
        """The status and the whole answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        shown = f"Authorization: Bearer {self.plan.lab_token if token is None else token}"
        host = [] if any(one.startswith("Host:") for one in fields) else [f"Host: 127.0.0.1:{self._port}"]
        lines = [f"{method} {path} HTTP/1.1", *host, shown, "Content-Length: 0", "Connection: close", *fields, "", ""]
        writer.write("\r\n".join(lines).encode())
        answer = (await reader.read()).decode()
        writer.close()
        return int(answer.split(" ", 2)[1]), answer


@asynccontextmanager
async def open_door() -> AsyncIterator[Door]:
    nodes = FakeSupervisor()
    lab = Lab(make_plan("nowhere", nodes=3, port=8080), cast("Supervisor", nodes))
    try:
        yield Door(await lab.open(), nodes)
    finally:
        await lab.close()


async def test_lab_kills_pauses_resumes_and_starts_nodes() -> None:
    async with open_door() as door:
        for path in ("/lab/kill/n1", "/lab/pause/n2", "/lab/resume/n2", "/lab/start/n3"):
            assert (await door.ask("POST", path, ORIGIN))[0] == 200
        assert door.nodes.sent == [("n1", signal.SIGKILL), ("n2", signal.SIGSTOP), ("n2", signal.SIGCONT)]
        assert door.nodes.started == ["n3"]


async def test_lab_cuts_nodes_off_and_connects_them_again() -> None:
    async with open_door() as door:
        assert (await door.ask("POST", "/lab/cut/n2", ORIGIN))[0] == 200
        assert '"cut":["n2"]' in (await door.ask("GET", "/lab/nodes"))[1]
        assert (await door.ask("POST", "/lab/connect/n2", ORIGIN))[0] == 200
        assert '"cut":[]' in (await door.ask("GET", "/lab/nodes"))[1]
        assert (await door.ask("POST", "/lab/cut/n3", ORIGIN))[0] == 409
        assert (await door.ask("POST", "/lab/cut/n1", token=""))[0] == 401
        assert door.nodes.sent == []


async def test_lab_refuses_what_it_does_not_know_or_can_not_do() -> None:
    async with open_door() as door:
        assert (await door.ask("POST", "/lab/kill/n9"))[0] == 404
        assert (await door.ask("POST", "/lab/erase/n1"))[0] == 404
        assert (await door.ask("GET", "/lab/kill/n1"))[0] == 404
        assert (await door.ask("POST", "/other"))[0] == 404
        assert (await door.ask("POST", "/lab/kill/n3"))[0] == 409
        assert (await door.ask("POST", "/lab/start/n1"))[0] == 409
        status, answer = await door.ask("GET", "/lab/nodes")
        assert (status, '"nodes":["n1","n2","n3"]' in answer) == (200, True)
        assert door.nodes.sent == [("n3", signal.SIGKILL)]


async def test_lab_refuses_other_tokens_pages_and_names() -> None:
    async with open_door() as door:
        assert (await door.ask("POST", "/lab/kill/n1", token=""))[0] == 401
        assert (await door.ask("POST", "/lab/kill/n1", token="é"))[0] == 401
        assert (await door.ask("POST", "/lab/kill/n1", "Origin: http://evil.example"))[0] == 403
        assert (await door.ask("POST", "/lab/kill/n1", "Host: evil.example"))[0] == 421
        assert door.nodes.sent == []


async def test_lab_lets_the_pages_of_its_nodes_ask_before_they_send() -> None:
    async with open_door() as door:
        fields = (ORIGIN, "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization")
        status, answer = await door.ask("OPTIONS", "/lab/kill/n1", *fields, token="")
        assert status == 204
        assert "Access-Control-Allow-Origin: http://127.0.0.1:8081" in answer
        assert door.nodes.sent == []


async def test_lab_token_is_new_at_each_start() -> None:
    async with open_door() as first, open_door() as second:
        assert first.plan.lab_token != second.plan.lab_token
        assert len(first.plan.lab_token) >= 22
        assert (await second.ask("POST", "/lab/kill/n1", token=first.plan.lab_token))[0] == 401
