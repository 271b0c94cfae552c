"""`Raft.restore`: a snapshot replaces the state of a live cluster, on all nodes at one index."""

from __future__ import annotations

import asyncio
import hashlib
import io
import random
from pathlib import Path
from typing import BinaryIO

import pytest

from syncline import BytesSnapshot, Entry, FSMSnapshot, Machine, Raft, StateRestored, command
from syncline.consensus.types import EntryType, LogEntry
from syncline.errors import CorruptionError, Dropped, NoSpace, NotLeader, OperationError, Outcome, Rejected, UsageError
from syncline.kv.commands import Put, encode_command
from syncline.kv.machine import KvMachine
from syncline.machines.batteries import ReplicatedLock
from syncline.node.applier import Applied, Applier, ApplyWork, NotViewed, SnapshotWork, Viewed
from syncline.node.applier import Outcome as ApplierOutcome
from syncline.node.envelope import Kind, Proposal, encode
from syncline.node.examination import examine_forward
from syncline.node.renumbering import REVISION_JUMP
from syncline.node.restore_entries import (
    LONGEST_GAP,
    RESTORE_LEVEL,
    ArrivingState,
    RestoreEntry,
    RestoreStep,
    decode_restore_entry,
)
from syncline.platform.worker import ThreadWorkers
from syncline.transport.messages import Forward, ForwardedProposal
from tests.helpers.node_cluster import Cluster, Listing, all_apply, cluster, first_event, until


async def restorable(nodes: Cluster) -> Raft[object]:
    """The leader, once the cluster has risen to the level of restores."""
    leader = await nodes.leader()
    await until(leader, lambda: leader.level >= RESTORE_LEVEL)
    return leader


async def snapshot_file(raft: Raft[object]) -> bytes:
    info = await raft.snapshot()
    return read(Path(raft.config.data_dir, "snapshots", f"{info.index:016x}-{info.term:016x}.snap"))


def read(path: Path) -> bytes:
    return path.read_bytes()


async def agree(nodes: Cluster, items: list[bytes]) -> None:
    for name, raft in nodes.rafts.items():
        await until(raft, lambda name=name: nodes.machines[name].items == items)  # type: ignore[misc]


async def test_restore_replaces_the_state_on_all_nodes_and_after_restarts(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader = await restorable(nodes)
        for command in (b"one", b"two"):
            await leader.apply(command)
        saved = await snapshot_file(leader)
        for command in (b"three", b"four"):
            await leader.apply(command)
        membership = leader.membership()
        told = await first_event(leader, StateRestored, leader.restore(io.BytesIO(saved)))
        await agree(nodes, [b"one", b"two"])
        assert told.restored_index <= leader.stats().applied
        assert leader.membership() == membership
        assert await leader.apply(b"five") == 3
        await all_apply(nodes, b"six")
        await nodes.stop_all()
        await nodes.start_all()  # from their logs: the same entries, the same state
        await agree(nodes, [b"one", b"two", b"five", b"six"])


async def test_restore_of_many_pieces_reaches_a_node_that_was_away(tmp_path: Path) -> None:
    async with cluster(tmp_path, max_entry_bytes=4096) as nodes:
        leader = await restorable(nodes)
        items = [b"%04d" % number * 200 for number in range(50)]
        await asyncio.gather(*leader.apply_many(items))
        saved = await snapshot_file(leader)
        away = next(name for name, raft in nodes.rafts.items() if raft is not leader)
        await nodes.stop(away)
        await leader.apply(b"gone")
        await leader.restore(io.BytesIO(saved))
        await nodes.start(away)
        await agree(nodes, items)


async def test_restore_on_a_follower_takes_over_the_leadership(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader = await restorable(nodes)
        await leader.apply(b"one")
        saved = await snapshot_file(leader)
        await leader.apply(b"two")
        _, follower = await nodes.pair()
        await until(follower, lambda: follower.level >= RESTORE_LEVEL)
        await follower.restore(io.BytesIO(saved))
        assert follower.is_leader
        await agree(nodes, [b"one"])


async def test_restore_on_a_learner_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        leader = await restorable(nodes)
        await leader.apply(b"one")
        saved = await snapshot_file(leader)
        _, learner = await nodes.join(leader, "d", promote=False)
        await until(learner, lambda: learner.level >= RESTORE_LEVEL)
        with pytest.raises(NotLeader, match="only a voter"):
            await learner.restore(io.BytesIO(saved))


async def test_restore_of_a_bad_file_enters_no_log(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        leader = await restorable(nodes)
        await leader.apply(b"one")
        saved = await snapshot_file(leader)
        before = leader.stats().last_index
        flipped = bytearray(saved)
        flipped[-1] ^= 1
        for content in (b"", b"no snapshot", saved[:-1], bytes(flipped), saved + b"x"):
            with pytest.raises(CorruptionError):
                await leader.restore(io.BytesIO(content))
        with pytest.raises(UsageError, match="must be an empty Listing, not KvMachine"):
            await leader.restore(io.BytesIO(saved), trial=KvMachine())
        with pytest.raises(UsageError, match="is the state machine of this node"):
            await leader.restore(io.BytesIO(saved), trial=nodes.machine(leader))
        assert leader.stats().last_index == before
        assert nodes.machine(leader).items == [b"one"]


class RawFile(io.BytesIO):
    """A raw file that gives less than is asked for."""

    def read(self, size: int | None = -1) -> bytes:
        return super().read(min(size or 0, 100))


async def test_restore_reads_binary_files_of_all_kinds(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        leader = await restorable(nodes)
        await leader.apply(b"one")
        saved = await snapshot_file(leader)
        with pytest.raises(TypeError, match=r"it gave str\. Open it with mode 'rb'"):
            await leader.restore(io.StringIO("text"))  # type: ignore[arg-type]
        await leader.apply(b"two")
        await leader.restore(RawFile(saved))
        assert nodes.machine(leader).items == [b"one"]


class Refusing(Listing):
    """Loads a snapshot, and then has no numbers above the known ones."""

    def renumber(self, jump: int, source: BinaryIO | None) -> None:
        if source is not None:
            self.restore(source)
        raise OverflowError(jump)


class Closing(Listing):
    def restore(self, source: BinaryIO) -> None:
        super().restore(source)
        source.close()


@pytest.mark.parametrize("kind", [Refusing, Closing])
async def test_restore_that_the_nodes_could_not_load_enters_no_log(tmp_path: Path, kind: type[Listing]) -> None:
    """The trial is loaded by the same calls as the state of each node: one that fails there stops all of them."""
    nodes = Cluster(tmp_path, "a")
    nodes.make = kind
    await nodes.start_all()
    try:
        leader = await restorable(nodes)
        await leader.apply(b"one")
        saved, before = await snapshot_file(leader), leader.stats().last_index
        with pytest.raises(Rejected, match=r"can't load the snapshot: .*Nothing was changed") as refused:
            await leader.restore(io.BytesIO(saved))
        assert (refused.value.code, refused.value.outcome) == ("snapshot_refused", Outcome.NOT_APPLIED)
        assert leader.stats().last_index == before
        await leader.apply(b"two")
    finally:
        await nodes.stop_all()


async def test_restore_needs_the_feature_level(tmp_path: Path) -> None:
    """A member of an older version would stop at the first entry of the restore."""
    async with cluster(tmp_path, "a", hold_level=1) as nodes:
        leader = await nodes.leader()
        await leader.apply(b"one")
        with pytest.raises(UsageError, match="needs feature level 2, and the cluster is at level 1"):
            await leader.restore(io.BytesIO(await snapshot_file(leader)))


class NeedsArgument(Listing):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name


async def test_restore_asks_for_a_trial_if_it_can_not_make_one(tmp_path: Path) -> None:
    nodes = Cluster(tmp_path, "a")
    nodes.make = lambda: NeedsArgument("x")
    await nodes.start_all()
    try:
        leader = await restorable(nodes)
        await leader.apply(b"one")
        saved = await snapshot_file(leader)
        with pytest.raises(UsageError, match="give an empty state machine as `trial`"):
            await leader.restore(io.BytesIO(saved))
        await leader.restore(io.BytesIO(saved), trial=NeedsArgument("y"))
    finally:
        await nodes.stop_all()


class Tally(Machine):
    """A typed machine: its snapshot also has its list of commands."""

    count: int

    @command
    def add(self, by: int) -> int:
        self.count += by
        return self.count


async def test_restore_and_recover_of_a_typed_machine(tmp_path: Path) -> None:
    config = Cluster(tmp_path, "a").config("a")
    async with Tally.open(config) as tally:
        assert await tally.add(by=2) == 2
        raft = tally.raft
        await until(raft, lambda: raft.level >= RESTORE_LEVEL)
        saved = await snapshot_file(raft)
        assert await tally.add(by=40) == 42
        await raft.restore(io.BytesIO(saved))
        assert await tally.add(by=1) == 3
    await Raft.recover(config, Tally())
    async with Tally.open(config) as tally:
        assert await tally.add(by=1) == 4


async def test_restore_and_recover_give_no_token_of_a_lock_twice(tmp_path: Path) -> None:
    config = Cluster(tmp_path, "a").config("a")
    async with ReplicatedLock.open(config) as locks:
        raft = locks.raft
        await until(raft, lambda: raft.level >= RESTORE_LEVEL)
        assert await locks.acquire("x", "one") == 1
        saved = await snapshot_file(raft)
        assert await locks.acquire("y", "two") == 2
        await raft.restore(io.BytesIO(saved))
        assert await locks.holder("y") is None
        assert await locks.acquire("y", "three") == 2 + REVISION_JUMP
    await Raft.recover(config, ReplicatedLock())
    async with ReplicatedLock.open(config) as locks:
        assert await locks.acquire("z", "four") == 2 + 2 * REVISION_JUMP


async def test_restore_ends_all_sessions(tmp_path: Path) -> None:
    """Their commands' effects may be gone: a recorded answer would promise them."""
    async with cluster(tmp_path, "a") as nodes:
        leader = await restorable(nodes)
        await leader.apply(b"one")
        saved = await snapshot_file(leader)
        session = await leader.open_session()
        table = leader._driver.parts.machine.sessions
        assert session in table.table
        await leader.restore(io.BytesIO(saved))
        assert len(table.table) == 0


async def test_restore_that_loses_its_leadership_leaves_the_state(tmp_path: Path) -> None:
    async with cluster(tmp_path, max_entry_bytes=64) as nodes:  # some 1,500 pieces: it takes a while
        leader = await restorable(nodes)
        items = [b"%04d" % number * 12 for number in range(1000)]
        await asyncio.gather(*leader.apply_many(items))
        saved = await snapshot_file(leader)
        await leader.apply(b"last")
        arriving = leader._driver.parts.machine._arriving
        restoring = asyncio.ensure_future(leader.restore(io.BytesIO(saved)))
        await until(leader, lambda: arriving.active)
        await leader.transfer_leadership()
        with pytest.raises(OperationError) as lost:
            await restoring
        assert isinstance(lost.value, Dropped)
        assert lost.value.outcome is Outcome.NOT_APPLIED
        await agree(nodes, [*items, b"last"])
        await all_apply(nodes, b"goes on")
        assert (await leader.snapshot()).index, "what had arrived is dropped: snapshots are taken again"


async def test_restore_moves_revisions_and_frees_watchers(tmp_path: Path) -> None:
    nodes = Cluster(tmp_path, "abc")
    nodes.make = KvMachine  # type: ignore[assignment]  # the cluster's own helpers are not used with it
    await nodes.start_all()
    machines: list[KvMachine] = list(nodes.machines.values())  # type: ignore[arg-type]
    try:
        leader = await restorable(nodes)
        await leader.apply(encode_command(Put(b"a", b"1")))
        saved = await snapshot_file(leader)
        for number in range(5):
            await leader.apply(encode_command(Put(b"b", b"%d" % number)))
        known = max(machine.store.revision for machine in machines)
        info = await leader.restore(io.BytesIO(saved))
        for raft, machine in zip(nodes.rafts.values(), machines, strict=True):
            await until(raft, lambda raft=raft: raft.stats().applied >= info.index)  # type: ignore[misc]
            assert machine.store.get(b"b") is None
            assert machine.store.revision == known + REVISION_JUMP - 1
            assert machine.store.oldest == known + REVISION_JUMP
            machine.store.check()
        answer = await leader.apply(encode_command(Put(b"c", b"1")))
        assert answer.revision == known + REVISION_JUMP  # type: ignore[attr-defined]
        assert len({machine.digest() for machine in machines if machine.store.revision == answer.revision}) == 1  # type: ignore[attr-defined]
    finally:
        await nodes.stop_all()


async def test_restore_above_the_limit_of_the_state_is_refused(tmp_path: Path) -> None:
    nodes = Cluster(tmp_path, "a")
    nodes.make = lambda: KvMachine(max_bytes=20_000)  # type: ignore[assignment,return-value]
    await nodes.start_all()
    other = Cluster(tmp_path / "other", "a")
    other.make = KvMachine  # type: ignore[assignment]
    await other.start_all()
    try:
        source = await restorable(other)
        await source.apply(encode_command(Put(b"large", b"x" * 50_000)))
        with pytest.raises(NoSpace, match="the limit is 20000"):
            await (await restorable(nodes)).restore(io.BytesIO(await snapshot_file(source)))
    finally:
        await nodes.stop_all()
        await other.stop_all()


async def test_restore_above_the_memory_of_the_nodes_is_refused(tmp_path: Path) -> None:
    """Each node would refuse to load it, and stop for good."""
    nodes = Cluster(tmp_path, "a")
    nodes.make = lambda: KvMachine(memory_bytes=20_000)  # type: ignore[assignment,return-value]
    await nodes.start_all()
    other = Cluster(tmp_path / "other", "a")
    other.make = KvMachine  # type: ignore[assignment]
    await other.start_all()
    try:
        source = await restorable(other)
        await source.apply(encode_command(Put(b"large", b"x" * 50_000)))
        target = await restorable(nodes)
        with pytest.raises(Rejected, match="does not fit into memory"):
            await target.restore(io.BytesIO(await snapshot_file(source)))
        await target.apply(encode_command(Put(b"goes", b"on")))
    finally:
        await nodes.stop_all()
        await other.stop_all()


# -- the entries ------------------------------------------------------------------------------------------------------

STATE = b"the whole state"
BEGIN = RestoreEntry(RestoreStep.BEGIN, 7, len(STATE), hashlib.sha256(STATE).digest())
FINISH = RestoreEntry(RestoreStep.FINISH, 7, len(STATE))


def piece(offset: int, data: bytes, restore_id: int = 7) -> RestoreEntry:
    return RestoreEntry(RestoreStep.PIECE, restore_id, offset, data)


def test_arriving_state_is_whole_after_its_pieces() -> None:
    arriving = ArrivingState()
    assert arriving.take(BEGIN, 10, 2) is None
    assert arriving.take(piece(0, STATE[:4]), 11, 2) is None
    assert arriving.take(piece(4, STATE[4:]), 15, 2) is None
    source = arriving.finish(FINISH, 16, 2)
    assert not isinstance(source, Rejected)
    assert source.read() == STATE
    assert not arriving.active


@pytest.mark.parametrize(
    ("entry", "index", "term"),
    [
        (piece(5, STATE[5:]), 12, 2),
        (piece(4, STATE[4:] + b"x"), 12, 2),
        (piece(4, STATE[4:], 8), 12, 2),
        (piece(4, STATE[4:]), 12, 3),
        (piece(4, STATE[4:]), 12 + LONGEST_GAP, 2),
    ],
)
def test_arriving_state_refuses_a_piece_that_does_not_fit(entry: RestoreEntry, index: int, term: int) -> None:
    arriving = ArrivingState()
    arriving.take(BEGIN, 10, 2)
    arriving.take(piece(0, STATE[:4]), 11, 2)
    assert isinstance(arriving.take(entry, index, term), Rejected)
    assert isinstance(arriving.finish(FINISH, index + 1, term), Rejected)


def test_arriving_state_with_wrong_bytes_is_not_loaded() -> None:
    arriving = ArrivingState()
    arriving.take(BEGIN, 10, 2)
    arriving.take(piece(0, STATE[::-1]), 11, 2)
    assert isinstance(arriving.finish(FINISH, 12, 2), Rejected)
    assert not arriving.active


def test_arriving_state_is_dropped_when_it_is_given_up() -> None:
    arriving = ArrivingState()
    arriving.take(BEGIN, 10, 2)
    assert arriving.take(RestoreEntry(RestoreStep.GIVE_UP, 8), 11, 2) is not None
    assert arriving.active
    assert arriving.take(RestoreEntry(RestoreStep.GIVE_UP, 7), 12, 2) is None
    assert not arriving.active


@pytest.mark.parametrize("data", [b"", b"\x93\x00\x01\x01", b"\x94\x09\x01\x01\xc4\x00", b"\x94\x00\x01\x05\xc4\x00"])
def test_restore_entry_that_can_not_be_read_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match="restore"):
        decode_restore_entry(data)


def test_restore_forwarded_by_a_member_is_refused_by_the_leader() -> None:
    """The leader has not loaded that snapshot: one that can't be loaded would stop every node, for good."""
    payload = encode(Proposal(Kind.RESTORE, 5, 1, encode(BEGIN)))
    forward = Forward([ForwardedProposal(1, 0, payload)], 2)
    sound, refused = examine_forward(5, forward, lambda *_, **__: None, None, lambda _: None)
    assert sound == []
    assert "no proposals of kind 7" in refused[0].message


# -- applied ----------------------------------------------------------------------------------------------------------


class Letters:
    """A state machine that remembers how it was called."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def apply(self, entry: Entry) -> None:
        self.calls.append(entry.data.decode())

    def snapshot(self) -> FSMSnapshot:
        return BytesSnapshot(b"")

    def restore(self, source: BinaryIO) -> None:
        self.calls.append(f"<{source.read().decode()}>")


class LoopLetters(Letters):
    apply_on_loop = True


def log_entries(*steps: RestoreEntry | bytes, first: int = 10, term: int = 2) -> list[LogEntry]:
    entries = []
    for index, step in enumerate(steps, first):
        kind, data = (Kind.COMMAND, step) if isinstance(step, bytes) else (Kind.RESTORE, encode(step))
        entries.append(LogEntry(term, index, EntryType.NORMAL, encode(Proposal(kind, 1, index, data))))
    return entries


async def outcomes_of(
    machine: Letters, *works: ApplyWork | SnapshotWork, until_index: int = 0
) -> tuple[list[ApplierOutcome], Applier]:
    outcomes: list[ApplierOutcome] = []
    done = asyncio.Event()

    def deliver(outcome: ApplierOutcome) -> None:
        outcomes.append(outcome)
        if (isinstance(outcome, Applied) and outcome.last_index == until_index) or isinstance(
            outcome, NotViewed | Viewed
        ):
            done.set()

    def failed(error: BaseException) -> None:
        raise error

    applier = Applier(machine, 1, ThreadWorkers(), deliver, failed)
    for work in works:
        applier.put(work)
    await done.wait()
    return outcomes, applier


@pytest.mark.parametrize("kind", [Letters, LoopLetters])
async def test_restore_is_applied_between_the_commands_around_it(kind: type[Letters]) -> None:
    machine = kind()
    entries = log_entries(b"a", BEGIN, b"b", piece(0, STATE), b"c", FINISH, b"d", b"e")
    outcomes, applier = await outcomes_of(machine, ApplyWork(entries, ()), until_index=17)
    await applier.close()
    assert machine.calls == ["a", "b", "c", f"<{STATE.decode()}>", "d", "e"]
    applied = [outcome for outcome in outcomes if isinstance(outcome, Applied)]
    assert [outcome.last_index for outcome in applied if outcome.replaced] == [15]
    assert sorted(answer[0] for outcome in applied for answer in outcome.answers) == list(range(10, 18))


@pytest.mark.parametrize("kind", [Letters, LoopLetters])
async def test_restore_under_way_keeps_snapshots_from_being_taken(kind: type[Letters]) -> None:
    """A node that starts from such a snapshot would lack the pieces, and have another state than the others."""
    entries = log_entries(BEGIN, piece(0, STATE[:3]))
    outcomes, applier = await outcomes_of(kind(), ApplyWork(entries, ()), SnapshotWork())
    await applier.close()
    assert isinstance(outcomes[-1], NotViewed)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kind", [Letters, LoopLetters])
async def test_restore_does_not_depend_on_how_the_log_is_cut(kind: type[Letters], seed: int) -> None:
    rng = random.Random(seed)
    steps: list[RestoreEntry | bytes] = [b"a", BEGIN, piece(0, STATE[:5]), b"b", piece(5, STATE[5:]), FINISH, b"c"]
    steps += [BEGIN, b"d", piece(0, STATE), FINISH, FINISH, b"e"]
    entries = log_entries(*steps)
    works = []
    while entries:
        size = rng.randrange(1, len(entries) + 1)
        works.append(ApplyWork(entries[:size], ()))
        entries = entries[size:]
    machine = kind()
    _, applier = await outcomes_of(machine, *works, until_index=9 + len(steps))
    await applier.close()
    state = f"<{STATE.decode()}>"
    assert machine.calls == ["a", "b", state, "c", "d", state, "e"]
