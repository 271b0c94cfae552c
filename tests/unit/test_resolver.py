"""Look-ups of host names: one per name at a time, none that holds up others, and the last address as a fallback."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from syncline.platform import resolver
from syncline.platform.network import TcpNetwork
from syncline.platform.once import start_once
from syncline.platform.resolver import Resolver

FOUND = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))
DEADLINE_S = 10.0


class Closing(asyncio.Protocol):
    """Closes what connects."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class NameServer:
    """Stands in for the system's resolver. `hanging` names get no answer until `answer` is set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[str] = []
        self.hanging: set[str] = set()
        self.unknown: set[str] = set()
        self.answer = threading.Event()
        self._real = socket.getaddrinfo
        monkeypatch.setattr("syncline.platform.resolver.socket.getaddrinfo", self._look_up)

    def _look_up(self, host: str, port: int | None, **options: int) -> object:
        if options.get("flags"):
            return self._real(host, port, **options)
        self.asked.append(host)
        if host in self.hanging:
            assert self.answer.wait(DEADLINE_S)
        if host in self.unknown:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [FOUND]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> NameServer:
    return NameServer(monkeypatch)


async def test_resolver_numeric_address_needs_no_look_up(names: NameServer) -> None:
    assert [info[4] for info in await Resolver().addresses("127.0.0.1", 80)] == [("127.0.0.1", 80)]
    assert [info[4] for info in await Resolver().addresses("::1", 80)] == [("::1", 80, 0, 0)]
    assert names.asked == []


async def test_resolver_name_that_hangs_holds_up_no_other(names: NameServer) -> None:
    looked_up = Resolver()
    names.hanging.add("c")
    waiting = [asyncio.ensure_future(looked_up.addresses("c", port)) for port in range(1, 40)]
    for name in ("a", "b"):
        [found] = await looked_up.addresses(name, 7)
        assert found[4] == ("127.0.0.1", 7)
    assert sorted(names.asked) == ["a", "b", "c"], "one look-up for all that wait for the name"
    waiting[0].cancel()
    names.answer.set()
    for port, done in enumerate(await asyncio.gather(*waiting[1:]), 2):
        assert done[0][4] == ("127.0.0.1", port)


@pytest.mark.parametrize("trouble", ["hanging", "unknown"])
async def test_resolver_falls_back_to_the_last_address(
    names: NameServer, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(resolver, "PATIENCE_S", 0.01)
    looked_up = Resolver()
    await looked_up.addresses("c", 7)
    getattr(names, trouble).add("c")
    [found] = await looked_up.addresses("c", 8)
    assert found[4] == ("127.0.0.1", 8)
    names.answer.set()


async def test_resolver_unknown_name_raises_what_the_system_says(names: NameServer) -> None:
    names.unknown.add("x")
    with pytest.raises(socket.gaierror):
        await Resolver().addresses("x", 1)


async def test_resolver_look_ups_are_bounded(names: NameServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resolver, "MAX_LOOKUPS", 3)
    looked_up = Resolver()
    await looked_up.addresses("known", 1)
    names.hanging |= {"a", "b", "c"}
    waiting = [asyncio.ensure_future(looked_up.addresses(name, 1)) for name in "abc"]
    await asyncio.sleep(0)
    with pytest.raises(OSError, match="no answer yet"):
        await looked_up.addresses("d", 1)
    assert len(await looked_up.addresses("known", 1)) == 1
    names.answer.set()
    await asyncio.gather(*waiting)
    assert len(await looked_up.addresses("d", 1)) == 1


async def test_network_does_not_use_the_default_executor(names: NameServer) -> None:
    """The program may have filled it: a node must open and be dialled all the same."""
    loop = asyncio.get_running_loop()
    full, release = ThreadPoolExecutor(1), threading.Event()
    loop.set_default_executor(full)
    blocked = loop.run_in_executor(None, release.wait, DEADLINE_S)
    network = TcpNetwork()
    listener = await network.listen(Closing, "a", 0)
    transport, _ = await network.connect(asyncio.Protocol, "a", listener.address[1], timeout_s=DEADLINE_S)
    assert not blocked.done()
    transport.abort()
    await listener.close()
    release.set()
    assert await blocked


def test_start_once_gives_the_error_of_its_work() -> None:
    def work() -> None:
        raise KeyError("no")

    with pytest.raises(KeyError):
        start_once("test", work).result(DEADLINE_S)


def test_start_once_without_a_thread_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(RuntimeError, match="can't start"):
        start_once("test", list).result(DEADLINE_S)
