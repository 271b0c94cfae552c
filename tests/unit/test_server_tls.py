"""Plain HTTP on a port that speaks TLS, and TLS on one that does not: told in words, and never in doubt."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop

from syncline.client import AsyncClient
from syncline.errors import OperationError, Outcome
from syncline.server.app import KvServer
from tests.helpers.http_wire import error_of, parse_answers
from tests.unit.test_server_app import TLS_FILES, settings

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(TLS_FILES / "cluster-ca.pem"))
    context.check_hostname = False
    return context


@pytest.mark.parametrize("loop", LOOPS)
def test_server_over_tls_tells_a_plain_client_to_use_https(
    tmp_path: Path, loop: str, caplog: pytest.LogCaptureFixture
) -> None:
    """OpenSSL sends no alert then: a write would be of unknown outcome though nothing can have been read."""
    caplog.set_level(logging.WARNING)

    async def scenario() -> None:
        config = settings(
            tmp_path, http_tls_cert=str(TLS_FILES / "node1.pem"), http_tls_key=str(TLS_FILES / "node1.key")
        )
        async with await KvServer.open(config) as server:
            assert "names 0000000000000001 and not 127.0.0.1" in caplog.text
            caplog.clear()
            plain = server.http_url.replace("https://", "http://")
            async with AsyncClient(plain) as client:
                for call in (client.put("a", b"v"), client.delete("a"), client.get("a")):
                    with pytest.raises(OperationError, match="use https://") as caught:
                        await call
                    assert caught.value.outcome is Outcome.NOT_APPLIED
            for request in (b"OPTIONS * HTTP/1.1\r\n", b"\r\n", b"\x05\x01\x00"):
                reader, writer = await asyncio.open_connection("127.0.0.1", int(plain.rsplit(":", 1)[1]))
                writer.write(request)
                writer.write_eof()
                answers = parse_answers(await reader.read())
                assert [answer.status for answer in answers] == [400]
                assert "https://" in str(error_of(answers[0].body)["message"])
                writer.close()
            async with AsyncClient(server.http_url, tls=trusting()) as client:
                await client.put("a", b"x" * 500_000)
                found = await client.get("a")
                assert found is not None
                assert found.value == b"x" * 500_000

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(asyncio.wait_for(scenario(), 30))
    told = [record for record in caplog.records if record.name.startswith("syncline.server")]
    assert not told, "a client's mistake is no fault of the server"


async def test_client_over_tls_to_a_plain_port_is_told_to_use_http(tmp_path: Path) -> None:
    async with (
        await KvServer.open(settings(tmp_path)) as server,
        AsyncClient(server.http_url.replace("http://", "https://"), retry_refused=False, timeout=0.5) as client,
    ):
        with pytest.raises(OperationError, match="use http://") as caught:
            await client.put("a", b"v")
        assert caught.value.outcome is Outcome.NOT_APPLIED


async def test_server_over_tls_answers_a_body_that_it_refuses(tmp_path: Path) -> None:
    """The client sends all of it before it reads: a close at once would lose the answer."""
    config = settings(tmp_path, http_tls_cert=str(TLS_FILES / "node1.pem"), http_tls_key=str(TLS_FILES / "node1.key"))
    async with await KvServer.open(config) as server:
        port = int(server.http_url.rsplit(":", 1)[1])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trusting())
        writer.write(b"PUT /key/a HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nContent-Length: 20000000\r\n\r\n" % port)
        writer.write(bytes(20_000_000))
        answers = parse_answers(await reader.read())
        assert [answer.status for answer in answers] == [413]
        writer.close()
