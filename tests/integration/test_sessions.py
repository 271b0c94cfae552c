"""Sessions on a cluster in virtual time: once, over retries, changes of leader, restarts and snapshots."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from typing import BinaryIO, ClassVar, TypeVar

import msgspec
import pytest

from syncline import BytesSnapshot, Entry, FSMSnapshot, OnceKey, Raft, Session
from syncline.errors import (
    AnswerNotKept,
    ConfigError,
    IdempotencyMismatch,
    LimitReached,
    OperationError,
    Outcome,
    Rejected,
    SessionExpired,
)
from syncline.node.intake import MAX_OPENED
from syncline.sessions.table import Limits
from syncline.testing import RaftCluster
from syncline.testing.cluster import Settings

Result = TypeVar("Result")


class Tally:
    """Counts each command. `apply` answers with how many there are, and with the command."""

    def __init__(self) -> None:
        self.items: list[bytes] = []

    def apply(self, entry: Entry) -> object:
        if entry.data.startswith(b"refuse"):
            raise Rejected("not this one", code="refused", details={"at": entry.index})
        if entry.data == b"large":
            return bytes(100_000)
        if entry.data == b"object":
            return object()
        self.items.append(entry.data)
        return [len(self.items), entry.data]

    def snapshot(self) -> FSMSnapshot:
        return BytesSnapshot(msgspec.msgpack.encode(self.items))

    def restore(self, source: BinaryIO) -> None:
        self.items = msgspec.msgpack.decode(source.read(), type=list[bytes])


class LoopTally(Tally):
    apply_on_loop = True


class DurableTally(Tally):
    """Keeps its own state: here in a class attribute, by the name that the test gives."""

    disk: ClassVar[dict[str, tuple[int, list[bytes]]]] = {}
    opened: ClassVar[list[str]] = []

    def __init__(self) -> None:
        super().__init__()
        self.name = self.opened.pop(0)
        self.applied_index, items = self.disk.get(self.name, (0, []))
        self.items = list(items)

    def apply(self, entry: Entry) -> object:
        answer = super().apply(entry)
        self.applied_index = entry.index
        self.disk[self.name] = (entry.index, list(self.items))
        return answer


class Nodes:
    """A cluster, and calls of its nodes' methods."""

    def __init__(self, machine: Callable[[], Tally] = Tally, nodes: int = 3, **settings: float) -> None:
        made = Settings(**settings)  # type: ignore[arg-type]  # all are numbers
        self.cluster = RaftCluster(machine, nodes=nodes, settings=made)

    def call(self, node: str, work: Callable[[Raft[object]], Awaitable[Result]]) -> Result:
        server = self.cluster._cluster.server(node)
        raft = server.raft
        assert raft is not None

        async def run() -> Result:
            return await work(raft)

        async def ask() -> Result:
            task = await server.call(lambda: asyncio.ensure_future(run()))
            async with asyncio.timeout(60):
                return await task

        return self.cluster._run(ask())

    def once(self, node: str, key: OnceKey, data: bytes, timeout: float = 5.0) -> tuple[object, bool]:
        async def work(raft: Raft[object]) -> tuple[object, bool]:
            future = raft.apply_once(data, key, timeout=timeout)
            return await future, future.repeated

        return self.call(node, work)

    def items(self, node: str) -> list[bytes]:
        machine = self.cluster.machine(node)
        assert isinstance(machine, Tally)
        return machine.items

    def table_size(self, node: str) -> int:
        driver = self.cluster._cluster.server(node).driver
        assert driver is not None
        return len(driver.parts.machine.sessions.table)


@pytest.fixture(params=[Tally, LoopTally])
def nodes(request: pytest.FixtureRequest) -> Iterator[Nodes]:
    made = Nodes(request.param)
    yield made
    made.cluster.close()


def test_session_command_repeated_on_another_node_has_the_same_answer(nodes: Nodes) -> None:
    first, second, third = nodes.cluster.nodes
    session = nodes.call(first, lambda raft: raft.open_session())
    key = OnceKey(session, 1)
    assert nodes.once(first, key, b"x") == ([1, b"x"], False)
    assert nodes.once(second, key, b"x") == ([1, b"x"], True)
    assert nodes.once(third, key, b"x") == ([1, b"x"], True)
    assert nodes.once(third, OnceKey(session, 2), b"y") == ([2, b"y"], False)
    nodes.cluster.assert_same_state()
    assert nodes.items(first) == [b"x", b"y"]


def test_session_commands_of_one_batch_with_one_key_run_once(nodes: Nodes) -> None:
    """Both stand in one batch: the second has no recorded answer yet when it is decided."""
    leader = nodes.cluster.leader
    session = nodes.call(leader, lambda raft: raft.open_session())

    async def twice(raft: Raft[object]) -> list[tuple[object, bool]]:
        futures = [raft.apply_once(b"x", OnceKey(session, 1)) for _ in range(3)]
        return [(await future, future.repeated) for future in futures]

    assert nodes.call(leader, twice) == [([1, b"x"], False), ([1, b"x"], True), ([1, b"x"], True)]
    assert nodes.items(leader) == [b"x"]


def test_session_refusal_is_recorded_as_any_answer(nodes: Nodes) -> None:
    leader = nodes.cluster.leader
    session = nodes.call(leader, lambda raft: raft.open_session())
    at = []
    for node in (leader, *nodes.cluster.followers):
        with pytest.raises(Rejected, match="not this one") as raised:
            nodes.once(node, OnceKey(session, 1), b"refuse")
        assert raised.value.code == "refused"
        at.append(raised.value.details["at"])
    assert len(set(at)) == 1


@pytest.mark.parametrize("data", [b"large", b"object"])
def test_session_answer_that_is_not_kept_is_told(nodes: Nodes, data: bytes) -> None:
    leader = nodes.cluster.leader
    session = nodes.call(leader, lambda raft: raft.open_session())
    nodes.once(leader, OnceKey(session, 1), data)
    with pytest.raises(AnswerNotKept):
        nodes.once(leader, OnceKey(session, 1), data)


def test_session_key_of_another_command_is_refused(nodes: Nodes) -> None:
    leader = nodes.cluster.leader
    nodes.once(leader, OnceKey(text=b"order 7"), b"x")
    with pytest.raises(IdempotencyMismatch) as raised:
        nodes.once(nodes.cluster.followers[0], OnceKey(text=b"order 7"), b"y")
    assert raised.value.outcome is Outcome.NOT_APPLIED
    assert nodes.once(leader, OnceKey(text=b"order 7"), b"x") == ([1, b"x"], True)


def test_session_that_has_ended_runs_nothing_and_says_so(nodes: Nodes) -> None:
    leader = nodes.cluster.leader
    session = nodes.call(leader, lambda raft: raft.open_session())
    nodes.once(leader, OnceKey(session, 1), b"x")
    assert nodes.call(leader, lambda raft: raft.end_session(session)) is True
    assert nodes.call(leader, lambda raft: raft.end_session(session)) is False
    with pytest.raises(SessionExpired) as raised:
        nodes.once(leader, OnceKey(session, 1), b"x")
    assert raised.value.outcome is Outcome.UNKNOWN
    assert nodes.items(leader) == [b"x"]


def test_session_survives_a_restart_and_an_installed_snapshot(nodes: Nodes) -> None:
    """One node gets the table by its own log, one by its own snapshot, one by the leader's."""
    cluster = nodes.cluster
    leader = cluster.leader
    late, other = cluster.followers
    session = nodes.call(leader, lambda raft: raft.open_session())
    cluster.crash(late)
    nodes.once(leader, OnceKey(session, 1), b"x")
    for number in range(120):
        cluster.apply(b"%d" % number)
    cluster.snapshot(leader)
    cluster.snapshot(other)
    cluster.restart(late)
    cluster.crash(other)
    cluster.restart(other)
    cluster.settle()
    for node in cluster.nodes:
        assert nodes.once(node, OnceKey(session, 1), b"x") == ([1, b"x"], True)
    cluster.assert_same_state()
    assert nodes.items(leader).count(b"x") == 1


def test_session_scope_numbers_its_commands_and_ends(nodes: Nodes) -> None:
    async def work(raft: Raft[object]) -> list[object]:
        async with raft.session() as session:
            assert isinstance(session, Session)
            answers = [await session.apply(b"%d" % number) for number in range(3)]
            answers += await asyncio.gather(*(session.apply(b"%d" % number) for number in range(3, 9)))
        with pytest.raises(SessionExpired) as raised:
            await session.apply(b"late")
        assert raised.value.outcome is Outcome.NOT_APPLIED
        return answers

    leader = nodes.cluster.leader
    answers = nodes.call(nodes.cluster.followers[0], work)
    assert answers == [[number + 1, b"%d" % number] for number in range(9)]
    nodes.cluster.settle()
    assert nodes.table_size(leader) == 0


def test_session_retries_by_itself_when_the_leader_dies(nodes: Nodes) -> None:
    """The command stands in the log of a leader that dies before it answers; a follower asks again with the key."""
    cluster = nodes.cluster
    leader = cluster.leader
    follower = cluster.followers[0]

    async def opened(raft: Raft[object]) -> Session[object]:
        return await raft.session()

    session = nodes.call(follower, opened)
    cluster.isolate(leader)
    server = cluster._cluster.server(follower)
    task = cluster._run(_started(server.call(lambda: asyncio.ensure_future(session.apply(b"x", timeout=20)))))
    cluster.run(1.0)
    cluster.crash(leader)
    cluster.run(3.0)
    cluster.heal()
    cluster.restart(leader)
    cluster.settle()
    assert task.result() == [1, b"x"]
    assert [nodes.items(node) for node in cluster.nodes] == [[b"x"]] * 3


async def _started(future: asyncio.Future[asyncio.Task[object]]) -> asyncio.Task[object]:
    return await future


def test_session_expired_at_the_first_attempt_is_not_applied(nodes: Nodes) -> None:
    """A session knows which attempt is the first one."""

    async def work(raft: Raft[object]) -> Outcome:
        session = await raft.session()
        await raft.end_session(session.id)
        with pytest.raises(SessionExpired) as raised:
            await session.apply(b"x")
        return raised.value.outcome

    assert nodes.call(nodes.cluster.leader, work) is Outcome.NOT_APPLIED


def test_session_window_of_commands_under_way_is_bounded(nodes: Nodes) -> None:
    async def work(raft: Raft[object]) -> int:
        session = await raft.session()
        tasks = [asyncio.ensure_future(session.apply(b"x")) for _ in range(Limits().window + 1)]
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(ended[-1], LimitReached)
        return sum(isinstance(answer, list) for answer in ended)

    assert nodes.call(nodes.cluster.leader, work) == Limits().window


def test_session_that_is_idle_is_ended_by_the_leader() -> None:
    made = Nodes(session_idle_s=8.0)
    with made.cluster as cluster:
        leader = cluster.leader
        idle = made.call(leader, lambda raft: raft.open_session())
        busy = made.call(leader, lambda raft: raft.open_session())
        for sequence in range(1, 6):
            cluster.run(2.0)
            made.once(leader, OnceKey(busy, sequence), b"x")
        with pytest.raises(SessionExpired):
            made.once(leader, OnceKey(idle, 1), b"x")
        assert made.once(leader, OnceKey(busy, 6), b"x")[1] is False


def test_session_is_not_ended_early_by_a_new_leader() -> None:
    """A new leader does not know for how long a session was idle: it counts from its own start."""
    made = Nodes(session_idle_s=8.0)
    with made.cluster as cluster:
        session = made.call(cluster.leader, lambda raft: raft.open_session())
        cluster.run(6.0)
        leader = cluster.transfer_leadership()
        cluster.run(6.0)
        assert made.once(leader, OnceKey(session, 1), b"x") == ([1, b"x"], False)


def test_session_of_a_durable_machine_survives_its_start() -> None:
    """Entries that the machine has on its own disk are not applied again: they count as applied, without an answer."""
    DurableTally.disk, DurableTally.opened = {}, ["a"]
    made = Nodes(DurableTally, nodes=1)
    with made.cluster as cluster:
        session = made.call("n1", lambda raft: raft.open_session())
        made.once("n1", OnceKey(session, 1), b"x")
        cluster.snapshot("n1")
        made.once("n1", OnceKey(session, 2), b"y")
        cluster.crash("n1")
        DurableTally.opened = ["a"]
        cluster.restart("n1")
        cluster.settle()
        assert made.once("n1", OnceKey(session, 1), b"x") == ([1, b"x"], True)
        with pytest.raises(AnswerNotKept):
            made.once("n1", OnceKey(session, 2), b"y")
        assert made.once("n1", OnceKey(session, 3), b"z") == ([3, b"z"], False)


@pytest.mark.parametrize(
    "key", [OnceKey(), OnceKey(1), OnceKey(1, 1, 2), OnceKey(text=bytes(129)), OnceKey(1, 1, 1, b"x"), OnceKey(-1, 1)]
)
def test_session_key_that_is_none_is_a_config_error(nodes: Nodes, key: OnceKey) -> None:
    with pytest.raises(ConfigError):
        nodes.once(nodes.cluster.leader, key, b"x")


@pytest.mark.parametrize(
    "key",
    ["k", None, OnceKey("1", 1), OnceKey(1, 1.0), OnceKey(True, 1), OnceKey(text="x"), OnceKey(1, 1, None)],  # type: ignore[arg-type]
)
def test_session_key_of_a_wrong_type_is_a_type_error(nodes: Nodes, key: OnceKey) -> None:
    with pytest.raises(TypeError):
        nodes.once(nodes.cluster.leader, key, b"x")


def test_session_calls_with_wrong_arguments_raise_at_once(nodes: Nodes) -> None:
    async def work(raft: Raft[object]) -> None:
        with pytest.raises(TypeError):
            raft.session(timeout="5")  # type: ignore[arg-type]
        with pytest.raises(ConfigError):
            await raft.open_session(timeout=0)
        with pytest.raises(ConfigError):
            await raft.end_session(0)
        with pytest.raises(TypeError):
            raft.apply_once("x", OnceKey(1, 1))  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            raft.apply_once(b"x", OnceKey(1, 1), fingerprint="x")  # type: ignore[arg-type]
        async with raft.session() as session:
            with pytest.raises(TypeError):
                await session.apply("x")  # type: ignore[arg-type]
            assert await session.apply(b"x") == [1, b"x"]

    nodes.call(nodes.cluster.leader, work)


def test_session_without_a_quorum_is_not_opened(nodes: Nodes) -> None:
    cluster = nodes.cluster
    leader = cluster.leader
    for node in cluster.followers:
        cluster.crash(node)

    async def work(raft: Raft[object]) -> OperationError:
        with pytest.raises(OperationError) as raised:
            await raft.open_session(timeout=3.0)
        return raised.value

    assert nodes.call(leader, work).outcome is Outcome.UNKNOWN


def test_session_openings_within_a_minute_are_bounded(nodes: Nodes) -> None:
    """Otherwise one caller, on any node, could end the sessions of all others within seconds."""

    async def work(raft: Raft[object]) -> list[object]:
        return await asyncio.gather(*(raft.open_session() for _ in range(MAX_OPENED + 1)), return_exceptions=True)

    for node in (nodes.cluster.leader, nodes.cluster.followers[0]):
        nodes.cluster.run(61.0)
        refused = [one for one in nodes.call(node, work) if not isinstance(one, int)]
        assert [type(one) for one in refused] == [LimitReached]
        assert "within 60 s" in str(refused[0])
    nodes.cluster.run(61.0)
    assert nodes.call(nodes.cluster.followers[0], lambda raft: raft.open_session())
