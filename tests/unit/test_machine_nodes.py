"""Typed machines on nodes: three in memory, one in this process, the ready machines, settings files, the job queue."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
from pathlib import Path
from typing import Any, assert_type

import msgspec
import pytest

from syncline import Config, Machine, blocking, command, query
from syncline.errors import ConfigError, NodeFailed, NoLeader, Outcome, Rejected, SessionExpired, UsageError
from syncline.machines import (
    ReplicatedCounter,
    ReplicatedDict,
    ReplicatedLock,
    ReplicatedQueue,
    ReplicatedSet,
)
from syncline.testing import RaftCluster
from tests.helpers.ports import free_block


class Task(msgspec.Struct):
    name: str
    worker: str


class Tasks(Machine):
    """The machine of job 3: a control plane's memory."""

    assigned: dict[str, Task]

    @command
    def assign(self, job: str, to: str) -> bool:
        """Give a job to a worker, once."""
        if not to:
            raise Rejected("a worker has a name", code="no_worker")
        if job in self.assigned:
            return False
        self.assigned[job] = Task(job, to)
        return True

    @command(since=2)
    def clear(self) -> int:
        count = len(self.assigned)
        self.assigned.clear()
        return count

    @query
    def task(self, job: str) -> Task | None:
        return self.assigned.get(job)


def config_in(folder: Path) -> Config:
    address = f"127.0.0.1:{free_block(1)}"
    return Config(name="a", data_dir=str(folder / "a"), listen=address, peers={"a": address}, election_s=0.2)


class Times(Machine):
    @command
    def now(self) -> float:
        return self.entry.time_s


async def test_machine_commands_called_together_in_a_new_cluster_have_a_time(tmp_path: Path) -> None:
    """The first one waits until the cluster knows that its members read times. The others must not overtake it."""
    async with Times.open(config_in(tmp_path)) as times:
        other = times.using(timeout=20.0)
        first = await asyncio.gather(*(it.now() for it in (times, other, times, other)))
        assert all(first), first


async def test_machine_command_whose_caller_gives_up_leaves_the_wait_to_the_next(tmp_path: Path) -> None:
    async with Times.open(config_in(tmp_path)) as times:
        given_up = asyncio.ensure_future(times.now())
        await asyncio.sleep(0)
        given_up.cancel()
        assert await times.now()


async def test_machine_command_of_a_cluster_without_a_leader_asks_for_no_upgrade(tmp_path: Path) -> None:
    """Nothing is known of the members yet: the caller has to wait, and not to upgrade anything."""
    port = free_block(2)
    one, other = f"127.0.0.1:{port}", f"127.0.0.1:{port + 1}"
    config = Config(name="a", data_dir=str(tmp_path), listen=one, peers={"a": one, "b": other}, election_s=0.2)
    async with Tasks.open(config) as tasks:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        with pytest.raises(NoLeader, match=r"can apply version 2: .*Try later") as unknown:
            await tasks.using(timeout=0.4).clear()
        assert unknown.value.outcome is Outcome.NOT_APPLIED
        assert loop.time() - begun_s < 2.0


async def test_machine_calls_are_awaited_and_typed(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    async with Tasks.open(config) as tasks:
        assert_type(tasks, Tasks)
        done = await tasks.assign("t1", to="w3")
        assert_type(done, bool)
        assert done
        task = await tasks.task("t1")
        assert_type(task, Task | None)
        assert task == Task("t1", "w3")
        assert_type(Tasks.assign(Tasks(), "t1", "w"), bool)

        assert inspect.signature(tasks.assign).parameters["to"].annotation is str
        assert tasks.assign.__doc__ == "Give a job to a worker, once."
        with pytest.raises(Rejected, match="a worker has a name"):
            await tasks.assign("t2", "")
        before = tasks.raft.stats().commit
        with pytest.raises(TypeError, match=r"Tasks\.assign: to: expected `str`, got `int`"):
            await tasks.assign("t2", 7)  # type: ignore[arg-type]
        assert tasks.raft.stats().commit == before, "nothing was replicated"
        with pytest.raises(UsageError, match=r"Tasks\.assigned: an open machine has no state"):
            tasks.assigned  # noqa: B018 - the access is what is tested
        assert await tasks.using(consistency="stale", timeout=1.0).task("t9") is None
        with pytest.raises(ConfigError, match="linearizable or stale"):
            tasks.using(consistency="eventual")
        async with tasks.session() as once:
            assert await once.assign("t3", "w1")
            assert not await once.assign("t3", "w1")
        await tasks.raft.snapshot()
    async with Tasks.open(config) as tasks:
        assert await tasks.task("t3") == Task("t3", "w1")

    class Hits(ReplicatedCounter, version=2):
        """As new as the log."""

    with pytest.raises(NodeFailed, match="this log is of the machine 'Tasks', and Hits is"):
        await Hits.open(config)


async def test_machine_opened_by_await_can_be_entered(tmp_path: Path) -> None:
    tasks = await Tasks.open(config_in(tmp_path))
    async with tasks as entered:
        assert_type(entered, Tasks)
        once = await tasks.session()
        async with once as entered_once:
            assert_type(entered_once, Tasks)
            assert await once.assign("j", "w")
        with pytest.raises(SessionExpired):
            await once.assign("j2", "w")
        assert await tasks.task("j") == Task("j", "w"), "the session alone has ended"
        session = await tasks.raft.session()
        async with session as entered_session:
            assert entered_session is session
        with pytest.raises(SessionExpired):
            await session.apply(b"")
    assert tasks.raft.role == "stopped"
    with pytest.raises(UsageError, match="is not open"):
        async with Tasks():
            pass


async def test_machine_without_async_is_not_entered_by_async_with() -> None:
    class Plain(blocking.Machine):
        pass

    with pytest.raises(UsageError, match="not `async with`"):
        async with Plain():
            pass


async def test_machine_command_waits_for_the_version_of_the_cluster(tmp_path: Path) -> None:
    async with Tasks.open(config_in(tmp_path)) as tasks:
        await tasks.assign("t1", "w3")
        assert await tasks.clear() == 1, "a new cluster learns what its members can do, and the command waits for that"


async def test_machine_command_above_a_held_version_is_refused(tmp_path: Path) -> None:
    async with Tasks.open(msgspec.structs.replace(config_in(tmp_path), hold_level=1)) as tasks:
        await tasks.assign("t1", "w3")
        with pytest.raises(Rejected) as refused:
            await tasks.clear()
        assert refused.value.code == "needs_upgrade"
        assert refused.value.outcome is Outcome.NOT_APPLIED
        while (await tasks.raft.finalize_upgrade()).machine_version < 2:
            await tasks.raft.barrier()  # the member has not announced yet what it can do
        assert await tasks.clear() == 1


async def test_machine_log_without_its_commands_is_refused_at_open(tmp_path: Path) -> None:
    """Each from the log alone, without a snapshot."""
    config = config_in(tmp_path)
    async with Tasks.open(config) as tasks:
        await tasks.assign("t1", "w3")

    class Renamed(Machine, name="Tasks", version=2):
        assigned: dict[str, Task]

        @command
        def give(self, job: str, to: str) -> bool:
            self.assigned[job] = Task(job, to)
            return True

    with pytest.raises(NodeFailed, match=r"commands that Renamed does not have: assign \(since 1\)"):
        await Renamed.open(config)

    class Corrected(Machine, name="Tasks", removed={"clear": 2}):
        assigned: dict[str, Task]

        @command(since=2, was="assign")
        def give(self, job: str, to: str) -> bool:
            self.assigned[job] = Task(job, to)
            return True

        @query
        def count(self) -> int:
            return len(self.assigned)

    async with Corrected.open(config) as again:
        await again.give("t2", "w4")
        assert await again.count() == 2


def test_machine_on_three_nodes_survives_its_leader(raft_cluster: Any) -> None:
    cluster: RaftCluster = raft_cluster(Tasks)
    for number in range(30):
        cluster.apply(Tasks.assign.encode(f"t{number}", "w1"))
    old = cluster.leader
    cluster.crash(old, power_loss=True)
    assert Tasks.assign.answer(cluster.apply(Tasks.assign.encode("t3", "w2"))) is False  # type: ignore[arg-type]
    assert Tasks.assign.answer(cluster.apply(Tasks.assign.encode("t30", "w2"))) is True  # type: ignore[arg-type]
    cluster.restart(old)
    cluster.snapshot(cluster.leader)
    cluster.assert_same_state()
    assert len(cluster.machine(old).assigned) == 31  # type: ignore[attr-defined]


def test_machine_command_unknown_to_the_leader_never_enters_the_log(raft_cluster: Any) -> None:
    cluster: RaftCluster = raft_cluster(Tasks)
    follower = cluster.followers[0]
    with pytest.raises(Rejected, match="later, which Tasks does not have"):
        cluster.apply(msgspec.msgpack.encode(("later", {})), node=follower)
    assert cluster.apply(Tasks.assign.encode("t1", "w1"), node=follower)
    assert cluster.error(follower) is None


# -- ready machines ---------------------------------------------------------------------------------------------------


async def test_ready_machines_do_what_they_say(tmp_path: Path) -> None:
    async with ReplicatedDict.open(config_in(tmp_path / "dict")) as entries:
        await use_dict(entries)
    async with ReplicatedCounter.open(config_in(tmp_path / "counter")) as counter:
        await use_counter(counter)
    async with ReplicatedQueue.open(config_in(tmp_path / "queue")) as queue:
        await use_queue(queue)
    async with ReplicatedSet.open(config_in(tmp_path / "set")) as members:
        await use_set(members)
    async with ReplicatedLock.open(config_in(tmp_path / "lock")) as locks:
        await use_lock(locks)


async def use_dict(entries: ReplicatedDict) -> None:
    assert await entries.put("mode", "blue") is None
    assert await entries.put("mode", 7) == "blue"
    assert not await entries.put_if("mode", "red", "blue")
    assert await entries.put_if("new", 1.5, None)
    assert (await entries.get("mode"), await entries.size()) == (7, 2)
    assert await entries.items() == {"mode": 7, "new": 1.5}
    assert (await entries.pop("mode"), await entries.pop("mode")) == (7, None)


async def use_counter(counter: ReplicatedCounter) -> None:
    assert [await counter.add(), await counter.add(by=-5)] == [1, -4]
    with pytest.raises(Rejected, match="does not fit in 64 bits"):
        await counter.add(-(2**63))
    assert await counter.value() == -4


async def use_queue(queue: ReplicatedQueue) -> None:
    assert [await queue.put(value) for value in ("a", 2, None)] == [1, 2, 3]
    assert await queue.first(2) == ["a", 2]
    assert [await queue.take() for _ in range(4)] == [(1, "a"), (2, 2), (3, None), None]
    assert (await queue.put("b"), await queue.size()) == (4, 1)


async def use_set(members: ReplicatedSet) -> None:
    assert [await members.add("b"), await members.add("a"), await members.add("b")] == [True, True, False]
    assert (await members.has("a"), await members.all()) == (True, ["a", "b"])
    assert (await members.discard("a"), await members.discard("a")) == (True, False)


async def use_lock(locks: ReplicatedLock) -> None:
    assert [await locks.acquire("p", "w1"), await locks.acquire("p", "w2"), await locks.acquire("p", "w1")] == [
        1,
        None,
        1,
    ]
    assert await locks.holder("p") == ("w1", 1)
    assert (await locks.release("p", 9), await locks.release("p", 1)) == (False, True)
    assert (await locks.acquire("p", "w2"), await locks.holder("q")) == (2, None)


# -- settings ---------------------------------------------------------------------------------------------------------

FILE = """
name = "a"
data_dir = "{folder}/data"
peer_listen = "127.0.0.1:{port}"
election_s = 0.2
max_connections = 7

[initial_cluster]
a = "127.0.0.1:{port}"
"""


async def test_machine_settings_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    path = tmp_path / "cluster.toml"
    path.write_text('name = "a"\ndata_dir = "d"\n\nelection_s = "x"\n')
    with pytest.raises(ConfigError, match=r"cluster\.toml, line 4: election_s = 'x': expected `float`"):
        Tasks.open(path)


async def test_machine_open_refuses_what_is_no_machine(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        Tasks.open(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="open a class of it"):
        Machine.open(config_in(tmp_path))
    with pytest.raises(TypeError):
        Tasks.open(7)  # type: ignore[arg-type]


async def test_machine_opens_as_job_3_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cluster.toml").write_text(FILE.format(folder=tmp_path, port=free_block(1)))
    monkeypatch.chdir(tmp_path)
    async with Tasks.open("cluster.toml") as jobs:
        await jobs.assign("t1", "w3")
        assert await jobs.task("t1") == Task("t1", "w3")


# -- the job queue ----------------------------------------------------------------------------------------------------

QUEUE = Path(__file__).resolve().parents[2] / "examples" / "machines" / "job_queue.py"
LONGEST = 35


def test_job_queue_example_is_short() -> None:
    """Lines of code: without blank ones and the docstring."""
    lines = [line for line in QUEUE.read_text().splitlines()[1:] if line.strip()]
    assert len(lines) <= LONGEST


async def called(app: Any, method: str, path: str, query: str = "") -> tuple[int, Any]:
    """Call an ASGI application: status and JSON."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope: dict[str, Any] = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method,
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "headers": [],
        "client": None, "server": ("jobs", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], msgspec.json.decode(b"".join(message.get("body", b"") for message in sent[1:]))


def queue_app(name: str) -> Any:
    """The application of the example, in a module of its own for each node."""
    spec = importlib.util.spec_from_file_location(f"job_queue_{name}", QUEUE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


async def test_job_queue_example_runs_on_three_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = free_block(3)
    peers = {name: f"127.0.0.1:{first + at}" for at, name in enumerate("abc")}
    members = "".join(f'{name} = "{address}"\n' for name, address in peers.items())
    apps = {name: queue_app(name) for name in peers}
    async with contextlib.AsyncExitStack() as running:
        for name, app in apps.items():
            (tmp_path / "cluster.toml").write_text(
                f'name = "{name}"\ndata_dir = "{tmp_path}/{name}"\npeer_listen = "{peers[name]}"\nelection_s = 0.3\n'
                f"[initial_cluster]\n{members}"
            )
            monkeypatch.chdir(tmp_path)
            await running.enter_async_context(app.router.lifespan_context(app))
        a, b, c = apps.values()
        for number in range(3):
            assert await called(a, "POST", "/put", f"job=t{number}") == (200, None)
        taken = await asyncio.gather(*(called(app, "POST", "/take", "worker=w") for app in apps.values()))
        assert sorted(job for _, job in taken) == ["t0", "t1", "t2"], "each job went to one worker"
        assert await called(b, "POST", "/take", "worker=w") == (200, None)
        assert await called(c, "POST", "/done", "job=t1") == (200, True)
        assert await called(a, "GET", "/jobs") == (200, {"t0": "w", "t2": "w"})
        assert (await called(a, "POST", "/take"))[0] == 422
