"""`Raft.recover`: one node's state goes on in a new cluster. What it keeps, what it refuses, and crashes in between."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import BinaryIO

import pytest

from syncline import BytesSnapshot, Config, Entry, FSMSnapshot, Raft, RecoveryReport
from syncline.consensus.types import EntryType, LogEntry
from syncline.errors import DirectoryLocked, RepairNeeded, StorageError, UsageError, WrongDirectory
from syncline.kv.commands import Put, encode_command
from syncline.kv.machine import KvMachine
from syncline.kv.records import PutAnswer
from syncline.node.entry_stamps import STAMP_LEVEL
from syncline.node.envelope import Kind, Proposal, encode
from syncline.node.renumbering import REVISION_JUMP
from syncline.platform.disk import OsDisk
from syncline.platform.world import World
from syncline.storage.datadir import DataDir, decode_identity, read_identity
from syncline.storage.replace import Replacement, begin
from syncline.storage.wal.writer import Wal, WalWrite
from syncline.testing.sim.disk import SimDisk, Survival
from tests.helpers.node_cluster import Cluster, Listing, cluster, until
from tests.helpers.ports import free_block


async def stopped_cluster(
    path: Path, commands: int = 5, *, snapshot_entries: int = 100_000, cluster_name: str = "syncline"
) -> Cluster:
    """Three nodes that have applied some commands, stopped."""
    async with cluster(path, snapshot_entries=snapshot_entries, cluster=cluster_name) as nodes:
        leader = await nodes.leader()
        await until(leader, lambda: leader.level >= STAMP_LEVEL)  # else the rise may be the last entry of one log
        for number in range(commands):
            await leader.apply(b"%d" % number)
        for name, raft in nodes.rafts.items():
            machine = nodes.machines[name]
            await until(raft, lambda machine=machine: len(machine.items) == commands)  # type: ignore[misc]
            if commands >= snapshot_entries:  # it is written beside the commands
                await until(raft, lambda raft=raft: raft.stats().snapshot_index > 0)  # type: ignore[misc]
        for raft in nodes.rafts.values():
            await until(raft, lambda raft=raft: raft.stats().last_index >= leader.stats().last_index)  # type: ignore[misc]
    return nodes


async def recover(
    nodes: Cluster, name: str = "a", *, compare: str = "", dry_run: bool = False, accept_loss: bool = False
) -> RecoveryReport:
    others = [str(nodes.path / other) for other in compare]
    return await Raft.recover(nodes.config(name), Listing(), compare=others, dry_run=dry_run, accept_loss=accept_loss)


def content(path: Path) -> dict[str, bytes]:
    """All files below a directory but its lock."""
    return {
        os.path.join(folder, name): Path(folder, name).read_bytes()
        for folder, _, names in os.walk(path)
        for name in names
        if name != "LOCK"
    }


async def test_recover_keeps_the_state_in_a_new_cluster_that_grows(tmp_path: Path) -> None:
    nodes = await stopped_cluster(tmp_path)
    old = read_identity(OsDisk(), str(tmp_path / "a"))
    assert old is not None
    report = await recover(nodes, compare="b")
    assert (report.done, report.may_lose, report.reasons) == (True, False, ())
    assert [(line.name, line.looked_at) for line in sorted(report.voters, key=lambda each: each.name)] == [
        ("a", True),
        ("b", True),
        ("c", False),
    ]
    assert report.cluster_id not in (0, old.cluster_id)
    assert report.node_id not in (0, old.node_id)
    names = content(tmp_path / "a")
    assert any(name.startswith(f"{report.set_aside}/wal/") for name in names)
    assert not any("recovering" in name for name in names)
    raft = await nodes.start("a")
    try:
        assert (raft.cluster_id, raft.node_id) == (report.cluster_id, report.node_id)
        assert nodes.machines["a"].items == [b"0", b"1", b"2", b"3", b"4"]
        assert await raft.apply(b"more") == 6
        assert [member.name for member in raft.membership().members.values()] == ["a"]
        _, other = await nodes.join(raft, "d")
        await until(other, lambda: nodes.machines["d"].items == nodes.machines["a"].items)
    finally:
        await nodes.stop_all()


async def test_recover_takes_snapshot_and_log_together(tmp_path: Path) -> None:
    nodes = await stopped_cluster(tmp_path, 40, snapshot_entries=15)
    assert any(name.endswith(".snap") for name in os.listdir(tmp_path / "a" / "snapshots"))
    await recover(nodes, compare="bc")
    await nodes.start("a")
    try:
        assert nodes.machines["a"].items == [b"%d" % number for number in range(40)]
    finally:
        await nodes.stop_all()


async def test_recover_dry_run_changes_nothing(tmp_path: Path) -> None:
    nodes = await stopped_cluster(tmp_path)
    before = content(tmp_path)
    report = await recover(nodes, dry_run=True)
    assert not report.done
    assert report.last_index >= report.commit_index > 0
    assert report.uncertain_entries == report.last_index - report.commit_index
    assert content(tmp_path) == before


async def test_recover_without_a_quorum_of_copies_may_lose_writes(tmp_path: Path) -> None:
    nodes = await stopped_cluster(tmp_path)
    before = content(tmp_path)
    with pytest.raises(UsageError, match=r"2 of 3 voters were not looked at: .*Nothing was changed"):
        await recover(nodes)
    assert content(tmp_path) == before
    report = await recover(nodes, accept_loss=True)
    assert (report.done, report.may_lose) == (True, True)


async def test_recover_refuses_if_another_copy_is_newer(tmp_path: Path) -> None:
    """The newer log has acknowledged writes that this one lacks."""
    async with cluster(tmp_path) as nodes:
        leader = await nodes.leader()
        await leader.apply(b"one")
        behind = next(name for name, raft in nodes.rafts.items() if raft is not leader)
        await nodes.stop(behind)
        for number in range(5):
            await leader.apply(b"%d" % number)
        newest = leader.config.name
    with pytest.raises(StorageError, match=rf"{tmp_path}/{newest}, of node {newest} .*is newer.*Nothing was changed"):
        await recover(nodes, behind, compare=newest, accept_loss=True)
    assert not (await recover(nodes, newest, compare=behind)).may_lose


async def test_recover_keeps_entries_that_were_not_known_to_be_committed(tmp_path: Path) -> None:
    """A voter acknowledges an entry before it hears that it is committed: the entry may be an acknowledged write."""
    nodes = await stopped_cluster(tmp_path)
    before = await recover(nodes, accept_loss=True, dry_run=True)
    append(tmp_path / "a", b"not known")
    report = await recover(nodes, compare="bc", dry_run=True)
    assert report.last_index == before.last_index + 1
    assert report.uncertain_entries == before.uncertain_entries + 1
    await recover(nodes, compare="bc")
    await nodes.start("a")
    try:
        assert nodes.machines["a"].items[-1] == b"not known"
    finally:
        await nodes.stop_all()


def append(path: Path, command: bytes) -> None:
    """Add an entry behind the end of a stopped node's log."""
    directory = DataDir.open(OsDisk(), str(path))
    assert directory.identity is not None
    wal = Wal.open(
        OsDisk(), directory.wal_path, segment_bytes=1 << 20, reserve_bytes=0, log_id=directory.identity.node_id
    )
    index, term = wal.recovery.last_index + 1, wal.recovery.last_term
    data = encode(Proposal(Kind.COMMAND, directory.identity.node_id, 1, command))
    wal.write([WalWrite([LogEntry(term, index, EntryType.NORMAL, data)])])
    wal.close()
    directory.release()


async def test_recover_tells_an_older_copy_from_the_directory(tmp_path: Path) -> None:
    """An older copy of a voter's directory does not count: that voter has acknowledged more since."""
    async with cluster(tmp_path) as nodes:
        await (await nodes.leader()).apply(b"one")
        await nodes.announced()
        await nodes.stop("b")
        shutil.copytree(tmp_path / "b", tmp_path / "x")
        raft = await nodes.start("b")
        others = [other for other in nodes.rafts.values() if other is not raft]
        incarnation = raft._driver.parts.identity.incarnations[0]
        for other in others:
            book = other._driver.parts.book
            await until(other, lambda book=book: book.members[raft.node_id].incarnation == incarnation)  # type: ignore[misc]
        await (await nodes.leader()).apply(b"two")
    report = await recover(nodes, "a", compare="x", dry_run=True)
    assert report.may_lose
    assert f"{tmp_path}/x is an older copy of the directory of b" in report.reasons[0]
    assert not (await recover(nodes, "a", compare="b", dry_run=True)).may_lose


async def test_recover_refuses_directories_that_do_not_fit(tmp_path: Path) -> None:
    nodes = await stopped_cluster(tmp_path)
    other = await stopped_cluster(tmp_path / "other", cluster_name="another")
    with pytest.raises(WrongDirectory, match="compare directories of one cluster"):
        await Raft.recover(nodes.config("a"), Listing(), compare=[str(other.path / "b")])
    shutil.copytree(tmp_path / "b", tmp_path / "copy")
    with pytest.raises(WrongDirectory, match="are both of node b"):
        await Raft.recover(nodes.config("a"), Listing(), compare=[str(tmp_path / "b"), str(tmp_path / "copy")])
    with pytest.raises(UsageError, match="named twice"):
        await Raft.recover(nodes.config("a"), Listing(), compare=[str(tmp_path / "a")])
    with pytest.raises(UsageError, match="is not there"):
        await Raft.recover(nodes.config("a", data_dir=str(tmp_path / "none")), Listing())
    with pytest.raises(UsageError, match="is the directory of node 'b', not of 'a'"):
        await Raft.recover(nodes.config("a", data_dir=str(tmp_path / "b")), Listing(), dry_run=True)
    os.mkdir(tmp_path / "empty")
    with pytest.raises(StorageError, match="is no node's data directory"):
        await Raft.recover(nodes.config("a", data_dir=str(tmp_path / "empty")), Listing())
    with pytest.raises(TypeError, match="compare must be a sequence of paths"):
        await Raft.recover(nodes.config("a"), Listing(), compare="data/b")


async def test_recover_refuses_a_directory_in_use_damaged_or_in_repair(tmp_path: Path) -> None:
    nodes = await stopped_cluster(tmp_path)
    await nodes.start("a")
    with pytest.raises(DirectoryLocked):
        await recover(nodes, accept_loss=True)
    with pytest.raises(DirectoryLocked, match=f"{tmp_path / 'a'}/LOCK is held"):
        await recover(nodes, "b", compare="a")
    await nodes.stop_all()
    assert (await recover(nodes, "b", compare="a", dry_run=True)).name == "b", "all locks were released"
    note = Replacement(
        *("00000000000000c1", "", "00000000000000c2", "b", "b:1", "", True, (), "set-aside-1"),
    )
    begin(OsDisk(), str(tmp_path / "b"), note)
    with pytest.raises(RepairNeeded, match="in the middle of a repair"):
        await recover(nodes, "b", accept_loss=True)
    segment = next((tmp_path / "c" / "wal").glob("*.wal"))
    data = bytearray(segment.read_bytes())
    data[600] ^= 1
    segment.write_bytes(data)
    with pytest.raises(StorageError, match="is damaged, and the state in it can't be relied on"):
        await recover(nodes, "c", accept_loss=True)


async def test_recover_keeps_sessions(tmp_path: Path) -> None:
    """A retry that comes after the recovery must not take effect a second time."""
    async with cluster(tmp_path) as nodes:
        leader = await nodes.leader()
        session = await leader.open_session()
        async with leader.session() as own:
            assert await own.apply(b"first") == 1
        name = leader.config.name
    await recover(nodes, name, accept_loss=True)
    raft = await nodes.start(name)
    try:
        assert session in raft._driver.parts.machine.sessions.table
    finally:
        await nodes.stop_all()


class Times:
    """A state machine that answers with the time of each entry."""

    def apply(self, entry: Entry) -> float:
        return entry.time_s

    def snapshot(self) -> FSMSnapshot:
        return BytesSnapshot(b"")

    def restore(self, source: BinaryIO) -> None:
        source.read()


@pytest.mark.parametrize("snapshots", [False, True])
async def test_recover_keeps_times_from_falling(tmp_path: Path, snapshots: bool) -> None:
    """A state machine may rely on it: its last entries have times, also if the new leader's clock is behind."""
    config = kv_config(tmp_path, free_block(1))
    late, early = World(wall_time_s=lambda: 5000.0), World(wall_time_s=lambda: 1000.0)
    async with Raft.open(config, Times(), world=late) as raft:
        await until(raft, lambda: raft.level >= STAMP_LEVEL)
        assert await raft.apply(b"x") == 5000.0
        if snapshots:
            await raft.snapshot()
    await Raft.recover(config, Times())
    async with Raft.open(config, Times(), world=early) as raft:
        assert await raft.apply(b"x") == 5000.0


def kv_config(path: Path, port: int, name: str = "a") -> Config:
    address = f"127.0.0.1:{port}"
    return Config(
        name=name, data_dir=str(path / name), listen=address, peers={name: address}, heartbeat_s=0.02, election_s=0.1,
        reserve_bytes=0, segment_bytes=1 << 20,
    )  # fmt: skip


async def test_recover_moves_revisions_far_above_the_known_ones(tmp_path: Path) -> None:
    """Fencing tokens and watches rely on it: revisions of writes that were lost must not come again."""
    config = kv_config(tmp_path, free_block(1))
    machine = KvMachine()
    async with Raft.open(config, machine) as raft:
        for number in range(3):
            await raft.apply(encode_command(Put(b"k%d" % number, b"v")))
    known = machine.store.revision
    await Raft.recover(config, KvMachine())
    after = KvMachine()
    async with Raft.open(config, after) as raft:
        assert after.store.get(b"k1") is not None
        answer = await raft.apply(encode_command(Put(b"new", b"v")))
        assert isinstance(answer, PutAnswer)
        assert answer.revision == known + REVISION_JUMP
        assert after.store.oldest == known + REVISION_JUMP
        after.store.check()


def simulated(source: Path) -> SimDisk:
    """A directory on a simulated disk, as /d."""
    disk = SimDisk(random.Random(1))
    for folder in ("/d", "/d/wal", "/d/snapshots"):
        disk.make_dirs(folder)
    for path, data in content(source).items():
        disk.write_file("/d" + path.removeprefix(str(source)), data)
    return disk


async def test_recover_crashed_anywhere_leaves_the_old_node_or_is_completed(tmp_path: Path) -> None:
    nodes = await stopped_cluster(tmp_path / "real", 3)
    disk = simulated(tmp_path / "real" / "a")
    config = nodes.config("a", data_dir="/d")
    before = disk.read_file("/d/identity")
    crashes: list[tuple[str, SimDisk]] = []
    rng = random.Random(2)

    def crash(operation: str, path: str) -> None:
        for survival in rng.sample(list(Survival), 2):
            crashes.append((f"{operation} of {path}", disk.crashed(survival, random.Random(len(crashes)))))

    disk.before = crash
    first = await Raft.recover(config, Listing(), accept_loss=True, world=World(disk=disk, rng=random.Random(3)))
    disk.before = None
    assert len(crashes) > 60
    old = kept = completed = 0
    for moment, crashed in crashes:
        world = World(disk=crashed, rng=random.Random(4))
        try:
            directory = DataDir.open(crashed, "/d")
        except RepairNeeded:
            completed += 1
            report = await Raft.recover(config, Listing(), world=world)
            assert (report.done, report.cluster_id) == (True, first.cluster_id), moment
        else:
            directory.release()
            if crashed.read_file("/d/identity") == before:
                old += 1
                report = await Raft.recover(config, Listing(), accept_loss=True, world=world)
                assert report.done, moment
            else:
                kept += 1
        identity = read_identity(crashed, "/d")
        assert identity is not None
        assert identity.cluster_id not in (0, decode_identity("identity", before).cluster_id), moment
        assert [name for name in crashed.list("/d/snapshots") if name.endswith(".snap")], moment
        assert crashed.list("/d/set-aside-1/wal"), moment
    assert min(old, completed) > 0, (old, kept, completed)


async def test_recovery_note_keeps_nodes_off_the_directory(tmp_path: Path) -> None:
    nodes = await stopped_cluster(tmp_path)
    disk = _DiesAtRename()
    with pytest.raises(InterruptedError):
        await Raft.recover(nodes.config("a"), Listing(), accept_loss=True, world=World(disk=disk))
    with pytest.raises(RepairNeeded, match=r"in the middle of a recovery.*syncline recover"):
        await nodes.start("a")
    planned = await recover(nodes, dry_run=True)
    assert not planned.done
    report = await recover(nodes)
    assert report.done
    await nodes.start("a")
    try:
        assert len(nodes.machines["a"].items) == 5
    finally:
        await nodes.stop_all()


class _DiesAtRename(OsDisk):
    """Fails when the old files are moved away."""

    def rename(self, source: str, target: str) -> None:
        if "set-aside" in target and source.endswith("wal"):
            raise InterruptedError("killed")
        super().rename(source, target)
