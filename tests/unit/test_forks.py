"""A forked child of the program keeps neither a node's lock nor its port, nor its connections."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from syncline.platform.disk import OsDisk
from syncline.platform.network import TcpNetwork

DEADLINE_S = 10.0


def forked() -> tuple[int, int]:
    """A child that lives until the pipe is closed; its pid and the pipe."""
    alive, said = os.pipe()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.write(said, b"x")
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    assert os.read(alive, 1) == b"x"  # the child has let go by now
    os.close(alive)
    os.close(said)
    return pid, writer


def ended(child: tuple[int, int]) -> None:
    pid, writer = child
    assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the child lived all the time"
    os.close(writer)
    os.waitpid(pid, 0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_fork_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = str(tmp_path / "LOCK")
    lock = OsDisk().lock(path, b"1\n")
    child = forked()
    lock.release()
    OsDisk().lock(path, b"1\n").release()
    ended(child)


class Ends(asyncio.Protocol):
    """Notes that its connection has ended."""

    def __init__(self) -> None:
        self.made: asyncio.Future[asyncio.BaseTransport] = asyncio.get_running_loop().create_future()
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made.set_result(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(None)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
@pytest.mark.parametrize("closing", ["dialled", "accepted"])
async def test_fork_child_keeps_neither_port_nor_connections(closing: str) -> None:
    """The other end sees a connection end at once, and the port can be bound again."""
    network, accepted = TcpNetwork(), Ends()
    listener = await network.listen(lambda: accepted, "127.0.0.1", 0)
    port = listener.address[1]
    _, dialled = await network.connect(Ends, "127.0.0.1", port, timeout_s=DEADLINE_S)
    assert isinstance(dialled, Ends)
    await accepted.made
    child = forked()
    one, other = (dialled, accepted) if closing == "dialled" else (accepted, dialled)
    transport = one.made.result()
    assert isinstance(transport, asyncio.Transport)
    transport.close()
    async with asyncio.timeout(DEADLINE_S):
        await other.lost
    await listener.close()
    again = await network.listen(Ends, "127.0.0.1", port)
    await again.close()
    ended(child)
