"""Turns at large reads: one client's many requests keep no other client from its own."""

from __future__ import annotations

import asyncio

from syncline.server.etcd.fair_turns import FairTurns


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_fair_turns_alternate_between_groups() -> None:
    turns, had = FairTurns(1), list[str]()

    async def work(group: str, name: str) -> None:
        await turns.acquire(group)
        had.append(name)
        await asyncio.sleep(0)
        turns.release()

    many = [work("a", f"a{number}") for number in range(6)]
    await asyncio.gather(*many, work("b", "b0"), work("c", "c0"), work("b", "b1"))
    assert had == ["a0", "a1", "b0", "c0", "a2", "b1", "a3", "a4", "a5"]


async def test_fair_turns_go_on_when_waiting_callers_leave() -> None:
    """One leaves while it waits, one at the moment at which it is given its turn."""
    turns = FairTurns(1)
    await turns.acquire("a")
    waiting = [asyncio.ensure_future(turns.acquire(group)) for group in ("a", "b", "b", "c")]
    await settle()
    waiting[1].cancel()
    await settle()
    turns.release()
    waiting[0].cancel()  # its turn was set, and it has not seen it
    await settle()
    assert [one.done() for one in waiting] == [True, True, True, False]
    assert waiting[0].cancelled()
    turns.release()
    await settle()
    assert waiting[3].done()
    turns.release()
    await asyncio.wait_for(turns.acquire("d"), 1)
