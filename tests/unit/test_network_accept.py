"""New connections of a listening port: a bounded number in each turn of the event loop, whichever loop it is."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

import pytest

from syncline.platform.network import ACCEPTS_A_TURN, TcpNetwork
from tests.helpers.left_open import nothing_left_open
from tests.helpers.transport import runner

CLIENTS = 300


class Count:
    """Connections that were made and lost."""

    def __init__(self) -> None:
        self.made = self.lost = 0
        self.all_lost = asyncio.Event()

    def protocol(self) -> asyncio.Protocol:
        return Counted(self)


class Counted(asyncio.Protocol):
    def __init__(self, count: Count) -> None:
        self._count = count

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._count.made += 1
        self._count.all_lost.clear()

    def connection_lost(self, exc: Exception | None) -> None:
        count = self._count
        count.lost += 1
        if count.lost == count.made:
            count.all_lost.set()


def dialled(stack: ExitStack, address: tuple[str, int], count: int) -> list[socket.socket]:
    """Connections that the system holds until the server takes them."""
    return [stack.enter_context(socket.create_connection(address)) for _ in range(count)]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_network_takes_a_burst_of_connections_some_a_turn(loop: str) -> None:
    """One a turn would let new clients wait for seconds behind busy ones; all in one turn would hold up the loop."""

    async def check() -> None:
        count = Count()
        listener = await TcpNetwork().listen(count.protocol, "127.0.0.1", 0)
        with ExitStack() as stack:
            dialled(stack, listener.address, CLIENTS)
            each: list[int] = []
            while count.made < CLIENTS:
                before = count.made
                await asyncio.sleep(0)
                each.append(count.made - before)
            assert max(each) <= ACCEPTS_A_TURN
            assert len(each) <= 4 * CLIENTS / ACCEPTS_A_TURN
        await count.all_lost.wait()
        await listener.close()

    runner(loop)(check())


@pytest.mark.parametrize("turns", range(8))
def test_network_that_closes_in_a_burst_leaves_no_socket(turns: int) -> None:
    async def check() -> None:
        complaints: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        count = Count()
        listener = await TcpNetwork().listen(count.protocol, "127.0.0.1", 0)
        with ExitStack() as stack:
            dialled(stack, listener.address, 100)
            for _ in range(turns):
                await asyncio.sleep(0)
            await listener.close()
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(listener.address)
        if count.made:
            await count.all_lost.wait()
        assert not complaints

    with nothing_left_open():
        runner("uvloop")(check())
