"""The clockwork of the leases on a node that is a double: in virtual time, with the fate of each proposal chosen."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from threading import get_ident
from typing import Any

import msgspec
import pytest

from syncline import Entry
from syncline.errors import (
    Closed,
    DeadlineExceeded,
    Dropped,
    NotLeader,
    OperationError,
    Outcome,
    Rejected,
    SynclineError,
)
from syncline.kv.commands import (
    Command,
    LeaseCheckpoint,
    LeaseEnd,
    LeaseGrant,
    Put,
    Touch,
    decode_command,
    encode_command,
)
from syncline.kv.compactor import Compactor
from syncline.kv.lease_caller import LeaseCaller
from syncline.kv.lease_calls import MAX_CALL_LEASES, KeepAlive, LeaseTime, TimesLeft, decode_call, decode_times
from syncline.kv.lessor import MAX_DECISIONS, Lessor
from syncline.kv.machine import KvMachine
from syncline.node.asking import AskHandler
from syncline.node.events import Event, RoleChanged
from syncline.testing.sim.loop import SimLoop, run_simulation

TERM = 7


class Node:
    """A double of `Raft` with one state machine. `confirm` and `propose` are what a test changes."""

    def __init__(self, machine: KvMachine) -> None:
        self.machine = machine
        self.is_leader = True
        self.term = TERM
        self.index = 0
        self.confirmations = 0
        self.asked = 0
        self.confirming: asyncio.Event | None = None
        """If it is set, confirmations wait for it."""
        self.proposing: asyncio.Event | None = None
        """If it is set, proposals wait for it before they are applied."""
        self.fate: Callable[[], SynclineError | None] = lambda: None
        self.proposed: list[Command] = []
        self.handler: AskHandler | None = None
        self.roles: asyncio.Queue[Event] = asyncio.Queue()

    async def apply(self, data: bytes, *, timeout: float, term: int | None = None, frees_space: bool = False) -> object:
        assert term == self.term, "what a leader decides is fenced"
        self.proposed.append(decode_command(data))
        if self.proposing is not None:
            await self.proposing.wait()
        error = self.fate()
        if error is not None:
            raise error
        return self.commit(data)

    def commit(self, data: bytes | Command) -> object:
        self.index += 1
        data = data if isinstance(data, bytes) else encode_command(data)
        return self.machine.apply(Entry(self.index, self.term, data))

    async def barrier(self, *, timeout: float) -> object:
        if self.proposing is not None:
            await self.proposing.wait()
        return None

    async def verify_leader(self, *, timeout: float) -> int:
        self.confirmations += 1
        term = self.term
        if self.confirming is not None:
            try:
                async with asyncio.timeout(timeout):
                    await self.confirming.wait()
            except TimeoutError:
                raise DeadlineExceeded("no quorum", outcome=Outcome.NOT_APPLIED) from None
        if not self.is_leader or self.term != term:
            raise NotLeader("this node does not lead")
        return term

    def answer_asks(self, handler: AskHandler | None) -> None:
        self.handler = handler

    async def events(self, *kinds: Any) -> AsyncIterator[Any]:
        while True:
            yield await self.roles.get()

    async def ask_leader(self, data: bytes, *, timeout: float) -> bytes:
        """As `Raft` does: it asks again until the deadline, if the handler has not acted."""
        assert self.handler is not None
        self.asked += 1
        end_s = asyncio.get_running_loop().time() + timeout
        while True:
            try:
                answer = self.handler(data)
                return answer if isinstance(answer, bytes) else await answer
            except NotLeader as error:
                if error.outcome is Outcome.UNKNOWN or asyncio.get_running_loop().time() >= end_s:
                    raise
            await asyncio.sleep(0.05)

    def elect(self, term: int, *, leads: bool) -> None:
        """Another term begins."""
        self.term, self.is_leader = term, leads
        self.roles.put_nowait(RoleChanged("leader" if leads else "follower", term=term))


class Bench:
    """A lessor on its double."""

    def __init__(self, loop: SimLoop) -> None:
        self.loop = loop
        self.machine = KvMachine()
        self.node = Node(self.machine)
        self.lessor = Lessor(self.node, self.machine, checkpoint_s=10.0)
        self.caller = LeaseCaller(self.node)
        self.lessor.start()

    def grant(self, *leases: int, ttl_s: float = 4.0) -> None:
        for lease in leases:
            self.node.commit(LeaseGrant(lease, int(ttl_s * 1000)))

    @property
    def leases(self) -> list[int]:
        return [record.id for record in self.machine.store.leases.records()]

    def ends(self) -> list[int]:
        return [lease for command in self.node.proposed if isinstance(command, LeaseEnd) for lease in command.leases]

    async def keep_alive(self, *leases: int, timeout_s: float = 5.0) -> list[LeaseTime]:
        return await self.caller.keep_alive(leases, timeout_s)


def bench(scenario: Callable[[Bench], Coroutine[Any, Any, None]]) -> None:
    async def main(loop: SimLoop) -> None:
        at = Bench(loop)
        await asyncio.sleep(0.01)
        await scenario(at)
        await at.lessor.close()
        await at.caller.close()
        assert at.node.handler is None

    run_simulation(main)


def test_lessor_without_leases_does_nothing() -> None:
    async def scenario(at: Bench) -> None:
        for term in range(8, 12):
            at.node.elect(term, leads=term % 2 == 0)
            await asyncio.sleep(5.0)
        assert at.node.proposed == []
        assert at.node.confirmations == 0

    bench(scenario)


def test_lease_is_ended_at_its_time() -> None:
    async def scenario(at: Bench) -> None:
        at.grant(1, ttl_s=4.0)
        at.grant(2, ttl_s=2.0)
        await asyncio.sleep(1.9)
        assert at.leases == [1, 2]
        await asyncio.sleep(0.2)
        assert at.leases == [1]
        await asyncio.sleep(1.7)
        assert at.leases == [1]
        await asyncio.sleep(0.3)
        assert at.leases == []
        assert at.node.proposed == [LeaseEnd((2,), TERM, (2,)), LeaseEnd((1,), TERM, (1,))]
        assert at.lessor.counts.ended == 2

    bench(scenario)


def test_leader_that_is_not_confirmed_ends_nothing_and_answers_nothing() -> None:
    """Before the first entry of its term is applied here, its state may be old."""

    async def scenario(at: Bench) -> None:
        at.grant(1)
        at.node.confirming = asyncio.Event()
        at.node.elect(8, leads=True)
        await asyncio.sleep(20.0)
        assert at.node.proposed == []
        with pytest.raises(OperationError):
            await at.keep_alive(1, timeout_s=1.0)
        began_s = at.loop.time()
        at.node.confirming.set()
        await asyncio.sleep(3.9)
        assert at.leases == [1], "it has its full time from here on"
        await asyncio.sleep(0.2)
        assert at.leases == []
        assert at.loop.time() - began_s < 4.2

    bench(scenario)


def test_keep_alive_waits_for_the_quorum_and_then_counts_from_its_answer() -> None:
    async def scenario(at: Bench) -> None:
        at.grant(1)
        await asyncio.sleep(3.0)
        at.node.confirming = asyncio.Event()
        call = asyncio.create_task(at.keep_alive(1))
        await asyncio.sleep(2.0)
        assert not call.done()
        assert at.leases == [1], "it does not end while its keep-alive waits"
        at.node.confirming.set()
        assert await call == [LeaseTime(4000, 4000)]
        await asyncio.sleep(3.9)
        assert at.leases == [1]
        await asyncio.sleep(0.2)
        assert at.leases == []

    bench(scenario)


def test_keep_alive_over_a_change_of_term_is_answered_in_the_new_one() -> None:
    """The clock of the earlier term is gone then: an answer by it would promise what the new one does not know."""

    async def scenario(at: Bench) -> None:
        at.grant(1)
        await asyncio.sleep(0.1)
        at.node.confirming = asyncio.Event()
        call = asyncio.create_task(at.keep_alive(1))
        await asyncio.sleep(0.1)
        at.node.term = 9  # elected again, and the event is still on its way
        confirmations = at.node.confirmations
        at.node.confirming.set()
        assert await call == [LeaseTime(4000, 4000)]
        assert at.node.confirmations == confirmations + 3, "of the old clock, for the new clock, and of that"
        await asyncio.sleep(4.2)
        assert at.node.proposed == [LeaseEnd((1,), 9, (1,))]

    bench(scenario)


@pytest.mark.parametrize("applied", [True, False])
def test_keep_alive_waits_for_the_fate_of_an_end(applied: bool) -> None:
    async def scenario(at: Bench) -> None:
        at.grant(1)
        at.node.proposing = asyncio.Event()
        at.node.fate = lambda: None if applied else Dropped("too much")
        await asyncio.sleep(4.1)
        assert at.ends() == [1]
        call = asyncio.create_task(at.keep_alive(1))
        await asyncio.sleep(1.0)
        assert not call.done()
        at.node.proposing.set()
        assert await call == [LeaseTime(0, 0) if applied else LeaseTime(4000, 4000)]
        assert at.leases == ([] if applied else [1])

    bench(scenario)


def test_keep_alive_waits_for_an_end_of_unknown_outcome_until_a_barrier() -> None:
    async def scenario(at: Bench) -> None:
        at.grant(1)
        await asyncio.sleep(0.1)
        passed = asyncio.Event()

        async def barrier(*, timeout: float) -> object:
            await passed.wait()
            at.node.commit(LeaseEnd((1,), TERM, (1,)))  # it was in the log
            return None

        at.node.barrier = barrier  # type: ignore[method-assign]
        at.node.fate = lambda: DeadlineExceeded("late")
        await asyncio.sleep(4.1)
        call = asyncio.create_task(at.keep_alive(1))
        await asyncio.sleep(1.0)
        assert not call.done()
        passed.set()
        assert await call == [LeaseTime(0, 0)]

    bench(scenario)


def test_end_that_is_refused_is_proposed_again_after_a_while() -> None:
    async def scenario(at: Bench) -> None:
        at.grant(1)
        at.node.fate = lambda: Dropped("too much")
        await asyncio.sleep(8.5)
        assert 3 <= len(at.node.proposed) <= 6
        assert at.leases == [1]
        at.node.fate = lambda: None
        await asyncio.sleep(1.1)
        assert at.leases == []

    bench(scenario)


def test_touch_before_its_end_is_applied_saves_the_lease() -> None:
    """The touch stands before the end in the log, and has been acknowledged."""

    async def scenario(at: Bench) -> None:
        at.node.commit(Put(b"key", b"value", 5, ttl_ms=3000))
        at.node.proposing = asyncio.Event()
        await asyncio.sleep(3.1)
        assert at.ends() == [5]
        at.node.commit(Touch(b"key", 3000, 6))
        at.node.proposing.set()
        await asyncio.sleep(2.5)
        assert at.leases == [5]
        await asyncio.sleep(1.0)
        assert at.leases == []

    bench(scenario)


def test_rest_of_a_long_lease_is_recorded_and_a_keep_alive_restores_it() -> None:
    async def scenario(at: Bench) -> None:
        at.grant(1, ttl_s=60.0)
        at.grant(2, ttl_s=8.0)
        await asyncio.sleep(10.1)
        [ends, rests] = at.node.proposed
        assert ends == LeaseEnd((2,), TERM, (2,))
        assert isinstance(rests, LeaseCheckpoint)
        [(lease, rest_ms)] = rests.rests
        assert lease == 1
        assert 49_800 <= rest_ms <= 50_000
        before = at.loop.time()
        assert await at.keep_alive(1) == [LeaseTime(60_000, 60_000)]
        assert at.node.proposed[2:] == [LeaseCheckpoint(((1, 60_000),), TERM)]
        assert at.machine.store.leases.find(1).rest_ms == 60_000
        assert at.loop.time() - before < 0.1
        assert await at.keep_alive(1) == [LeaseTime(60_000, 60_000)]
        assert len(at.node.proposed) == 3, "one entry restores it, and the next keep-alive needs none"
        assert at.lessor.counts.recorded == 2

    bench(scenario)


def test_keep_alive_whose_rest_can_not_be_restored_is_refused() -> None:
    async def scenario(at: Bench) -> None:
        at.grant(1, ttl_s=60.0)
        await asyncio.sleep(10.1)
        at.node.fate = lambda: Dropped("too much")
        with pytest.raises(Dropped):
            await at.keep_alive(1)

    bench(scenario)


def test_deposed_leader_stops_at_once() -> None:
    async def scenario(at: Bench) -> None:
        at.grant(1, 2)
        await asyncio.sleep(0.1)
        at.node.is_leader = False  # the event is still on its way
        await asyncio.sleep(10.0)
        at.node.elect(8, leads=False)
        await asyncio.sleep(10.0)
        assert at.node.proposed == []
        at.node.elect(9, leads=True)
        await asyncio.sleep(3.9)
        assert at.leases == [1, 2]
        await asyncio.sleep(0.3)
        assert at.leases == []

    bench(scenario)


def test_ends_are_bounded_in_number_and_keys() -> None:
    async def scenario(at: Bench) -> None:
        at.grant(*range(1, 1201))
        for lease in (1, 2, 3):
            for number in range(4000):
                at.node.commit(Put(b"%d %d" % (lease, number), b"", lease))
        await asyncio.sleep(4.05)
        [first] = [command for command in at.node.proposed if isinstance(command, LeaseEnd)]
        assert first.leases == (1, 2), "the third one would be above the limit on keys"
        await asyncio.sleep(0.1)
        assert len(at.node.proposed) == 2
        await asyncio.sleep(0.8)
        assert at.leases
        await asyncio.sleep(1.0)
        assert at.leases == []
        assert all(len(one.leases) <= MAX_DECISIONS for one in at.node.proposed if isinstance(one, LeaseEnd))
        assert not len(at.machine.store)

    bench(scenario)


def test_keep_alives_of_one_moment_share_a_call_and_a_confirmation() -> None:
    async def scenario(at: Bench) -> None:
        at.grant(*range(1, 2501), ttl_s=60.0)
        await at.keep_alive(1)
        at.node.confirmations = at.node.asked = 0
        calls = [asyncio.create_task(at.keep_alive(lease, 9999)) for lease in range(1, 2501)]
        answers = await asyncio.gather(*calls)
        assert {tuple(times) for times in answers} == {(LeaseTime(60_000, 60_000), LeaseTime(0, 0))}
        assert at.node.asked == 5, "1,000 names of leases a call"
        assert at.node.confirmations == 1, "it is for all of them"
        assert at.lessor.counts.kept_alive == 2501

    bench(scenario)


def test_snapshot_that_replaces_the_store_is_followed() -> None:
    async def scenario(at: Bench) -> None:
        other = KvMachine()
        other.apply(Entry(1, 1, encode_command(LeaseGrant(5, 3000))))
        sink = io.BytesIO()
        other.snapshot().persist(sink)
        at.node.elect(8, leads=False)
        await asyncio.sleep(0.1)
        at.machine.restore(io.BytesIO(sink.getvalue()))
        at.node.elect(9, leads=True)
        await asyncio.sleep(0.1)
        at.grant(6, ttl_s=2.0)
        await asyncio.sleep(2.1)
        assert at.leases == [5]
        await asyncio.sleep(1.0)
        assert at.leases == []

    bench(scenario)


def test_keep_alive_after_a_restore_waits_for_decisions_from_before() -> None:
    """The restore has the term of its leader. An end that was decided before it may be applied after it: the holder
    must not be promised time for a lease that is then ended.
    """

    async def scenario(at: Bench) -> None:
        at.grant(1, ttl_s=4.0)
        sink = io.BytesIO()
        at.machine.snapshot().persist(sink)
        at.node.proposing = asyncio.Event()
        await asyncio.sleep(4.1)
        assert at.ends() == [1]
        at.machine.renumber(9, io.BytesIO(sink.getvalue()))
        assert at.leases == [1]
        answer = asyncio.create_task(at.keep_alive(1))
        await asyncio.sleep(1.0)
        at.node.proposing.set()
        assert await answer == [LeaseTime(0, 0)]
        assert at.leases == []

    bench(scenario)


async def test_snapshot_restored_on_a_thread_is_observed_on_the_loop() -> None:
    """The node restores snapshots on a thread of their own: timers and tasks are the loop's alone."""
    other = KvMachine()
    other.apply(Entry(1, 1, encode_command(LeaseGrant(5, 3000))))
    sink = io.BytesIO()
    other.snapshot().persist(sink)
    machine = KvMachine()
    node = Node(machine)
    node.commit(LeaseGrant(4, 3000))
    lessor, compactor = Lessor(node, machine), Compactor(node, machine, history_revisions=1)  # type: ignore[arg-type]
    lessor.start()
    compactor.start()
    threads: list[int] = []
    given_up = asyncio.Event()
    give_up, loop = lessor._give_up, asyncio.get_running_loop()

    def seen() -> None:
        threads.append(get_ident())
        give_up()
        loop.call_soon_threadsafe(given_up.set)

    lessor._give_up = seen  # type: ignore[method-assign]
    await asyncio.to_thread(machine.restore, io.BytesIO(sink.getvalue()))
    node.is_leader = False
    await asyncio.wait_for(given_up.wait(), 5.0)
    assert threads == [get_ident()]
    assert lessor._book is machine.store.leases
    await compactor.close()
    await lessor.close()


def test_time_left_is_answered_after_a_confirmation() -> None:
    async def scenario(at: Bench) -> None:
        at.grant(1, ttl_s=8.0)
        await asyncio.sleep(3.0)
        [known, unknown] = await at.caller.times_left([1, 2], 5.0)
        assert known.ttl_ms == 8000
        assert 4900 <= known.rest_ms <= 5000
        assert unknown == LeaseTime(0, 0)
        at.node.confirming = asyncio.Event()
        with pytest.raises(OperationError):
            async with asyncio.timeout(30.0):
                await at.caller.times_left([1], 0.5)

    bench(scenario)


def test_caller_that_gives_up_does_not_end_the_others() -> None:
    async def scenario(at: Bench) -> None:
        at.grant(1, ttl_s=60.0)
        at.node.confirming = asyncio.Event()
        first, second = (asyncio.create_task(at.keep_alive(1)) for _ in range(2))
        await asyncio.sleep(0.1)
        first.cancel()
        at.node.confirming.set()
        assert await second == [LeaseTime(60_000, 60_000)]

    bench(scenario)


def test_caller_asks_again_after_an_unknown_outcome_and_not_after_a_limit() -> None:
    async def scenario(at: Bench) -> None:
        at.grant(1, ttl_s=60.0)
        errors: list[SynclineError] = [
            NotLeader("changed", outcome=Outcome.UNKNOWN),
            Dropped("link", outcome=Outcome.UNKNOWN),
            DeadlineExceeded("late"),
        ]
        original: Callable[..., Awaitable[bytes]] = at.node.ask_leader

        async def ask(data: bytes, *, timeout: float) -> bytes:
            if errors:
                raise errors.pop(0)
            return await original(data, timeout=timeout)

        at.node.ask_leader = ask  # type: ignore[method-assign]
        assert await at.keep_alive(1) == [LeaseTime(60_000, 60_000)]
        errors[:] = [Dropped("1,024 calls are under way"), Closed("x")]
        with pytest.raises(Dropped):
            await at.keep_alive(1)
        with pytest.raises(Closed):
            await at.keep_alive(1)

    bench(scenario)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode([0]),
        msgspec.msgpack.encode([0, []]),
        msgspec.msgpack.encode([0, [0]]),
        msgspec.msgpack.encode([0, [2**63]]),
        msgspec.msgpack.encode([0, [1], 2]),
        msgspec.msgpack.encode([2, [1]]),
        msgspec.msgpack.encode([0, [1] * (MAX_CALL_LEASES + 1)]),
        msgspec.msgpack.encode({"leases": [1]}),
        b"\x91" * 5000,
    ],
)
def test_forged_call_is_refused(data: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        decode_call(data)
    assert caught.value.code == "bad_call"


def test_sound_calls_and_answers_are_read_back() -> None:
    for call in (KeepAlive((1, 2**63 - 1)), TimesLeft((7,))):
        assert decode_call(msgspec.msgpack.encode(call)) == call
    times = (LeaseTime(4000, 10), LeaseTime(0, 0))
    assert decode_times(msgspec.msgpack.encode(times), 2) == times


@pytest.mark.parametrize("data", [b"", b"\xc1", msgspec.msgpack.encode([[1, -1]]), msgspec.msgpack.encode([])])
def test_forged_answer_is_refused(data: bytes) -> None:
    with pytest.raises(Rejected) as caught:
        decode_times(data, 1)
    assert caught.value.code == "bad_answer"
