"""Keep-alives that are gathered on a node: how they are answered, and what becomes of them when it closes."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from syncline.errors import Rejected, SynclineError
from syncline.kv.lease_caller import LeaseCaller
from syncline.kv.lease_calls import KeepAlive, LeaseTime, decode_call


class SilentNode:
    """A leader that does not answer."""

    async def ask_leader(self, data: bytes, *, timeout: float) -> bytes:
        await asyncio.get_running_loop().create_future()
        raise AssertionError(data)


@pytest.mark.parametrize("turns", range(5))
async def test_lease_caller_that_closes_cancels_each_call(turns: int) -> None:
    """In whichever turn it closes: gathered, about to be asked, or asked."""
    caller = LeaseCaller(SilentNode(), gather_s=0.0)
    future = caller.keep_alive([7], 60.0)
    for _ in range(turns):
        await asyncio.sleep(0)
    await caller.close()
    async with asyncio.timeout(5):
        await asyncio.wait([future])
    assert future.cancelled()


class Answering:
    """A leader that answers when the test says it: all leases have 4 s, but for 9, which does not exist."""

    def __init__(self) -> None:
        self.asked: list[KeepAlive] = []
        self.error: SynclineError | None = None

    async def ask_leader(self, data: bytes, *, timeout: float) -> bytes:
        call = decode_call(data)
        assert isinstance(call, KeepAlive)
        self.asked.append(call)
        if self.error is not None:
            raise self.error
        return msgspec.msgpack.encode(
            [LeaseTime(0, 0) if lease == 9 else LeaseTime(4000, 4000) for lease in call.leases]
        )


async def test_lease_caller_calls_back_each_caller_with_its_own_time() -> None:
    leader, called = Answering(), dict[int, tuple[LeaseTime | None, SynclineError | None]]()
    caller = LeaseCaller(leader, gather_s=0.0)
    for lease in (7, 9, 8):
        caller.keep_alive_then(lease, 60.0, lambda time, error, lease=lease: called.update({lease: (time, error)}))  # type: ignore[misc]
    assert await caller.keep_alive([8, 9], 60.0) == [LeaseTime(4000, 4000), LeaseTime(0, 0)]
    assert [call.leases for call in leader.asked] == [(7, 9, 8)], "one call names each lease once"
    assert called == {7: (LeaseTime(4000, 4000), None), 8: (LeaseTime(4000, 4000), None), 9: (LeaseTime(0, 0), None)}
    await caller.close()


async def test_lease_caller_calls_back_with_the_error_of_the_leader() -> None:
    leader, called = Answering(), list[tuple[LeaseTime | None, SynclineError | None]]()
    leader.error = Rejected("no", code="mine")
    caller = LeaseCaller(leader, gather_s=0.0)
    caller.keep_alive_then(7, 60.0, lambda time, error: called.append((time, error)))
    with pytest.raises(Rejected):
        await caller.keep_alive([8], 60.0)
    assert called == [(None, leader.error)]
    await caller.close()
