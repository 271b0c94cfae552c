"""The applier: order, answers, refusals, failures, on a thread and on the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import BinaryIO, Self, cast

import pytest

from syncline.consensus.types import EntryType, LogEntry, MembershipState, SnapshotMeta
from syncline.errors import NodeFailed, Rejected
from syncline.node.applier import Applied, Applier, ApplyWork, Outcome, Restored, RestoreWork, SnapshotWork, Viewed
from syncline.node.envelope import Kind, LevelChange, MemberRecord, Proposal, encode
from syncline.node.fsm import Entry as Command
from syncline.node.fsm import FSMSnapshot
from syncline.platform.worker import ThreadWorkers
from syncline.storage.snapshots.store import SnapshotManifest, SnapshotReader
from tests.helpers.node_cluster import Listing, LoopListing

ME, OTHER = 1, 2
TOLD = MemberRecord(OTHER, "b", "127.0.0.1:7101", level=2, machine_version=3)
RISE = LevelChange(2, 3)


def entry(index: int, data: bytes, *, origin: int = ME, kind: Kind = Kind.COMMAND) -> LogEntry:
    return LogEntry(1, index, EntryType.NORMAL, encode(Proposal(kind, origin, 100 + index, data)))


class Run:
    """An applier and what came of it."""

    def __init__(self, machine: Listing) -> None:
        self.outcomes: list[Outcome] = []
        self.failures: list[BaseException] = []
        self.changed = asyncio.Event()
        self.applier = Applier(machine, ME, ThreadWorkers(), self._deliver, self._fail)

    def _deliver(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)
        self.changed.set()

    def _fail(self, error: BaseException) -> None:
        self.failures.append(error)
        self.changed.set()

    def put(self, *entries: LogEntry) -> None:
        self.applier.put(ApplyWork(entries, ()))

    async def ended(self, count: int = 1) -> list[Outcome]:
        while len(self.outcomes) < count and not self.failures:
            self.changed.clear()
            await self.changed.wait()
        return self.outcomes

    async def applied(self) -> Applied:
        outcome = (await self.ended())[0]
        assert isinstance(outcome, Applied)
        return outcome


class Reader:
    """Stands in for a snapshot in the store."""

    closed = False
    manifest = SnapshotManifest(9, 1, MembershipState(), 1, 0, "0" * 64, "test")

    def close(self) -> None:
        self.closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...

    def buffered(self) -> Reader:
        return self

    def verify(self) -> None: ...


class Restoring(Listing):
    def restore(self, source: BinaryIO) -> None:
        self.items = [b"restored"]


class RestoringOnLoop(LoopListing):
    def restore(self, source: BinaryIO) -> None:
        self.items = [b"restored"]


MACHINES = [Listing, LoopListing]


@pytest.mark.parametrize("make", MACHINES)
async def test_answers_are_for_this_nodes_own_in_order(make: type[Listing]) -> None:
    machine = make()
    work = Run(machine)
    change = LogEntry(1, 4, EntryType.CONF_CHANGE_V2, b"change")
    work.put(
        entry(1, b"a"),
        entry(2, b"b", origin=OTHER),
        LogEntry(1, 3, EntryType.NORMAL, b""),
        change,
        entry(5, b"refuse"),
        entry(6, b"", kind=Kind.BARRIER),
        entry(7, encode(TOLD), kind=Kind.ANNOUNCE, origin=OTHER),
        entry(8, encode(RISE), kind=Kind.LEVEL, origin=OTHER),
        entry(9, b"not a change of levels", kind=Kind.LEVEL, origin=OTHER),
        entry(10, b"c"),
    )
    done = await work.applied()
    answers = {number - 100: answer for number, _, _, answer in done.answers}
    assert set(answers) == {1, 5, 6, 10}
    assert (answers[1], answers[6], answers[10]) == (1, None, 3)
    assert isinstance(answers[5], Rejected)
    assert (done.first_index, done.last_index) == (1, 10)
    assert done.runtime == [change, TOLD, RISE], "in the order of the log"
    assert [index for index, _ in done.ignored] == [9]
    assert (machine.items, machine.indexes) == ([b"a", b"b", b"c"], [1, 2, 10])
    await work.applier.close()


@pytest.mark.parametrize("make", MACHINES)
async def test_any_other_exception_is_the_end(make: type[Listing]) -> None:
    machine = make()
    work = Run(machine)
    work.put(entry(1, b"a"), entry(2, b"break"))
    work.put(entry(3, b"never"))
    await work.ended()
    assert [type(error.__cause__) for error in work.failures] == [RuntimeError]
    work.put(entry(4, b"never"))
    await work.applier.close()
    assert machine.items == [b"a"]
    assert work.outcomes == []


class Leaving(Listing):
    """Its command "leave" raises what is no `Exception`."""

    leaves: type[BaseException] = SystemExit

    def apply(self, command: Command) -> object:
        if command.data == b"leave":
            raise self.leaves
        return super().apply(command)


class LoopLeaving(Leaving):
    apply_on_loop = True


@pytest.mark.parametrize("leaves", [SystemExit, GeneratorExit, asyncio.CancelledError])
@pytest.mark.parametrize("make", [Leaving, LoopLeaving])
async def test_applier_names_the_entry_whatever_apply_raises(make: type[Leaving], leaves: type[BaseException]) -> None:
    """`sys.exit()` in a command stops each node at this entry: the operator must read which one, and what to do."""
    machine = make()
    machine.leaves = leaves
    work = Run(machine)
    work.put(entry(1, b"a"), entry(2, b"leave"))
    await work.ended()
    [error] = work.failures
    assert isinstance(error, NodeFailed)
    assert f"{make.__name__}.apply raised {leaves.__name__}. It happened at entry 2" in str(error)
    await work.applier.close()


async def test_applier_interrupted_on_the_loop_stops_and_passes_it_on() -> None:
    """Ctrl-C may come within an apply on the loop. The state is in doubt then: nothing may be applied behind it."""
    machine = LoopLeaving()
    machine.leaves = KeyboardInterrupt
    work = Run(machine)
    with pytest.raises(KeyboardInterrupt):
        work.put(entry(1, b"a"), entry(2, b"leave"))
    work.put(entry(3, b"never"))
    assert [type(error) for error in work.failures] == [KeyboardInterrupt]
    assert machine.items == [b"a"]
    await work.applier.close()


@pytest.mark.parametrize("make", MACHINES)
async def test_applier_entry_of_garbage_is_ignored(make: type[Listing]) -> None:
    """All nodes apply the same entries: one that stops a node stops all of them, and again at each start."""
    machine = make()
    work = Run(machine)
    work.put(
        LogEntry(1, 1, EntryType.NORMAL, b"rubbish"),
        LogEntry(1, 2, EntryType.NORMAL, b"\x91" * 100_000),
        entry(3, b"rubbish", kind=Kind.ANNOUNCE),
        entry(4, encode(MemberRecord(OTHER, "other", "h:1")), kind=Kind.ANNOUNCE),
        LogEntry(1, 5, EntryType.NORMAL, encode(Proposal(-1, ME, 105, b""))),
        LogEntry(1, 6, EntryType.NORMAL, encode(Proposal(2**63, ME, 106, b""))),
        entry(7, encode(MemberRecord(OTHER, "x" * 20_000, "h:1")), kind=Kind.ANNOUNCE, origin=OTHER),
        entry(8, b"good"),
    )
    done = await work.applied()
    assert [index for index, _ in done.ignored] == [1, 2, 3, 4, 5, 6, 7]
    assert done.runtime == []
    assert machine.items == [b"good"]
    assert not work.failures
    await work.applier.close()


@pytest.mark.parametrize("kind", [max(Kind) + 1, 255])
async def test_applier_entry_of_a_later_version_stops_the_node(kind: int) -> None:
    """To ignore what a newer node has carried out would be a silent divergence."""
    work = Run(Listing())
    work.put(LogEntry(1, 9, EntryType.NORMAL, encode(Proposal(kind, OTHER, 1, b""))))
    await work.ended()
    assert isinstance(work.failures[0], NodeFailed)
    assert f"entry 9 is of kind {int(kind)}, which this version does not know" in str(work.failures[0])
    await work.applier.close()


async def test_a_view_before_a_failure_is_released() -> None:
    machine = Listing()
    work = Run(machine)
    with pytest.raises(NodeFailed):
        work.applier._process([SnapshotWork(), ApplyWork((entry(1, b"break"),), ())])
    assert machine.views == machine.released == 1
    await work.applier.close()


class Durable(Listing):
    applied_index = 2


async def test_a_durable_machine_is_not_given_what_it_has() -> None:
    machine = Durable()
    work = Run(machine)
    work.put(entry(1, b"a"), entry(2, b"b"), entry(3, b"c"))
    done = await work.applied()
    assert machine.items == [b"c"]
    assert [(number, answer) for number, _, _, answer in done.answers] == [(101, None), (102, None), (103, 1)]
    await work.applier.close()


class Batching(Listing):
    short = 0

    def apply_batch(self, entries: Sequence[Command]) -> Sequence[object]:
        self.items += [one.data for one in entries]
        answers: list[object] = [Rejected("no") if one.data == b"no" else one.index for one in entries]
        return answers[: len(answers) - self.short]


async def test_a_batching_machine_takes_all_at_once() -> None:
    machine = Batching()
    work = Run(machine)
    work.put(entry(1, b"a"), entry(2, b"no"), entry(3, b"c", origin=OTHER), entry(4, b"d"))
    done = await work.applied()
    answers = [answer for _, _, _, answer in done.answers]
    assert (answers[0], answers[2]) == (1, 4)
    assert isinstance(answers[1], Rejected)
    assert machine.items == [b"a", b"no", b"c", b"d"]
    machine.short = 1
    work.put(entry(5, b"e"))
    await work.ended(2)
    assert "answers" in str(work.failures[0])
    await work.applier.close()


@pytest.mark.parametrize("make", [Restoring, RestoringOnLoop])
async def test_what_follows_a_restore_waits_for_it(make: type[Listing]) -> None:
    machine = make()
    work = Run(machine)
    restore = RestoreWork(cast("SnapshotReader", Reader()), SnapshotMeta(), b"book")
    work.put(entry(1, b"before"))
    work.applier.put(restore)
    work.put(entry(2, b"after"))
    work.applier.put(restore)
    work.applier.put(SnapshotWork())
    work.put(entry(3, b"last"))
    kinds = [type(outcome) for outcome in await work.ended(6)]
    assert kinds == [Applied, Restored, Applied, Restored, Viewed, Applied]
    assert machine.items == [b"restored", b"last"]
    viewed = work.outcomes[4]
    assert isinstance(viewed, Viewed)
    view: FSMSnapshot = viewed.view
    written: list[bytes] = []

    class Sink:
        def write(self, data: bytes, /) -> object:
            written.append(data)
            return None

    view.persist(Sink())
    assert b"restored" in written[-1]
    assert b"last" not in written[-1], "the view is of its moment"
    await work.applier.close()


async def test_close_lets_a_snapshot_go_that_the_thread_has_left() -> None:
    """The close may come between the end of the thread's turn and the next one, which is never ordered then."""
    work, reader = Run(Listing()), Reader()
    work.applier._left.append(RestoreWork(cast("SnapshotReader", reader), SnapshotMeta(), b"book"))
    await work.applier.close()
    assert reader.closed
    assert work.outcomes == []
