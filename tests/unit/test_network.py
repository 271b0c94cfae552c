"""The real network's corners that the transport's tests do not reach."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import warnings

import pytest

from syncline.platform.network import TcpNetwork
from tests.support import run


class Closing(asyncio.Protocol):
    """Closes whatever connects."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


@pytest.mark.parametrize("turns", range(6))
def test_a_connection_that_arrives_while_the_port_closes_is_not_left_behind(turns: int) -> None:
    async def check() -> None:
        complaints: list[dict[str, object]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        listener = await TcpNetwork().listen(Closing, "127.0.0.1", 0)
        with socket.create_connection(listener.address) as client:
            for _ in range(turns):
                await asyncio.sleep(0)
            await listener.close()
            for _ in range(6):
                await asyncio.sleep(0)
            assert not complaints
            client.settimeout(5)
            with contextlib.suppress(ConnectionResetError):  # closed before it was accepted: the system resets it
                assert client.recv(1) == b"", "the other end was closed"

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run(check())
        gc.collect()
    assert not [str(warning.message) for warning in caught if "unclosed" in str(warning.message)]
