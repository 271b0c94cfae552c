"""Keep-alives that are gathered on a node: how they are answered, and what becomes of them when it closes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
import pytest

from syncline.errors import DeadlineExceeded, NotLeader, Rejected, SynclineError
from syncline.kv.lease_caller import GATHER_S, MAX_GATHER_S, LeaseCaller
from syncline.kv.lease_calls import KeepAlive, LeaseTime, decode_call
from syncline.kv.lease_rounds import WaitingCall
from syncline.testing.sim.loop import SimLoop, run_simulation


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


class Here:
    """The lessor of the same node. It leads until the test says otherwise, and answers when the test says it."""

    def __init__(self) -> None:
        self.leads = True
        self.calls: list[WaitingCall] = []
        self.gathered: Callable[[], None] | None = None

    def keep_alive_here(self, call: WaitingCall) -> bool:
        if self.leads:
            self.calls.append(call)
        return self.leads

    def join(self, gathered: Callable[[], None] | None) -> None:
        self.gathered = gathered


def here_trial(scenario: Callable[[Here, Answering, LeaseCaller], Coroutine[Any, Any, None]]) -> None:
    async def main(_: SimLoop) -> None:
        here, leader = Here(), Answering()
        caller = LeaseCaller(leader)
        caller.answer_here(here)
        await scenario(here, leader, caller)
        await caller.close()
        assert here.gathered is None

    run_simulation(main)


def test_lease_caller_on_the_leader_sends_no_message() -> None:
    async def scenario(here: Here, leader: Answering, caller: LeaseCaller) -> None:
        futures = [caller.keep_alive([7, 8], 60.0), caller.keep_alive([8], 60.0)]
        await asyncio.sleep(1.0)
        [call] = here.calls
        assert call.leases == (7, 8)
        call.answered([LeaseTime(1000, 1000), LeaseTime(2000, 2000)])
        assert await futures[0] == [LeaseTime(1000, 1000), LeaseTime(2000, 2000)]
        assert await futures[1] == [LeaseTime(2000, 2000)]
        assert leader.asked == []
        assert not caller._calls_here

    here_trial(scenario)


@pytest.mark.parametrize(("every_s", "gather_s", "calls"), [(0.001, MAX_GATHER_S, 25), (0.05, GATHER_S, 20)])
def test_lease_caller_gathers_for_longer_while_many_come_in(every_s: float, gather_s: float, calls: int) -> None:
    async def scenario(here: Here, leader: Answering, caller: LeaseCaller) -> None:
        here.leads = False
        waits_s: list[float] = []
        for _second in range(2):
            leader.asked.clear()
            for number in range(round(1 / every_s)):
                started_s = asyncio.get_running_loop().time()
                future = caller.keep_alive([number], 60.0)
                future.add_done_callback(
                    lambda _, since_s=started_s: waits_s.append(asyncio.get_running_loop().time() - since_s)  # type: ignore[misc]
                )
                await asyncio.sleep(every_s)
        assert calls - 2 <= len(leader.asked) <= calls + 2
        assert max(waits_s) < gather_s + 0.005
        await asyncio.sleep(1.0)
        waits_s.clear()
        for _time in range(2):  # the first one ends the longer time
            await caller.keep_alive([1], 60.0)
            await asyncio.sleep(0.1)
        started_s = asyncio.get_running_loop().time()
        await caller.keep_alive([1], 60.0)
        assert asyncio.get_running_loop().time() - started_s < GATHER_S + 0.005

    here_trial(scenario)


@pytest.mark.parametrize("others", [0, 1])
def test_lease_caller_does_not_gather_past_a_short_deadline(others: int) -> None:
    """Whether the caller is the first to wait, or comes while others do."""

    async def scenario(here: Here, leader: Answering, caller: LeaseCaller) -> None:
        here.leads = False
        loop = asyncio.get_running_loop()
        for timeout_s in (0.025, 0.06):
            for _ in range(3):  # then it gathers for the longest time
                await asyncio.gather(*(caller.keep_alive([number], 60.0) for number in range(1, 9)))
            before = [caller.keep_alive([1], 60.0) for _ in range(others)]
            started_s = loop.time()
            assert await caller.keep_alive([7], timeout_s) == [LeaseTime(4000, 4000)]
            assert GATHER_S <= loop.time() - started_s < timeout_s
            await asyncio.gather(*before)
        await asyncio.sleep(1.0)
        assert caller._timer is None

    here_trial(scenario)


def test_lease_caller_gathers_its_least_time_whatever_the_deadlines() -> None:
    """Callers without patience do not make it ask the leader more often."""

    async def scenario(here: Here, leader: Answering, caller: LeaseCaller) -> None:
        here.leads = False
        for number in range(1, 1000):
            caller.keep_alive_then(number, 0.001, lambda *_: None)
            await asyncio.sleep(0.001)
        assert len(leader.asked) <= 1.0 / GATHER_S

    here_trial(scenario)


def test_lease_caller_joins_a_confirmation_before_its_time() -> None:
    """Another node has asked: the keep-alives that have gathered here share its confirmation."""

    async def scenario(here: Here, _: Answering, caller: LeaseCaller) -> None:
        future = caller.keep_alive([7], 60.0)
        assert here.gathered is not None
        here.gathered()
        [call] = here.calls
        here.gathered()
        await asyncio.sleep(1.0)
        assert len(here.calls) == 1, "nothing has gathered since"
        call.answered([LeaseTime(1000, 1000)])
        assert await future == [LeaseTime(1000, 1000)]

    here_trial(scenario)


@pytest.mark.parametrize("fate", ["failed", "cancelled", "silent", "follower"])
def test_lease_caller_asks_the_leader_if_its_own_node_gives_no_answer(fate: str) -> None:
    """It leads no more, or no quorum hears it: the next leader is asked, and a late answer has no effect."""

    async def scenario(here: Here, leader: Answering, caller: LeaseCaller) -> None:
        here.leads = fate != "follower"
        future = caller.keep_alive([7], 60.0)
        await asyncio.sleep(1.0)
        if fate == "failed":
            here.calls[0].failed(NotLeader("deposed"))
        elif fate == "cancelled":
            here.calls[0].cancel()
        async with asyncio.timeout(5):
            assert await future == [LeaseTime(4000, 4000)]
        assert [call.leases for call in leader.asked] == [(7,)]
        for call in here.calls:
            assert call.done()
            call.answered([LeaseTime(1, 1)])

    here_trial(scenario)


def test_lease_caller_ends_a_call_on_its_own_node_at_the_deadline() -> None:
    async def scenario(here: Here, leader: Answering, caller: LeaseCaller) -> None:
        leader.error = DeadlineExceeded("no quorum")
        before_s = asyncio.get_running_loop().time()
        with pytest.raises(DeadlineExceeded):
            await caller.keep_alive([7], 0.5)
        assert asyncio.get_running_loop().time() - before_s == pytest.approx(0.5, abs=0.05)
        assert here.calls[0].done()

    here_trial(scenario)


def test_lease_caller_that_closes_cancels_calls_on_its_own_node() -> None:
    async def scenario(here: Here, leader: Answering, caller: LeaseCaller) -> None:
        future = caller.keep_alive([7], 60.0)
        await asyncio.sleep(1.0)
        await caller.close()
        assert future.cancelled()
        assert here.calls[0].done()
        assert leader.asked == []

    here_trial(scenario)
