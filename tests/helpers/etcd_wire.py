"""etcd's JSON gateway over a fake node: requests as dicts, answers as dicts, streams message by message."""

from __future__ import annotations

import base64
import json
from typing import Any

from syncline.platform.entropy import system_entropy
from syncline.server.api.site import Site
from syncline.server.auth.passwords import Passwords
from syncline.server.etcd.face import EtcdFace
from syncline.server.etcd.gateway import JsonGateway
from syncline.server.etcd.setup import open_face
from tests.helpers.auth_site import CHEAP, AuthWire, InlineWorkers
from tests.helpers.http_wire import answers_so_far
from tests.helpers.kv_node import FakeBackend, KvWire

MAX_REQUEST_BYTES = 100_000

Document = dict[str, Any]


def b64(text: str | bytes) -> str:
    """Bytes as the gateway has them."""
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def mounted(site: Site, backend: FakeBackend) -> EtcdFace:
    """Serve the gateway on a site, too."""
    face = open_face(
        backend,
        gate=site.gate,
        watches=site.watches,
        tasks=site.tasks,
        entropy=system_entropy,
        max_request_bytes=MAX_REQUEST_BYTES,
    )
    JsonGateway(face, site.tasks).add_to(site.router)
    return face


class EtcdWire(KvWire):
    """A connection to a site with the gateway."""

    def __init__(self, backend: FakeBackend | None = None) -> None:
        super().__init__(backend)
        self.site.gate.passwords = Passwords(InlineWorkers(), system_entropy, CHEAP)
        self.face = mounted(self.site, self.backend)

    async def post(self, route: str, body: Document | bytes | None = None, *fields: str) -> tuple[int, Document]:
        """Send one request; the status and the document of its answer."""
        return await post(self, route, body, *fields)

    async def good(self, route: str, body: Document | None = None) -> Document:
        """The document of an answer with status 200."""
        status, document = await self.post(route, body)
        assert status == 200, document
        return document

    async def refused(self, route: str, body: Document | bytes | None = None) -> tuple[int, int, str]:
        """Status, code and text of a refusal, whose form is checked."""
        status, document = await self.post(route, body)
        assert set(document) == {"error", "message", "code"}, document
        assert document["error"] == document["message"]
        return status, document["code"], document["error"].removeprefix("etcdserver: ")

    async def open(self, route: str, *documents: Document) -> None:
        """Begin a stream."""
        body = "".join(map(json.dumps, documents)).encode()
        lines = [f"POST /v3/{route} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", "", ""]
        self.send("\r\n".join(lines).encode() + body)
        await self.settle()

    @property
    def messages(self) -> list[Document]:
        """The messages of the stream so far."""
        answer = answers_so_far(self.received)[-1]
        assert answer.status == 200
        assert answer.headers["transfer-encoding"] == "chunked"
        return [json.loads(line) for line in answer.body.splitlines()]

    async def results(self) -> list[Document]:
        """What the stream's messages hold, without their headers."""
        await self.settle()
        return [{name: value for name, value in one["result"].items() if name != "header"} for one in self.messages]


class GuardedEtcdWire(AuthWire):
    """The same where clients need credentials: users `root`, `ann` and `bob` (`auth_site.py`)."""

    def __init__(self, *, max_user_requests: int = 0, max_user_write_bytes: int = 0) -> None:
        super().__init__(max_user_requests=max_user_requests, max_user_write_bytes=max_user_write_bytes)
        self.face = mounted(self.site, self.backend)

    async def post(self, route: str, body: Document | bytes | None = None, *fields: str) -> tuple[int, Document]:
        """Send one request; the status and the document of its answer."""
        return await post(self, route, body, *fields)


async def post(wire: KvWire, route: str, body: Document | bytes | None = None, *fields: str) -> tuple[int, Document]:
    """Send one request to `/v3/ROUTE`, or to a path that begins with a slash."""
    data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    answer = await wire.ask("POST", route if route.startswith("/") else f"/v3/{route}", data, *fields)
    return answer.status, json.loads(answer.body)
