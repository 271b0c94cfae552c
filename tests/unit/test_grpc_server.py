"""gRPC on a real server: beside HTTP/1.1 on one port, over plain sockets and TLS, and without the extra."""

from __future__ import annotations

import asyncio
import io
import logging
import ssl
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, StreamEnded, TrailersReceived

from syncline.client import AsyncClient
from syncline.server.app import KvServer
from syncline.server.etcd.errors import UNAVAILABLE
from syncline.server.etcd.messages import Message
from syncline.server.etcd.protobuf import decode, encode
from syncline.server.http2.header_blocks import HeaderDecoder, field
from syncline.server.logs import set_up_logging
from tests.helpers.http2_wire import PUT, RANGE, WATCH, framed, kind_of
from tests.unit.test_server_app import TLS_FILES, settings


class Channel:
    """A client with one call at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._client = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._client.initiate_connection()

    @classmethod
    async def open(cls, server: KvServer, tls: ssl.SSLContext | None = None) -> Channel:
        port = int(server.http_url.rsplit(":", 1)[1])
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls))

    async def call(self, path: str, message: Message) -> Message:
        """The answer. Raises `ConnectionError` with the reason if the server ends the connection."""
        self._ask(path, message, is_last=True)
        received = b""
        while True:
            for event in await self._events():
                if isinstance(event, DataReceived):
                    received += event.data
                elif isinstance(event, StreamEnded):
                    return decode(kind_of(path).replace("Request", "Response"), received[5:])
                elif isinstance(event, ConnectionTerminated):
                    raise ConnectionError(event.additional_data)

    async def begin(self, path: str, message: Message) -> None:
        """Open a stream with a first message, and wait for its first answer."""
        self._ask(path, message, is_last=False)
        while not any(isinstance(event, DataReceived) for event in await self._events()):
            pass

    async def status(self) -> str:
        """The status with which the open stream ends."""
        while True:
            for event in await self._events():
                if isinstance(event, TrailersReceived):
                    return str(dict(event.headers)["grpc-status"])  # type: ignore[index]  # text: `header_encoding`

    def _ask(self, path: str, message: Message, *, is_last: bool) -> None:
        client, stream = self._client, self._client.get_next_available_stream_id()
        head = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
        ]
        client.send_headers(stream, head)
        client.send_data(stream, framed(encode(kind_of(path), message)), end_stream=is_last)

    async def _events(self) -> list[Event]:
        self._writer.write(self._client.data_to_send())
        data = await self._reader.read(65_536)
        assert data, "the server has closed the connection"
        return self._client.receive_data(data)

    def close(self) -> None:
        self._writer.close()


async def test_grpc_and_http1_see_the_same_keys(tmp_path: Path) -> None:
    async with await KvServer.open(settings(tmp_path)) as server, AsyncClient(server.http_url) as client:
        channel = await Channel.open(server)
        put = await channel.call(PUT, {"key": b"a", "value": b"by grpc"})
        found = await client.get("a")
        assert found is not None
        assert found.value == b"by grpc"
        header = put["header"]
        assert isinstance(header, dict)
        assert header["revision"] == found.mod_revision
        await client.put("a", b"by http")
        got = await channel.call(RANGE, {"key": b"a"})
        assert isinstance(got["kvs"], list)
        assert got["kvs"][0]["value"] == b"by http"
        assert b'route="POST /etcdserverpb.KV/Put",status="200"' in server.metrics.render()
        channel.close()


async def test_grpc_over_tls_is_negotiated_and_others_keep_http1(tmp_path: Path) -> None:
    config = settings(tmp_path, http_tls_cert=str(TLS_FILES / "node1.pem"), http_tls_key=str(TLS_FILES / "node1.key"))
    async with await KvServer.open(config) as server:
        context = ssl.create_default_context(cafile=str(TLS_FILES / "cluster-ca.pem"))
        context.check_hostname = False
        context.set_alpn_protocols(["h2"])
        channel = await Channel.open(server, context)
        assert "header" in await channel.call(PUT, {"key": b"a", "value": b"1"})
        channel.close()
        context.set_alpn_protocols(["h2", "http/1.1"])
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.http_url.rsplit(":", 1)[1]), ssl=context)
        tls = writer.get_extra_info("ssl_object")
        assert tls.selected_alpn_protocol() == "http/1.1"
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        writer.close()


@pytest.mark.parametrize(
    ("extra", "setting", "why"),
    [(False, "on", "pip install 'syncline[etcd-api]'"), (True, "off", "does not serve clients of etcd")],
)
async def test_grpc_that_is_not_offered_is_explained_to_client_and_log(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    extra: bool,
    setting: str,
    why: str,
) -> None:
    caplog.set_level(logging.INFO)
    if not extra:
        monkeypatch.setattr("syncline.server.etcd.grpc.offer.find_spec", lambda _: None)
    assert util.find_spec("hpack") is not None
    async with await KvServer.open(settings(tmp_path, etcd_api=setting)) as server:
        channel = await Channel.open(server)
        with pytest.raises(ConnectionError, match="etcd") as caught:
            await channel.call(PUT, {"key": b"a"})
        assert why.encode() in caught.value.args[0]
        assert why in caplog.text
        channel.close()


def test_grpc_offered_imports_its_package_before_a_client_comes() -> None:
    """The import takes 0.2 s on a slow machine: the first client's connection took that from the event loop."""
    code = (
        "import sys; from syncline.server.etcd.grpc.offer import offer_grpc;"
        " from syncline.server.http.server import HttpServer; before = 'hpack' in sys.modules;"
        " offer_grpc(HttpServer(lambda *_: None), observe=lambda *_: None); print(before, 'hpack' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False True\n"


async def test_grpc_server_that_stops_ends_open_watches(tmp_path: Path) -> None:
    """With a status, after which the client watches at another node."""
    async with await KvServer.open(settings(tmp_path)) as server:
        channel = await Channel.open(server)
        await channel.begin(WATCH, {"create_request": {"key": b"a"}})
    assert await channel.status() == str(UNAVAILABLE)
    channel.close()


def test_log_at_debug_level_has_no_token_of_a_client() -> None:
    """The package that decodes headers logs each of them."""
    stream = io.StringIO()
    root = logging.getLogger()
    level = root.level
    handler = set_up_logging(level="debug", style="text", stream=stream)
    try:
        logging.getLogger("syncline.test").debug("shown")
        HeaderDecoder(1000).decode(b"\x83\x86" + field(b":path", PUT.encode()) + field(b"token", b"secret.1"))
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    assert "shown" in stream.getvalue()
    assert "secret" not in stream.getvalue()
