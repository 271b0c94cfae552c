"""Confirmations that keep-alives share: which one speaks for which call, and what becomes of calls without one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from syncline.errors import DeadlineExceeded, NotLeader, SynclineError
from syncline.kv.lease_calls import LeaseTime, encode_times
from syncline.kv.lease_rounds import AskedCall, LeaseRounds, WaitingCall
from syncline.testing.sim.loop import SimLoop, run_simulation


class Trial:
    """Rounds whose confirmations end when the test says it."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.begun_s: list[float] = []
        self.open: list[asyncio.Future[None]] = []
        self.tasks: list[asyncio.Task[None]] = []
        self.answered: list[int] = []
        self.rounds = LeaseRounds(loop, self._spawn, self._confirm, self._confirmed)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(self.loop.create_task(work))

    async def _confirm(self) -> None:
        self.begun_s.append(self.loop.time())
        self.open.append(self.loop.create_future())
        await self.open[-1]

    def _confirmed(self, call: WaitingCall) -> None:
        self.answered.extend(call.leases)
        call.answered([LeaseTime(1, 1) for _ in call.leases])

    async def begun(self, count: int) -> None:
        """Wait some turns, until so many confirmations have begun."""
        for _ in range(10):
            if len(self.open) < count:
                await asyncio.sleep(0)
        assert len(self.open) >= count

    def ask(self, lease: int) -> asyncio.Future[bytes]:
        future: asyncio.Future[bytes] = self.loop.create_future()
        self.rounds.add(AskedCall((lease,), self.loop.time() + 10.0, future))
        return future


def trial(scenario: Callable[[Trial], Coroutine[Any, Any, None]]) -> None:
    async def main(loop: SimLoop) -> None:
        at = Trial(loop)
        await asyncio.sleep(1.0)
        await scenario(at)
        for task in at.tasks:
            task.cancel()

    run_simulation(main)


@pytest.mark.parametrize("later_s", [None, 0.0, 1.0])
def test_keep_alive_is_not_answered_by_a_confirmation_begun_before_it(later_s: float | None) -> None:
    """The quorum has not spoken since it came in: the leader may be deposed by now.

    `later_s`: how long the confirmation was under way; None: it has just come, and is not looked at yet.
    """

    async def scenario(at: Trial) -> None:
        at.ask(1)
        await at.begun(1)
        if later_s is None:
            at.open[0].set_result(None)
        else:
            await asyncio.sleep(later_s)
        late = at.ask(2)
        if later_s is not None:
            at.open[0].set_result(None)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert at.answered == [1]
        await at.begun(2)
        assert not late.done()
        at.open[1].set_result(None)
        assert await late == encode_times([LeaseTime(1, 1)])

    trial(scenario)


def test_keep_alive_that_comes_with_the_begin_waits_for_its_own() -> None:
    """In whatever turn of the loop it comes in."""

    async def scenario(at: Trial) -> None:
        for turns in range(5):
            begun = len(at.open)
            first = at.ask(2 * turns)
            for _ in range(turns):
                await asyncio.sleep(0)
            asked_before = len(at.open) == begun
            second = at.ask(2 * turns + 1)
            await asyncio.sleep(1.0)
            at.open[begun].set_result(None)
            await asyncio.sleep(1.0)
            assert first.done()
            assert asked_before or not second.done()
            for future in at.open[begun + 1 :]:
                future.set_result(None)
            await second

    trial(scenario)


def test_keep_alives_of_one_moment_share_the_next_confirmation() -> None:
    async def scenario(at: Trial) -> None:
        before_s = at.loop.time()
        calls = [at.ask(lease) for lease in range(3)]
        await at.begun(1)
        assert at.begun_s == [pytest.approx(before_s, abs=1e-3)], "it waits for nothing"
        at.open[0].set_result(None)
        await asyncio.gather(*calls)
        assert at.answered == [0, 1, 2]
        await asyncio.sleep(1.0)
        assert len(at.open) == 1

    trial(scenario)


def test_confirmation_that_fails_ends_its_own_keep_alives_alone() -> None:
    async def scenario(at: Trial) -> None:
        first = at.ask(1)
        await asyncio.sleep(1.0)
        second = at.ask(2)
        await asyncio.sleep(1.0)
        at.open[0].set_exception(DeadlineExceeded("no quorum"))
        with pytest.raises(DeadlineExceeded):
            await first
        assert not second.done()
        at.open[1].set_result(None)
        assert await second == encode_times([LeaseTime(1, 1)])

    trial(scenario)


def test_end_of_the_term_ends_all_keep_alives_that_wait() -> None:
    """A confirmation that comes later answers none of them, and none begins."""

    async def scenario(at: Trial) -> None:
        calls = [at.ask(1)]
        await asyncio.sleep(0)
        calls.append(at.ask(2))
        error: SynclineError = NotLeader("the leadership changed meanwhile")
        at.rounds.end(error)
        for call in calls:
            with pytest.raises(NotLeader):
                await call
        await asyncio.sleep(1.0)
        for future in at.open:
            future.set_result(None)
        await asyncio.sleep(1.0)
        assert at.answered == []
        assert len(at.open) <= 1

    trial(scenario)


def test_confirmation_that_is_cancelled_cancels_its_keep_alives() -> None:
    """The node closes: a call without an end would count against the limit of its sender."""

    async def scenario(at: Trial) -> None:
        call = at.ask(1)
        await asyncio.sleep(1.0)
        at.tasks[0].cancel()
        await asyncio.sleep(1.0)
        assert call.cancelled()

    trial(scenario)
