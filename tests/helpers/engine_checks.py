"""The conformance suite of engines: what a state machine may rely on, whatever orders its log.

Each check is a coroutine that is given an `EngineSite`: one engine, somewhere. `EVERY` holds on all engines, Raft
included; `ON_LOGS` on all log backends. `tests/unit/test_engines.py` runs them on memory and on Raft,
`tests/compat/engines` on real servers.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import BinaryIO, Final, Protocol

import msgspec
import pytest

from syncline import FSM, BytesSnapshot, Engine, Entry, FSMSnapshot, OnceKey
from syncline.engines.backend import Mark
from syncline.engines.replica import LogReplica
from syncline.errors import (
    Closed,
    DeadlineExceeded,
    LeadershipLost,
    NodeFailed,
    OperationError,
    Outcome,
    Rejected,
    Superseded,
    TooLarge,
)
from syncline.testing.linearizability.history import PutCall, ReadCall, Recorder, Seen, Written
from syncline.testing.linearizability.verdict import judge
from tests.helpers.engine_faults import FaultyBackend
from tests.helpers.node_cluster import Listing

__all__ = ["EVERY", "ON_LOGS", "Check", "EngineSite", "LogCheck", "LogSite", "Registers", "judged_history"]


class EngineSite(Protocol):
    """One engine, with an empty log."""

    async def open(self, fsm: FSM[object]) -> Engine[object]:
        """Another node. All are closed after the check."""
        ...


class LogSite(EngineSite, Protocol):
    """One log backend."""

    rng: random.Random

    async def open_faulty(self, fsm: FSM[object], rate: float = 0.0) -> tuple[LogReplica[object], FaultyBackend]:
        """A node whose backend has faults."""
        ...

    async def restart(self) -> None:
        """Kill the backend, and start it again with all that it has acknowledged."""
        ...

    async def forget_machine(self) -> None:
        """Remove the name of the machine that the log notes: an earlier version has noted none."""
        ...

    async def save(self) -> None:
        """Keep a backup of the backend."""
        ...

    async def restore(self) -> None:
        """Put the backup in its place."""
        ...


Check = Callable[[EngineSite], Awaitable[None]]
LogCheck = Callable[[LogSite], Awaitable[None]]


class Registers:
    """A state machine: keys with values, and a revision."""

    def __init__(self) -> None:
        self.revision = 0
        self.values: dict[bytes, tuple[bytes, int]] = {}

    def apply(self, entry: Entry) -> object:
        key, value = msgspec.msgpack.decode(entry.data, type=tuple[bytes, bytes])
        self.revision += 1
        self.values[key] = value, self.revision
        return self.revision

    def snapshot(self) -> FSMSnapshot:
        return BytesSnapshot(msgspec.msgpack.encode((self.revision, self.values)))

    def restore(self, source: BinaryIO) -> None:
        self.revision, self.values = msgspec.msgpack.decode(
            source.read(), type=tuple[int, dict[bytes, tuple[bytes, int]]]
        )

    def seen(self, key: bytes) -> Seen:
        value, revision = self.values.get(key, (None, 0))
        return Seen(value, revision, self.revision)


# -- on every engine --------------------------------------------------------------------------------------------------


async def order_is_the_same_on_all_nodes(site: EngineSite) -> None:
    machines = [Listing() for _ in range(3)]
    nodes = [await site.open(machine) for machine in machines]

    async def call(number: int) -> None:
        for count in range(20):
            await nodes[number].apply(b"%d %d" % (number, count), timeout=20)

    await asyncio.gather(*(call(number) for number in range(3)), call(0))
    for node in nodes:
        await node.read_index(timeout=20)
    assert machines[0].items == machines[1].items == machines[2].items
    assert machines[0].indexes == machines[1].indexes == machines[2].indexes
    assert machines[0].indexes == sorted(set(machines[0].indexes))
    for number in range(1, 3):
        own = [item for item in machines[0].items if item.startswith(b"%d " % number)]
        assert own == [b"%d %d" % (number, count) for count in range(20)], "the commands of one caller keep their order"


async def many_keep_their_order_and_get_their_answers(site: EngineSite) -> None:
    machine = Listing()
    node = await site.open(machine)
    await site.open(Listing())
    await site.open(Listing())
    answers = await asyncio.gather(*node.apply_many([b"%d" % number for number in range(300)], timeout=20))
    assert answers == list(range(1, 301))
    assert machine.items == [b"%d" % number for number in range(300)]


async def refusals_reach_the_caller(site: EngineSite) -> None:
    node = await site.open(Listing())
    await site.open(Listing())
    await site.open(Listing())
    with pytest.raises(Rejected) as raised:
        await node.apply(b"refuse", timeout=20)
    assert raised.value.code == "refused"
    assert raised.value.outcome is Outcome.NOT_APPLIED
    with pytest.raises(TooLarge) as large:
        await node.apply(bytes(9 << 20), timeout=20)
    assert large.value.outcome is Outcome.NOT_APPLIED
    assert await node.apply(b"one", timeout=20) == 1, "neither of them was applied"


async def session_command_takes_effect_once(site: EngineSite) -> None:
    machines = [Listing() for _ in range(3)]
    nodes = [await site.open(machine) for machine in machines]
    async with nodes[0].session(timeout=20) as session:
        key = OnceKey(session.id, 1)
        once = [node.apply_once(b"x", key, timeout=20) for node in nodes]  # type: ignore[attr-defined]
        assert await asyncio.gather(*once) == [1, 1, 1]
        assert sorted(future.repeated for future in once) == [False, True, True]
    for node in nodes:
        await node.read_index(timeout=20)
    assert [machine.items for machine in machines] == [[b"x"]] * 3


async def entries_have_the_same_time_and_chance(site: EngineSite) -> None:
    class Dice(Listing):
        def apply(self, entry: Entry) -> object:
            self.items.append(b"%f %d" % (entry.time_s, entry.random.randrange(10**9)))
            return entry.time_s

    machines = [Dice() for _ in range(3)]
    nodes = [await site.open(machine) for machine in machines]
    assert await nodes[0].reach_level(2, timeout=20)
    for node in nodes * 3:
        await node.apply(b"roll", timeout=20)
    for node in nodes:
        await node.read_index(timeout=20)
    assert machines[0].items == machines[1].items == machines[2].items
    assert len(set(machines[0].items)) == 9
    times = [float(item.split()[0]) for item in machines[0].items]
    assert 0 < times[0] <= times[-1]
    assert times == sorted(times)


async def leadership_is_with_one_node(site: EngineSite) -> None:
    nodes = [await site.open(Listing()) for _ in range(3)]
    inside: list[int] = []
    numbers: list[int] = []

    async def lead(number: int) -> None:
        async with nodes[number].leadership(timeout=20) as term:
            inside.append(number)
            numbers.append(term.number)
            assert len(set(inside)) == 1, "two nodes lead at the same time"
            await term.apply(b"%d" % number, timeout=20)
            inside.remove(number)

    if isinstance(nodes[0], LogReplica):
        await asyncio.gather(*(lead(number) for number in range(3)))
        assert len(set(numbers)) == 3, "each leadership has a token of its own"
    else:
        leading = [asyncio.create_task(lead(number)) for number in range(3)]
        done, waiting = await asyncio.wait(leading, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert [task.exception() for task in done] == [None], "the others do not lead"
    assert sorted(numbers) == numbers


async def history_is_linearizable(site: EngineSite) -> None:
    machines = [Registers() for _ in range(3)]
    nodes = [await site.open(machine) for machine in machines]
    await judged_history(nodes, machines, operations=15, seed=1)


async def judged_history(
    nodes: list[Engine[object]], machines: list[Registers], *, operations: int, seed: int, timeout: float = 20.0
) -> None:
    """Clients on all nodes read and write; the checker judges what they saw."""
    recorder = Recorder(asyncio.get_running_loop().time)

    async def client(number: int) -> None:
        rng = random.Random(seed * 1000 + number)
        for count in range(operations):
            at = rng.randrange(len(nodes))
            key = b"k%d" % rng.randrange(3)
            request = PutCall(key, b"%d-%d" % (number, count)) if rng.random() < 0.5 else ReadCall(key)
            token = recorder.call(f"c{number}", request, node=str(at))
            try:
                if isinstance(request, PutCall):
                    data = msgspec.msgpack.encode((key, request.value))
                    revision = await nodes[at].apply(data, timeout=timeout)
                    assert isinstance(revision, int)
                    recorder.returned(token, Written(revision))
                else:
                    machine = machines[at]
                    recorder.returned(token, await nodes[at].read(lambda: machine.seen(key), timeout=timeout))  # noqa: B023
            except OperationError as error:
                recorder.failed(token, error)

    await asyncio.gather(*(client(number) for number in range(6)))
    for node in nodes:
        await node.read_index(timeout=timeout)
    assert machines[0].values == machines[1].values == machines[2].values
    final = {key: machines[0].seen(key) for key in (b"k0", b"k1", b"k2")}
    assert judge(recorder.history(), final=final) == []
    assert len(recorder) == 6 * operations


async def closed_node_ends_what_waits(site: EngineSite) -> None:
    node = await site.open(Listing())
    await site.open(Listing())
    await site.open(Listing())
    await node.apply(b"one", timeout=20)
    future = node.apply(b"two", timeout=20)
    await node.close()
    [answer] = await asyncio.gather(future, return_exceptions=True)
    assert answer == 2 or isinstance(answer, Closed)
    with pytest.raises(OperationError) as raised:
        await node.apply(b"three")
    assert (raised.value.code, raised.value.outcome) == ("closed", Outcome.NOT_APPLIED)


# -- on log backends --------------------------------------------------------------------------------------------------


async def lost_answers_repeat_nothing(site: LogSite) -> None:
    """With lost, late and refused requests no command is applied twice, and no acknowledged one is missing."""
    machines = [Listing() for _ in range(3)]
    opened = [await site.open_faulty(machine, 0.25) for machine in machines]
    acknowledged: list[bytes] = []
    refused: list[bytes] = []

    async def call(number: int) -> None:
        node = opened[number][0]
        for count in range(25):
            data = b"%d %d" % (number, count)
            try:
                await node.apply(data, timeout=0.05 if count % 5 == 0 else 30)
                acknowledged.append(data)
            except OperationError as error:
                if error.outcome is Outcome.NOT_APPLIED:
                    refused.append(data)

    await asyncio.gather(*(call(number) for number in range(3)))
    for _, faulty in opened:
        await faulty.settle()
    for node, _ in opened:
        await node.read_index(timeout=30)
    counts = Counter(machines[0].items)
    assert machines[0].items == machines[1].items == machines[2].items
    assert [data for data, count in counts.items() if count > 1] == []
    assert [data for data in acknowledged if data not in counts] == []
    assert [data for data in refused if data in counts] == [], "not_applied is a promise"
    assert sum(faulty.lost for _, faulty in opened) > 20


async def session_survives_lost_answers(site: LogSite) -> None:
    machine = Listing()
    node, faulty = await site.open_faulty(machine, 0.3)
    async with node.session(timeout=60) as session:
        answers = [await session.apply(b"%d" % number, timeout=60) for number in range(30)]
    await faulty.settle()
    await node.read_index(timeout=20)
    assert answers == list(range(1, 31))
    assert machine.items == [b"%d" % number for number in range(30)]


async def history_with_faults_is_linearizable(site: LogSite) -> None:
    machines = [Registers() for _ in range(3)]
    opened = [await site.open_faulty(machine, 0.15) for machine in machines]
    asyncio.get_running_loop().call_later(0.3, lambda: setattr(opened[0][1], "cut", True))
    asyncio.get_running_loop().call_later(0.8, lambda: setattr(opened[0][1], "cut", False))
    nodes: list[Engine[object]] = [node for node, _ in opened]
    await judged_history(nodes, machines, operations=25, seed=site.rng.randrange(1000))


async def snapshot_replaces_the_log(site: LogSite) -> None:
    """A new node loads the snapshot, and the sessions in it; the records before it are gone."""
    machine = Listing()
    node, _ = await site.open_faulty(machine)
    session = await node.session(timeout=20)
    assert await session.apply(b"once", timeout=20) == 1
    for number in range(12):
        await node.apply(b"%d" % number, timeout=20)
    taken = await node.snapshot()
    assert taken.index == node.stats().applied == node.stats().snapshot_index
    await node.apply(b"after", timeout=20)
    other = Listing()
    second, _ = await site.open_faulty(other)
    assert other.items == machine.items
    assert other.restored == 1
    assert len(other.indexes) == 1, "all but the last command came with the snapshot"
    assert other.indexes[-1] == machine.indexes[-1], "the numbers go on"
    repeated = second.apply_once(b"once", OnceKey(session.id, 1), timeout=20)
    assert await repeated == 1
    assert repeated.repeated


async def trim_of_nothing_removes_nothing(site: LogSite) -> None:
    """A log that is shorter than what is kept. (To etcd a highest revision of 0 is none.)"""
    machine, other = Listing(), Listing()
    node, faulty = await site.open_faulty(machine)
    await node.apply(b"one", timeout=20)
    await node.snapshot()
    await faulty.inner.trim(0)
    assert await node.apply(b"two", timeout=20) == 2
    await node.read_index(timeout=20)
    page = await faulty.inner.read(Mark(), 0, 1 << 20)
    assert page.trimmed == 0
    await site.open_faulty(other)
    assert other.items == machine.items


async def late_attempt_after_the_trim_has_no_effect(site: LogSite) -> None:
    """The record is gone, and its attempt arrives once more: the writer's number says that it was applied."""
    machine, other = Listing(), Listing()
    node, faulty = await site.open_faulty(machine)
    await node.apply(b"once", timeout=20)
    late = faulty.appended
    await node.apply(b"then", timeout=20)
    await node.snapshot()
    await faulty.inner.trim(node.stats().position)
    await faulty.inner.append(*late, 0, Mark())
    await node.read_index(timeout=20)
    assert machine.items == [b"once", b"then"]
    second, _ = await site.open_faulty(other)
    assert other.items == machine.items
    assert await second.apply(b"more", timeout=20) == 3
    await node.read_index(timeout=20)
    assert machine.items == other.items == [b"once", b"then", b"more"]


async def slow_node_loads_the_snapshot(site: LogSite) -> None:
    """A node that is behind what was trimmed loses nothing, and applies nothing twice."""
    fast, slow = Listing(), Listing()
    node, _ = await site.open_faulty(fast)
    behind, faulty = await site.open_faulty(slow)
    await behind.apply(b"first", timeout=20)
    faulty.held = asyncio.Event()
    await faulty.holding.wait()
    pending = behind.apply(b"pending", timeout=30)
    while b"pending" not in fast.items:
        await node.read_index(timeout=20)
    for number in range(12):
        await node.apply(b"%d" % number, timeout=20)
    await node.snapshot()
    await node.apply(b"last", timeout=20)
    faulty.held.set()
    await behind.read_index(timeout=20)
    assert slow.items == fast.items
    assert slow.restored == 1
    assert behind.stats().snapshots_installed == 1
    with pytest.raises(OperationError) as raised:
        await pending
    assert raised.value.outcome is Outcome.UNKNOWN, "it was applied, and its answer is not known"
    count = len(fast.items)
    assert await behind.apply(b"more", timeout=20) == count + 1


async def fenced_command_is_refused_after_the_leadership(site: LogSite) -> None:
    machine = Listing()
    first, faulty = await site.open_faulty(machine)
    second, _ = await site.open_faulty(Listing())
    ended = asyncio.Event()
    async with first.leadership(timeout=20) as term:
        await term.apply(b"mine", timeout=20)
        old = term.number
    with pytest.raises(Superseded):
        await first.apply(b"no leader", term=old, timeout=20)
    async with second.leadership(timeout=20) as term:
        assert term.number > old
        with pytest.raises(Superseded) as raised:
            await first.apply(b"too late", term=old, timeout=20)
        assert raised.value.outcome is Outcome.NOT_APPLIED

    async def lose() -> None:
        async with first.leadership(timeout=20) as term:
            await first._driver.backend.release(term.number)
            async with second.leadership(timeout=20):
                await asyncio.wait_for(ended.wait(), 30)

    with pytest.raises(LeadershipLost):
        await lose()
    assert first.role == "follower"
    await first.read_index(timeout=20)
    assert machine.items == [b"mine"]
    assert not faulty.cut


async def cut_off_node_says_what_is_known(site: LogSite) -> None:
    machine = Listing()
    node, faulty = await site.open_faulty(machine)
    assert await node.apply(b"one", timeout=20) == 1
    faulty.cut = True
    under_way = node.apply(b"two", timeout=0.5)
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded) as raised:
        await node.read_index(timeout=0.3)
    assert raised.value.outcome is Outcome.NOT_APPLIED
    assert await node.read(lambda: len(machine.items), stale=True) == 1
    queued = node.apply(b"three", timeout=0.1)
    outcomes = await asyncio.gather(under_way, queued, return_exceptions=True)
    assert [error.outcome for error in outcomes if isinstance(error, OperationError)] == [
        Outcome.UNKNOWN,
        Outcome.NOT_APPLIED,
    ]
    assert node.stats().trouble
    faulty.cut = False
    assert await node.apply(b"four", timeout=20) == len(machine.items)
    assert b"three" not in machine.items


async def restarted_backend_loses_and_repeats_nothing(site: LogSite) -> None:
    machines = [Listing(), Listing()]
    nodes = [(await site.open_faulty(machine))[0] for machine in machines]
    acknowledged: list[bytes] = []
    stop = asyncio.Event()

    async def call(number: int) -> None:
        count = 0
        while not stop.is_set():
            count += 1
            data = b"%d %d" % (number, count)
            await nodes[number].apply(data, timeout=60)
            acknowledged.append(data)

    calling = asyncio.gather(call(0), call(1))
    before = await _grown(acknowledged, 10)
    await site.restart()
    await _grown(acknowledged, before + 10)
    stop.set()
    await calling
    for node in nodes:
        await node.read_index(timeout=20)
    assert machines[0].items == machines[1].items
    assert sorted(machines[0].items) == sorted(acknowledged)


async def _grown(items: list[bytes], size: int) -> int:
    while len(items) < size:  # noqa: ASYNC110 - the backend may be another process
        await asyncio.sleep(0.01)
    return len(items)


async def broken_machine_stops_the_node(site: LogSite) -> None:
    node, _ = await site.open_faulty(Listing())
    with pytest.raises(NodeFailed) as raised:
        await node.apply(b"break", timeout=20)
    assert "RuntimeError" in str(raised.value)
    assert node.role == "stopped"
    with pytest.raises(NodeFailed) as raised:
        await site.open_faulty(Listing())
    assert "RuntimeError" in str(raised.value)


async def record_at_the_limit_is_taken(site: LogSite) -> None:
    machine = Listing()
    node, faulty = await site.open_faulty(machine)
    largest = bytes((1 << 20) - 1024)
    await node.apply(largest, timeout=20)
    appends = faulty.appends
    with pytest.raises(TooLarge, match="limit is 1047552"):
        await node.apply(largest + b"x", timeout=20)
    assert faulty.appends == appends, "refused before anything is written"
    await asyncio.gather(*node.apply_many([largest] * 3, timeout=60))
    assert [len(item) for item in machine.items] == [len(largest)] * 4


async def snapshots_are_taken_by_themselves(site: LogSite) -> None:
    machine = Listing()
    node, _ = await site.open_faulty(machine)
    for number in range(60):
        await node.apply(b"%d" % number, timeout=20)
    while node.stats().snapshots_taken == 0:
        await node.apply(b"more", timeout=20)
    await node.read_index(timeout=20)
    fresh = Listing()
    await site.open_faulty(fresh)
    assert fresh.restored == 1
    assert fresh.items == machine.items


EVERY: Final[list[Check]] = [
    order_is_the_same_on_all_nodes,
    many_keep_their_order_and_get_their_answers,
    refusals_reach_the_caller,
    session_command_takes_effect_once,
    entries_have_the_same_time_and_chance,
    leadership_is_with_one_node,
    history_is_linearizable,
    closed_node_ends_what_waits,
]
ON_LOGS: Final[list[LogCheck]] = [
    lost_answers_repeat_nothing,
    session_survives_lost_answers,
    history_with_faults_is_linearizable,
    snapshot_replaces_the_log,
    trim_of_nothing_removes_nothing,
    late_attempt_after_the_trim_has_no_effect,
    slow_node_loads_the_snapshot,
    fenced_command_is_refused_after_the_leadership,
    cut_off_node_says_what_is_known,
    restarted_backend_loses_and_repeats_nothing,
    broken_machine_stops_the_node,
    record_at_the_limit_is_taken,
    snapshots_are_taken_by_themselves,
]
