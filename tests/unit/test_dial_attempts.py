"""Dials of an outgoing connection: one at a time, and none after it was cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from syncline.transport.connection import Connection, ConnectionOwner
from syncline.transport.dial_attempts import DialAttempts
from syncline.transport.dialling import Dialler
from syncline.transport.messages import PeerAddress
from syncline.transport.stall import StallWatch

ADDRESS = PeerAddress("127.0.0.1", 7100)


class Line:
    """A `Dialler` whose dials end when the test says so, even if they were cancelled meanwhile."""

    def __init__(self) -> None:
        self.dials: list[tuple[Callable[[Connection], None], asyncio.Future[None]]] = []
        self.ended = 0

    async def connect(self, owner: ConnectionOwner, address: PeerAddress, made: Callable[[Connection], None]) -> None:
        end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.dials.append((made, end))
        try:
            while not end.done():
                try:
                    await asyncio.shield(end)
                except asyncio.CancelledError:
                    continue  # as a connection that comes up at that very moment
                except OSError:
                    break
            end.result()
        finally:
            self.ended += 1


def attempts(line: Line, failed: list[str]) -> DialAttempts:
    return DialAttempts(cast("Dialler", line), cast("ConnectionOwner", None), "dial", failed.append)


def connection(unsent: int = 0, sent: int = 0, excused_s: float = 0.0) -> Connection:
    """As much of a connection as is looked at."""

    class Double:
        unsent_bytes = unsent
        sent_bytes = sent

        def waited_s(self, since_s: float, now_s: float) -> float:
            return now_s - max(since_s, excused_s)

    return cast("Connection", Double())


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_dial_that_connects_after_it_was_cancelled_is_not_the_present_one() -> None:
    """Otherwise a link would use a connection to an address that it has left."""
    line, failed = Line(), list[str]()
    dials = attempts(line, failed)
    first, second = connection(), connection()
    dials.start(ADDRESS)
    await turns()
    dials.start(ADDRESS)
    await turns()
    line.dials[1][0](second)
    line.dials[0][0](first)
    assert dials.has_made(second)
    assert not dials.has_made(first)
    dials.cancel()
    assert not dials.has_made(second)
    for _, end in line.dials:
        end.set_result(None)
    await turns()
    assert (line.ended, failed) == (2, [])


async def test_dial_that_fails_after_it_was_cancelled_is_not_reported() -> None:
    """The link would fall back to WAITING while its new dial is under way, and dial twice."""
    line, failed = Line(), list[str]()
    dials = attempts(line, failed)
    dials.start(ADDRESS)
    await turns()
    dials.start(ADDRESS)
    await turns()
    line.dials[0][1].set_exception(OSError(111, "refused"))
    await turns()
    assert failed == []
    line.dials[1][1].set_exception(OSError(111, "refused"))
    await turns()
    assert failed == ["can't connect to 127.0.0.1:7100: refused"]


async def test_dial_that_was_cancelled_in_its_pause_does_not_start() -> None:
    started: list[str] = []
    second = asyncio.Event()
    dials = attempts(Line(), [])
    dials.later(0.0, lambda: started.append("first"))
    dials.cancel()
    dials.later(0.0, second.set)
    await asyncio.wait_for(second.wait(), 10)
    assert started == []


def test_stall_counts_bytes_that_the_system_took_while_more_waits() -> None:
    watch = StallWatch()
    watch.start(10.0)
    assert watch.silent_s(connection(unsent=5, sent=5), 12.0) == 2.0, "nothing was taken"
    assert watch.silent_s(connection(unsent=5, sent=9), 13.0) == 0.0, "four bytes were"
    assert watch.silent_s(connection(unsent=0, sent=20), 15.0) == 2.0, "into a buffer that has room: no sign of life"
    assert watch.silent_s(connection(unsent=0, sent=20, excused_s=16.0), 17.0) == 1.0, "this node did not listen"
    watch.heard_s = 18.0
    assert watch.silent_s(connection(), 18.5) == 0.5
