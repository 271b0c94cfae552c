"""Keep-alives that are gathered on a node: what becomes of them when it closes."""

from __future__ import annotations

import asyncio

import pytest

from syncline.kv.lease_caller import LeaseCaller


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
