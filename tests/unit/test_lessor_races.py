"""Keep-alives beside decisions of the clockwork: what was promised is kept, in whatever turn of the loop they meet."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from syncline.errors import BacklogFull, DeadlineExceeded, DiskFull, NotLeader, OperationError, SynclineError
from syncline.kv.commands import LeaseEnd
from syncline.kv.lease_caller import LeaseCaller
from syncline.kv.lease_calls import KeepAlive, LeaseTime, decode_times
from tests.unit.test_lessor import TERM, Bench, bench


@pytest.mark.parametrize("refusal", [BacklogFull("slow"), DiskFull("full")])
def test_end_of_unknown_fate_is_awaited_though_barriers_fail(refusal: SynclineError) -> None:
    """A refusal at once must neither spin without a pause nor count as an answer."""

    async def scenario(at: Bench) -> None:
        at.grant(1)
        await asyncio.sleep(0.1)
        barriers: list[float] = []

        async def barrier(*, timeout: float) -> object:
            barriers.append(at.loop.time())
            assert len(barriers) < 50, "it spins"
            if len(barriers) < 4:
                raise refusal
            at.node.commit(LeaseEnd((1,), TERM, (1,)))  # it was in the log
            return None

        at.node.barrier = barrier  # type: ignore[method-assign]
        at.node.fate = lambda: DeadlineExceeded("late")
        await asyncio.sleep(4.1)
        assert at.ends() == [1]
        assert await at.keep_alive(1) == [LeaseTime(0, 0)], "no time is promised before the fate of the end is known"
        assert len(barriers) == 4
        assert barriers[-1] - barriers[0] > 1.0

    bench(scenario)


def test_keep_alive_while_others_end_outlasts_an_old_rest() -> None:
    """The rests of one moment are recorded after the ends of that moment, which may take seconds."""

    async def scenario(at: Bench) -> None:
        at.grant(1, ttl_s=60.0)
        at.grant(2, ttl_s=10.0)
        await asyncio.sleep(9.5)
        at.node.proposing = asyncio.Event()
        await asyncio.sleep(0.6)
        assert at.ends() == [2]
        assert await at.keep_alive(1) == [LeaseTime(60_000, 60_000)]
        at.node.proposing.set()
        await asyncio.sleep(1.0)
        assert at.machine.store.leases.find(1).rest_ms == 60_000, "a new leader keeps what was promised"

    bench(scenario)


def test_keep_alive_confirmed_in_the_turn_of_an_end_is_kept() -> None:
    """It is answered between the moment at which the lease is found due and the proposal of its end."""

    async def scenario(at: Bench) -> None:
        at.grant(1)
        await asyncio.sleep(0.5)
        at.node.confirming = asyncio.Event()
        call = asyncio.create_task(at.keep_alive(1, timeout_s=9.0))
        await asyncio.sleep(0.1)
        assert at.lessor._lead is not None
        at.loop.call_at(at.lessor._lead.clock._ends_s[1], at.node.confirming.set)  # in the turn of the timer
        answer = await call
        await asyncio.sleep(0.5)
        assert answer == [LeaseTime(4000, 4000) if 1 in at.leases else LeaseTime(0, 0)]

    bench(scenario)


def test_keep_alive_waits_for_an_end_proposed_during_its_confirmation() -> None:
    """The end is in the log, perhaps: a promise of more time would be broken when it is applied."""

    async def scenario(at: Bench) -> None:
        at.grant(1)
        await asyncio.sleep(0.1)
        at.node.confirming, at.node.proposing = asyncio.Event(), asyncio.Event()
        call = asyncio.create_task(at.keep_alive(1, timeout_s=9.0))
        await asyncio.sleep(4.2)  # its time is over before the quorum speaks
        assert at.ends() == [1]
        at.node.confirming.set()
        await asyncio.sleep(0.5)
        assert not call.done()
        at.node.proposing.set()
        assert await call == [LeaseTime(0, 0)]
        assert at.leases == []

    bench(scenario)


def test_keep_alive_fails_as_soon_as_the_leader_is_deposed() -> None:
    """Its node asks the next leader then, and not after the time of a call."""

    async def scenario(at: Bench) -> None:
        at.grant(1)
        await asyncio.sleep(0.1)
        await at.keep_alive(1)
        at.node.confirming = asyncio.Event()
        assert at.node.handler is not None
        answer = at.node.handler(msgspec.msgpack.encode(KeepAlive((1,))))
        assert isinstance(answer, asyncio.Future)
        await asyncio.sleep(0.1)
        assert not answer.done()
        at.node.elect(TERM + 1, leads=False)
        await asyncio.sleep(0.1)
        assert isinstance(answer.exception(), NotLeader)

    bench(scenario)


def test_keep_alives_on_the_leader_share_the_confirmation_of_other_nodes() -> None:
    """They have gathered for a part of their time, and go along."""

    async def scenario(at: Bench) -> None:
        at.grant(1, 2, ttl_s=60.0)
        await at.keep_alive(1)
        here = LeaseCaller(at.node)
        here.answer_here(at.lessor)
        at.node.confirmations = at.node.asked = 0
        own = here.keep_alive([1], 5.0)
        assert at.node.handler is not None
        other = at.node.handler(msgspec.msgpack.encode(KeepAlive((2,))))
        assert isinstance(other, asyncio.Future)
        assert decode_times(await other, 1) == (LeaseTime(60_000, 60_000),)
        assert own.done()
        assert await own == [LeaseTime(60_000, 60_000)]
        assert (at.node.confirmations, at.node.asked) == (1, 0)
        assert at.lessor.counts.kept_alive == 3
        at.node.is_leader = False
        late = here.keep_alive([1], 0.5)
        with pytest.raises(NotLeader):
            await late
        assert at.node.asked > 0
        await here.close()

    bench(scenario)


def test_keep_alive_ends_at_its_own_time_beside_patient_ones() -> None:
    """They are asked for together: one caller's patience must not be that of all."""

    async def scenario(at: Bench) -> None:
        at.grant(1, 2, ttl_s=60.0)
        await asyncio.sleep(0.1)
        ask = at.node.ask_leader

        async def timed(data: bytes, *, timeout: float) -> bytes:
            try:
                return await asyncio.wait_for(ask(data, timeout=timeout), timeout)
            except TimeoutError:
                raise DeadlineExceeded("the leader did not answer") from None

        at.node.ask_leader = timed  # type: ignore[method-assign]
        at.node.confirming = asyncio.Event()
        before_s = at.loop.time()
        patient = asyncio.ensure_future(at.keep_alive(1, timeout_s=30.0))
        with pytest.raises(OperationError):
            await at.keep_alive(2, timeout_s=1.0)
        assert at.loop.time() - before_s < 1.5
        await asyncio.sleep(2.0)
        at.node.confirming.set()
        assert await patient == [LeaseTime(60_000, 60_000)]

    bench(scenario)
