"""The real network's corners that the transport's tests do not reach."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator

import pytest
import uvloop

from syncline.platform.network import TcpNetwork
from tests.helpers.left_open import nothing_left_open


class Closing(asyncio.Protocol):
    """Closes whatever connects."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


@pytest.mark.parametrize("turns", range(6))
async def test_connection_that_arrives_while_the_port_closes_is_closed(turns: int) -> None:
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

    with nothing_left_open():
        await check()


class Stalled(asyncio.Protocol):
    """Finds the loop at a standstill for longer than the dial may take, at the moment when its connection comes up."""

    def __init__(self, standstill_s: float) -> None:
        self._standstill_s = standstill_s
        self.made = False
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.made = True
        end_s = time.monotonic() + self._standstill_s
        while time.monotonic() < end_s:
            pass  # as work that does not give the loop a turn

    def connection_lost(self, _error: Exception | None) -> None:
        self.lost.set()


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_a_connection_that_came_up_is_not_taken_away_without_a_word(
    runner: Callable[[Coroutine[None, None, None]], None],
) -> None:
    """A node that loads its state may stand still for seconds; uvloop closes in silence what is cancelled then."""

    async def check() -> None:
        listener = await TcpNetwork().listen(asyncio.Protocol, "127.0.0.1", 0)
        protocol = Stalled(standstill_s=0.3)
        try:
            transport, _ = await TcpNetwork().connect(lambda: protocol, *listener.address, timeout_s=0.1)
        except TimeoutError:
            async with asyncio.timeout(5):
                await protocol.lost.wait()
        else:
            assert not transport.is_closing()
            transport.close()
            async with asyncio.timeout(5):
                await protocol.lost.wait()
        assert protocol.made
        await listener.close()

    runner(check())


ABORTED = """
import asyncio, gc, os, uvloop
from syncline.platform.network import TcpNetwork

class Aborting(asyncio.Protocol):
    def connection_made(self, transport):
        transport.abort()

async def main():
    listener = await TcpNetwork().listen(asyncio.Protocol, "127.0.0.1", 0)
    connected = [await TcpNetwork().connect(Aborting, *listener.address, timeout_s=5) for _ in range(4)]
    opened = [os.open(os.devnull, os.O_RDONLY) for _ in range(8)]
    connected.clear()
    gc.collect()
    for number in opened:
        os.close(number)
    await listener.close()

with asyncio.Runner(loop_factory=LOOP.new_event_loop) as runner:
    runner.run(main())
"""


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_connection_that_is_aborted_as_it_comes_up_closes_no_other_file(loop: str) -> None:
    """A socket object whose descriptor uvloop has closed would close whatever has got its number meanwhile."""
    command = [sys.executable, "-c", ABORTED.replace("LOOP", loop)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


async def test_a_kind_of_address_that_the_system_does_not_know_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name may have IPv6 addresses on a machine whose kernel has no IPv6."""

    class WithoutIpv6(socket.socket):
        def __init__(self, family: int = -1, kind: int = -1, protocol: int = -1, fileno: int | None = None) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, kind, protocol, fileno)

    listener = await TcpNetwork().listen(Closing, "127.0.0.1", 0)
    port = listener.address[1]

    real = socket.getaddrinfo

    def look_up(host: str, at: int | None, **options: int) -> object:
        if options.get("flags"):
            return real(host, at, **options)
        found = [(socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1")]
        return [(family, socket.SOCK_STREAM, 0, "", (host, port)) for family, host in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "socket", WithoutIpv6)
    transport, _ = await TcpNetwork().connect(asyncio.Protocol, "both", port, timeout_s=5)
    transport.close()
    await listener.close()


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    """The process can open nothing meanwhile."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_free = os.dup(0)
    os.close(next_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_free, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run])
def test_port_without_descriptors_is_not_blamed_on_the_address(
    runner: Callable[[Coroutine[None, None, None]], None],
) -> None:
    """The loops pass over an address of which they can't make a socket, and tell nobody why."""

    async def check() -> None:
        told = r"can't listen on 127\.0\.0\.1:0: Too many open files"
        with no_descriptors(), pytest.raises(OSError, match=told) as raised:
            await TcpNetwork().listen(Closing, "127.0.0.1", 0)
        assert raised.value.errno == errno.EMFILE

    runner(check())
