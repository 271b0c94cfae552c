"""Calls to the leader: on any node, with the errors of the handler, within limits, and over a change of leader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest

from syncline.errors import (
    Closed,
    ConfigError,
    DeadlineExceeded,
    Dropped,
    NoLeader,
    NotLeader,
    OperationError,
    Outcome,
    Rejected,
    RequestFailed,
    TooLarge,
    UsageError,
)
from syncline.node.asking import MAX_CALLS
from syncline.node.raft import Raft
from syncline.testing.cluster import SimCluster
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.server import SimServer
from syncline.transport.messages import ASK_BYTES, Ask, AskReply
from tests.helpers.digests import Tally

PATIENCE_S = 30.0


class Ring:
    """A simulated cluster whose nodes answer calls with their own name and the data."""

    def __init__(self, cluster: SimCluster) -> None:
        self.cluster = cluster
        self.calls: list[tuple[str, bytes]] = []
        self.gate: asyncio.Event | None = None
        """If it is set, handlers wait for it."""

    def answer_on(self, server: SimServer) -> None:
        async def answer(data: bytes) -> bytes:
            self.calls.append((server.name, data))
            if self.gate is not None:
                await self.gate.wait()
            return server.name.encode() + b" " + data

        raft_of(server).answer_asks(answer)

    async def leader(self) -> SimServer:
        return await self.cluster.leader(PATIENCE_S)

    async def follower(self) -> SimServer:
        leader = await self.leader()
        return next(server for server in self.cluster.running if server is not leader)

    async def start_ask(self, server: SimServer, data: bytes, timeout_s: float = 5.0) -> asyncio.Task[bytes]:
        raft = raft_of(server)
        return await server.call(lambda: asyncio.ensure_future(raft.ask_leader(data, timeout=timeout_s)))

    async def ask(self, server: SimServer, data: bytes, timeout_s: float = 5.0) -> bytes:
        task = await self.start_ask(server, data, timeout_s)
        await asyncio.wait([task], timeout=PATIENCE_S)
        return task.result()


def raft_of(server: SimServer) -> Raft[object]:
    assert server.raft is not None
    return server.raft


def ring(scenario: Callable[[Ring], Coroutine[Any, Any, None]], *, answers: bool = True) -> None:
    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=3, machine=Tally)
        await cluster.start(3)
        trial = Ring(cluster)
        await cluster.leader()
        if answers:
            for server in cluster.running:
                trial.answer_on(server)
        await scenario(trial)

    run_simulation(main)


def test_ask_is_answered_by_the_leader_on_each_node() -> None:
    async def scenario(at: Ring) -> None:
        leader = await at.leader()
        last = raft_of(leader).stats().last_index
        for server in at.cluster.running:
            assert await at.ask(server, b"x") == leader.name.encode() + b" x"
        assert {name for name, _ in at.calls} == {leader.name}
        assert raft_of(leader).stats().last_index == last, "nothing enters the log"

    ring(scenario)


def test_ask_of_the_largest_size_is_answered_and_above_it_refused() -> None:
    async def scenario(at: Ring) -> None:
        follower = await at.follower()
        task = await at.start_ask(follower, bytes(ASK_BYTES))
        await asyncio.wait([task], timeout=PATIENCE_S)
        with pytest.raises(TooLarge, match="an answer of"):
            task.result()  # the name is added to the answer
        with pytest.raises(TooLarge, match="a call to the leader of 1048577 bytes"):
            await at.ask(follower, bytes(ASK_BYTES + 1))
        assert len(await at.ask(follower, bytes(ASK_BYTES - 3))) == ASK_BYTES

    ring(scenario)


@pytest.mark.parametrize(
    ("error", "kind", "code", "outcome"),
    [
        (Rejected("no", code="mine"), Rejected, "mine", Outcome.NOT_APPLIED),
        (DeadlineExceeded("late"), DeadlineExceeded, "deadline_exceeded", Outcome.UNKNOWN),
        (Dropped("full", outcome=Outcome.UNKNOWN), Dropped, "dropped", Outcome.UNKNOWN),
        (NotLeader("left", outcome=Outcome.UNKNOWN), NotLeader, "not_leader", Outcome.UNKNOWN),
        (ConfigError("wrong"), RequestFailed, "ask_failed", Outcome.NOT_APPLIED),
    ],
)
def test_ask_fails_with_the_error_of_the_handler(
    error: Exception, kind: type[OperationError], code: str, outcome: Outcome
) -> None:
    async def scenario(at: Ring) -> None:
        def answer(_: bytes) -> bytes:
            raise error

        for server in at.cluster.running:
            raft_of(server).answer_asks(answer)
        for server in (await at.leader(), await at.follower()):
            with pytest.raises(kind) as caught:
                await at.ask(server, b"x")
            assert (caught.value.code, caught.value.outcome) == (code, outcome)
            assert str(caught.value) == str(error)

    ring(scenario, answers=False)


@pytest.mark.parametrize("answer", [lambda _: 1 // 0, lambda _: "text", lambda _: None])
def test_ask_of_a_broken_handler_fails_and_the_node_goes_on(answer: Callable[[bytes], bytes]) -> None:
    async def scenario(at: Ring) -> None:
        loop = asyncio.get_running_loop()
        reported: list[object] = []
        loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
        for server in at.cluster.running:
            raft_of(server).answer_asks(answer)
        for server in (await at.leader(), await at.follower()):
            with pytest.raises(RequestFailed, match="the leader's handler failed") as caught:
                await at.ask(server, b"x")
            assert caught.value.code == "ask_failed"
            assert caught.value.outcome is Outcome.UNKNOWN
        assert len(reported) == 2
        assert len(at.cluster.running) == 3

    ring(scenario, answers=False)


def test_ask_is_answered_by_the_future_of_a_handler_without_a_task() -> None:
    """Leases are kept alive hundreds of times a second: a task for each call would cost more than the answer."""

    async def scenario(at: Ring) -> None:
        leader = await at.leader()
        futures: list[asyncio.Future[bytes]] = []
        tasks_of: list[asyncio.Task[Any] | None] = []
        for server in at.cluster.running:

            def answer(_: bytes) -> asyncio.Future[bytes]:
                tasks_of.append(asyncio.current_task())
                futures.append(asyncio.get_running_loop().create_future())
                return futures[-1]

            raft_of(server).answer_asks(answer)
        for server in (leader, await at.follower()):
            before = len(asyncio.all_tasks())
            tasks = [await at.start_ask(server, b"x") for _ in range(3)]
            await at.cluster.until(lambda: len(futures) == 3, timeout_s=5.0)
            assert tasks_of == [None] * 3
            assert len(asyncio.all_tasks()) == before + len(tasks), "those that ask, and no others"
            tasks_of.clear()
            await leader.call(lambda: futures[0].set_result(b"done"))
            await leader.call(lambda: futures[1].set_exception(Rejected("no", code="mine")))
            await leader.call(futures[2].cancel)
            await asyncio.wait(tasks, timeout=PATIENCE_S)
            assert tasks[0].result() == b"done"
            with pytest.raises(Rejected):
                tasks[1].result()
            with pytest.raises(RequestFailed, match="cancelled") as caught:
                tasks[2].result()
            assert caught.value.outcome is Outcome.UNKNOWN
            futures.clear()

    ring(scenario, answers=False)


def test_handler_is_cancelled_when_the_node_of_the_leader_closes() -> None:
    """A future that a handler has returned is; and a handler that was not begun by then never runs."""

    async def scenario(at: Ring) -> None:
        leader, follower = await at.leader(), await at.follower()
        futures: list[asyncio.Future[bytes]] = []

        def answer(_: bytes) -> asyncio.Future[bytes]:
            futures.append(asyncio.get_running_loop().create_future())
            return futures[-1]

        raft_of(leader).answer_asks(answer)
        task = await at.start_ask(follower, b"x", 20.0)
        await at.cluster.until(lambda: len(futures) == 1, timeout_s=5.0)
        sender, driver = at.cluster.node_id(follower), leader.driver
        assert driver is not None

        def ask_and_stop() -> None:
            driver.asking.on_ask(sender, Ask(5, b"y"))
            driver.asking.stop(Closed("closed"), Closed("closed"))

        await leader.call(ask_and_stop)
        await asyncio.sleep(1.0)
        assert [future.cancelled() for future in futures] == [True]
        task.cancel()

    ring(scenario, answers=False)


def test_ask_without_a_handler_says_so() -> None:
    async def scenario(at: Ring) -> None:
        for server in (await at.leader(), await at.follower()):
            with pytest.raises(RequestFailed, match="answer_asks") as caught:
                await at.ask(server, b"x")
            assert caught.value.code == "unsupported"
            assert caught.value.outcome is Outcome.NOT_APPLIED

    ring(scenario, answers=False)


def test_ask_waits_for_a_leader_and_ends_at_its_deadline() -> None:
    async def scenario(at: Ring) -> None:
        follower = await at.follower()
        at.cluster.partition([follower.name], [server.name for server in at.cluster.running if server is not follower])
        await at.cluster.until(lambda: raft_of(follower).leader is None, timeout_s=5.0)
        with pytest.raises(NoLeader) as caught:
            await at.ask(follower, b"x", 1.0)
        assert caught.value.outcome is Outcome.NOT_APPLIED
        task = await at.start_ask(follower, b"y", 20.0)
        at.cluster.heal()
        await asyncio.wait([task], timeout=PATIENCE_S)
        assert task.result().endswith(b" y")
        assert [data for _, data in at.calls] == [b"y"]

    ring(scenario)


def test_ask_of_a_leader_that_dies_has_an_unknown_outcome() -> None:
    """The handler may have acted on the call: another leader must not act on it again."""

    async def scenario(at: Ring) -> None:
        at.gate = asyncio.Event()
        leader, follower = await at.leader(), await at.follower()
        task = await at.start_ask(follower, b"x", 20.0)
        await at.cluster.until(lambda: len(at.calls) == 1, timeout_s=5.0)
        leader.crash()
        await asyncio.wait([task], timeout=PATIENCE_S)
        with pytest.raises((NotLeader, Dropped)) as caught:
            task.result()
        assert caught.value.outcome is Outcome.UNKNOWN
        await at.leader()
        assert len(at.calls) == 1

    ring(scenario)


def test_ask_that_is_not_answered_ends_at_its_deadline() -> None:
    async def scenario(at: Ring) -> None:
        at.gate = asyncio.Event()
        for server in (await at.leader(), await at.follower()):
            with pytest.raises(DeadlineExceeded) as caught:
                await at.ask(server, b"x", 0.5)
            assert caught.value.outcome is Outcome.UNKNOWN

    ring(scenario)


def test_ask_of_a_node_that_closes_ends_with_closed() -> None:
    async def scenario(at: Ring) -> None:
        at.gate = asyncio.Event()
        follower = await at.follower()
        raft = raft_of(follower)
        task = await at.start_ask(follower, b"x", 20.0)
        await follower.close()
        await asyncio.wait([task], timeout=PATIENCE_S)
        with pytest.raises(Closed):
            task.result()
        with pytest.raises(Closed):
            await raft.ask_leader(b"x")
        raft.answer_asks(None)
        raft.answer_asks(lambda data: data)

    ring(scenario)


def test_asks_above_the_limit_are_dropped_and_the_others_answered() -> None:
    async def scenario(at: Ring) -> None:
        at.gate = asyncio.Event()
        follower = await at.follower()
        raft = raft_of(follower)

        def start() -> list[asyncio.Task[bytes]]:
            return [asyncio.ensure_future(raft.ask_leader(b"x")) for _ in range(MAX_CALLS + 1)]

        tasks = await follower.call(start)
        await at.cluster.until(tasks[-1].done, timeout_s=5.0)
        with pytest.raises(Dropped, match="calls to the leader under way") as caught:
            tasks[-1].result()
        assert caught.value.outcome is Outcome.NOT_APPLIED
        at.gate.set()
        await asyncio.wait(tasks, timeout=PATIENCE_S)
        assert len({task.result() for task in tasks[:-1]}) == 1
        assert (await at.ask(follower, b"y")).endswith(b" y"), "there is room again"

    ring(scenario)


def test_leader_bounds_the_calls_of_a_faulty_member() -> None:
    """A member that ignores its own limit must not fill the leader's memory."""

    async def scenario(at: Ring) -> None:
        at.gate = asyncio.Event()
        leader, follower = await at.leader(), await at.follower()
        sender = at.cluster.node_id(follower)
        asks = [Ask(number, b"x") for number in range(MAX_CALLS + 100)]
        assert leader.driver is not None
        driver = leader.driver
        await leader.call(lambda: driver.on_messages(sender, list(asks)))
        await at.cluster.until(lambda: len(at.calls) == MAX_CALLS, timeout_s=5.0)
        await asyncio.sleep(1.0)
        assert len(at.calls) == MAX_CALLS
        at.gate.set()
        assert (await at.ask(follower, b"y")).endswith(b" y")

    ring(scenario)


def test_forged_answers_have_no_effect() -> None:
    async def scenario(at: Ring) -> None:
        at.gate = asyncio.Event()
        follower = await at.follower()
        leader_id = at.cluster.node_id(await at.leader())
        task = await at.start_ask(follower, b"x")
        await at.cluster.until(lambda: len(at.calls) == 1, timeout_s=5.0)
        driver = follower.driver
        assert driver is not None
        number = driver.asking._number
        other = next(at.cluster.node_id(server) for server in at.cluster.running if not server.is_leader)
        forged = [
            (other, AskReply(number, b"forged")),
            (leader_id, AskReply(number + 1, b"forged")),
            (leader_id, AskReply(0, b"forged")),
        ]
        for sender, reply in forged:
            await follower.call(partial(driver.on_messages, sender, [reply]))
        assert not task.done()
        at.gate.set()
        await asyncio.wait([task], timeout=PATIENCE_S)
        assert task.result().endswith(b" x")
        await follower.call(lambda: driver.on_messages(leader_id, [AskReply(number, b"late")]))
        assert len(at.cluster.running) == 3

    ring(scenario)


def test_ask_with_an_unknown_code_is_a_request_that_failed() -> None:
    """A leader of a later version has other codes."""

    async def scenario(at: Ring) -> None:
        at.gate = asyncio.Event()
        follower = await at.follower()
        leader_id = at.cluster.node_id(await at.leader())
        task = await at.start_ask(follower, b"x")
        await at.cluster.until(lambda: len(at.calls) == 1, timeout_s=5.0)
        driver = follower.driver
        assert driver is not None
        reply = AskReply(driver.asking._number, b"", "of_a_later_version", "text", "", True)
        await follower.call(lambda: driver.on_messages(leader_id, [reply]))
        await asyncio.wait([task], timeout=PATIENCE_S)
        with pytest.raises(RequestFailed) as caught:
            task.result()
        assert (caught.value.code, caught.value.outcome) == ("of_a_later_version", Outcome.UNKNOWN)

    ring(scenario)


def test_ask_with_wrong_arguments_raises() -> None:
    async def scenario(at: Ring) -> None:
        follower = await at.follower()
        raft = raft_of(follower)
        for data in ("x", None, 7):
            with pytest.raises(TypeError, match="data must be bytes"):
                await at.ask(follower, data)  # type: ignore[arg-type]
        for timeout in (0.0, -1.0, 4000.0, float("nan")):
            with pytest.raises(ConfigError, match="timeout"):
                await at.ask(follower, b"x", timeout)
        with pytest.raises(TypeError, match="handler"):
            await follower.call(lambda: raft.answer_asks("x"))  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="has a handler"):
            await follower.call(lambda: raft.answer_asks(lambda data: data))
        await follower.call(lambda: raft.answer_asks(None))
        await follower.call(lambda: raft.answer_asks(lambda data: data))

    ring(scenario)
