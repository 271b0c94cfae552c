"""A node of `up` is cut off from its peers and connected again; a node of its own can't be."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from syncline.cli.up.child import Child
from syncline.cli.up.cutting import CONNECT_ORDER, CUT_ORDER, CuttableNetwork, check_order_pipe, follow_orders
from syncline.cli.up.plan import NodePlan
from syncline.errors import ConfigError
from syncline.platform.network import TcpNetwork
from tests.helpers.command import syncline
from tests.helpers.ports import free_block

HOST = "127.0.0.1"
WELCOME = b"welcome"


class End(asyncio.Protocol):
    """One end of a link, which notes what comes and when it is over."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.made: asyncio.Future[asyncio.Transport] = loop.create_future()
        self.got: asyncio.Future[bytes] = loop.create_future()
        self.lost: asyncio.Future[None] = loop.create_future()
        self.welcome: asyncio.Future[bool] = loop.create_future()
        """Whether the node has taken the link: it says so at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.made.set_result(transport)

    def data_received(self, data: bytes) -> None:
        if data.startswith(WELCOME) and not self.welcome.done():
            self.welcome.set_result(True)
            data = data.removeprefix(WELCOME)
        if data:
            self.got.set_result(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)
        if not self.welcome.done():
            self.welcome.set_result(False)


class NodeEnd(End):
    """The end of the node that was dialled."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.made.result().write(WELCOME)


class Node:
    """A cuttable node that listens for peers and for clients."""

    def __init__(self, network: CuttableNetwork, peers: int, clients: int) -> None:
        self.network = network
        self.peers = peers
        self.clients = clients
        self.ends: asyncio.Queue[End] = asyncio.Queue()

    def accept(self) -> End:
        end = NodeEnd()
        self.ends.put_nowait(end)
        return end


@asynccontextmanager
async def running() -> AsyncIterator[Node]:
    peers = free_block(2)
    node = Node(CuttableNetwork(peers), peers, peers + 1)
    listeners = [await node.network.listen(node.accept, HOST, port) for port in (node.peers, node.clients)]
    try:
        yield node
    finally:
        for listener in listeners:
            await listener.close()


async def dial(port: int, network: TcpNetwork) -> End:
    end = End()
    await network.connect(lambda: end, HOST, port, timeout_s=5.0)
    return end


async def works(here: End, there: End) -> None:
    (await here.made).write(b"hello")
    assert await there.got == b"hello"


async def test_cut_ends_links_in_both_directions_and_leaves_clients() -> None:
    async with running() as node, running() as other:
        inbound = await dial(node.peers, other.network)
        accepted = await node.ends.get()
        await works(inbound, accepted)
        outbound = await dial(other.peers, node.network)
        await works(outbound, await other.ends.get())
        client = await dial(node.clients, other.network)
        served = await node.ends.get()
        node.network.cut()
        await asyncio.gather(inbound.lost, accepted.lost, outbound.lost)
        await works(client, served)
        for end in (client, served):
            (await end.made).abort()


async def test_cut_node_dials_and_takes_no_peer_until_it_is_connected() -> None:
    async with running() as node, running() as other:
        node.network.cut()
        with pytest.raises(ConnectionRefusedError, match="has cut this node off"):
            await dial(other.peers, node.network)
        turned_away = await dial(node.peers, other.network)
        await turned_away.lost
        assert node.ends.empty()
        node.network.connect_again()
        inbound = await dial(node.peers, other.network)
        await works(inbound, await node.ends.get())
        outbound = await dial(other.peers, node.network)
        await works(outbound, await other.ends.get())
        for end in (inbound, outbound):
            (await end.made).abort()


async def test_cut_while_a_peer_is_dialled_makes_no_link() -> None:
    async with running() as node, running() as other:
        dialling = asyncio.create_task(dial(other.peers, node.network))
        end = await other.ends.get()
        node.network.cut()
        (dialled,) = await asyncio.gather(dialling, return_exceptions=True)
        assert isinstance(dialled, ConnectionRefusedError | End)
        await end.lost


async def test_cut_is_ordered_by_the_pipe_of_up() -> None:
    async with running() as node, running() as other:
        orders, ours = os.pipe()
        try:
            follow_orders(asyncio.get_running_loop(), orders, node.network)
            inbound = await dial(node.peers, other.network)
            os.write(ours, CUT_ORDER)
            await inbound.lost
            os.write(ours, CUT_ORDER + CONNECT_ORDER)
            first = await node.ends.get()
            assert first.lost.done()
            while node.ends.empty():  # until the order is read: a link is refused before
                again = await dial(node.peers, other.network)
                await again.welcome
            (await again.made).abort()
        finally:
            os.close(ours)
            asyncio.get_running_loop().remove_reader(orders)
            os.close(orders)


async def test_orders_to_a_node_that_takes_none_do_not_stop_up(tmp_path: Path) -> None:
    """A node that is paused reads no pipe, and a full one blocked `up` for ever."""
    child = Child(NodePlan("a", str(tmp_path), http_port=1, peer_port=2, join=False, lost=False))
    watched, ours = os.pipe()
    sleeper = (sys.executable, "-c", "import signal; signal.pause()")
    process = await child.start(sleeper, watched)
    try:
        orders = sum(child.cut(off=number % 2 == 0) for number in range(200_000))
        assert 1000 < orders < 200_000
        assert child.running
    finally:
        process.kill()
        await child.follow(process)
        child.close()
        os.close(watched)
        os.close(ours)


def test_serve_refuses_a_lab_that_is_no_pipe_of_up(tmp_path: Path) -> None:
    """A node that runs by itself takes no orders, whatever it is given."""
    orders, ours = os.pipe()
    try:
        with pytest.raises(ConfigError, match="'syncline up'"):
            check_order_pipe(orders, None)
        with pytest.raises(ConfigError, match="'syncline up'"):
            check_order_pipe(orders, orders)
        check_order_pipe(orders, ours)
    finally:
        os.close(orders)
        os.close(ours)
    with open(os.devnull, encoding="ascii") as null, pytest.raises(ConfigError, match="'syncline up'"):
        check_order_pipe(null.fileno(), orders)
    ran = syncline("serve", "--data-dir", str(tmp_path), "--name", "a", "--lab-fd", "0")
    assert (ran.status, "--lab-fd is for nodes that 'syncline up' starts" in ran.err) == (2, True), ran
