"""Waiting for a future that others wait for, too: who gives up neither ends it nor has to hear how it ended."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable
from pathlib import Path

import pytest

from syncline.errors import Closed
from syncline.node.futures import ReadFuture, settle_error
from syncline.platform.network import TcpNetwork
from syncline.platform.waiting import result_of
from tests.helpers.kv_node import KvWire
from tests.helpers.tasks import gives_up, nothing_reported


async def test_it_gives_the_result_or_the_error() -> None:
    loop = asyncio.get_running_loop()
    for late in (False, True):
        good: asyncio.Future[int] = loop.create_future()
        bad: asyncio.Future[int] = loop.create_future()
        if late:
            loop.call_soon(good.set_result, 7)
            loop.call_soon(bad.set_exception, Closed("gone"))
        else:
            good.set_result(7)
            bad.set_exception(Closed("gone"))
        assert await result_of(good) == 7
        with pytest.raises(Closed, match="gone"):
            await result_of(bad)


async def test_caller_that_gives_up_leaves_the_others_waiting() -> None:
    shared: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    first, second = (asyncio.create_task(result_of(shared)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    assert not shared.done()
    shared.set_result(7)
    assert await second == 7


async def test_the_end_of_the_future_itself_is_the_end_of_the_wait() -> None:
    shared: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(result_of(shared))
    await asyncio.sleep(0)
    shared.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_failure_after_an_abandoned_wait_is_not_reported() -> None:
    loop = asyncio.get_running_loop()
    with nothing_reported():
        plain: asyncio.Future[object] = loop.create_future()
        read = ReadFuture(loop=loop)
        waits: list[tuple[asyncio.Future[object], Awaitable[object]]] = [(plain, result_of(plain)), (read, read)]
        for future, wait in waits:
            await gives_up(wait)
            assert not future.done()
            settle_error(future, Closed("the node was closed"))
        await asyncio.sleep(0)


async def test_member_request_given_up_reports_no_failed_read() -> None:
    wire = KvWire()
    wire.backend.hold = True
    with nothing_reported():
        wire.send(b'POST /raft/remove HTTP/1.1\r\nHost: x\r\nContent-Length: 12\r\n\r\n{"name":"z"}')
        await wire.settle()
        (read, _), *_ = wire.backend.held
        await wire.site.close()
        settle_error(read, Closed("the node was closed"))
        await wire.settle()


class Silent(asyncio.Protocol):
    """Takes a connection, and shakes no hands."""

    def __init__(self, taken: asyncio.Future[asyncio.Transport]) -> None:
        self._taken = taken

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, _data: bytes) -> None:
        self._taken.set_result(self._transport)


async def test_a_dial_that_is_given_up_reports_nothing_when_its_handshake_fails() -> None:
    loop = asyncio.get_running_loop()
    taken: asyncio.Future[asyncio.Transport] = loop.create_future()
    network = TcpNetwork()
    listener = await network.listen(lambda: Silent(taken), "127.0.0.1", 0)
    tls = ssl.create_default_context(cafile=str(Path(__file__).parent / "tls" / "cluster-ca.pem"))
    with nothing_reported():
        before = asyncio.all_tasks()
        dialling = asyncio.create_task(network.connect(asyncio.Protocol, *listener.address, tls=tls, timeout_s=5))
        transport = await taken
        (making,) = asyncio.all_tasks() - before - {dialling}
        dialling.cancel()
        await asyncio.wait([dialling])
        assert dialling.cancelled()
        transport.abort()
        await asyncio.wait([making])
        assert isinstance(making.exception(), OSError)
        await asyncio.sleep(0)
    await listener.close()
