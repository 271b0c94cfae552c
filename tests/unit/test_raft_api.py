"""The forms of the library: how a node is opened, shown and watched, and how its methods name a member."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, BinaryIO, assert_type

import msgspec
import pytest

import syncline
from syncline import (
    ApplyFuture,
    BytesSnapshot,
    ChangeType,
    Config,
    Entry,
    Event,
    FSMSnapshot,
    LeaderChanged,
    Member,
    MembershipChanged,
    NodeId,
    NodeStopped,
    Raft,
    RoleChanged,
    SnapshotTaken,
    Startup,
    blocking,
)
from syncline.errors import ConfigError, DeadlineExceeded, MembershipError, NoLeader, Outcome
from syncline.node.envelope import encode
from syncline.platform.world import World
from syncline.testing import RaftCluster
from syncline.testing.plugin import MakeCluster
from tests.helpers.node_cluster import cluster, until
from tests.helpers.ports import free_block

LIMIT_S = 20.0


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def apply(self, entry: Entry) -> int:
        self.count += int(entry.data)
        return self.count

    def snapshot(self) -> FSMSnapshot:
        return BytesSnapshot(b"%d" % self.count)

    def restore(self, source: BinaryIO) -> None:
        self.count = int(source.read())


def settings(path: Path) -> Config:
    address = f"127.0.0.1:{free_block(1)}"
    return Config(
        name="a", data_dir=str(path), listen=address, peers={"a": address}, heartbeat_s=0.02, election_s=0.1,
        segment_bytes=1 << 20, reserve_bytes=0,
    )  # fmt: skip


async def test_raft_open_as_a_context_closes_the_node(tmp_path: Path) -> None:
    async with Raft.open(settings(tmp_path), Counter()) as raft:
        assert_type(raft, Raft[int])
        future = raft.apply(b"2", timeout=LIMIT_S)
        assert_type(future, ApplyFuture[int])
        assert await future == 2
    assert raft.role == "stopped"


def test_blocking_raft_has_the_types_of_its_machine(tmp_path: Path) -> None:
    with blocking.Raft.open(settings(tmp_path), Counter()) as raft:
        assert_type(raft.apply(b"2", timeout=LIMIT_S), int)
        [future] = raft.apply_many([b"1"], timeout=LIMIT_S)
        assert_type(future.result(), int)
        with raft.leadership(timeout=LIMIT_S) as term:
            assert_type(term.apply(b"1"), int)


def test_raft_cluster_has_the_types_of_its_machine(raft_cluster: MakeCluster) -> None:
    cluster = raft_cluster(Counter, nodes=1)
    assert_type(cluster, RaftCluster[Counter])
    cluster.apply(b"2")
    assert_type(cluster.machine("n1"), Counter)
    count = cluster.read(lambda machine: machine.count)
    assert_type(count, int)
    assert count == count_in(cluster) == 2


def count_in(cluster: RaftCluster) -> int:
    """A helper of a test may take a cluster of any machine."""
    machine = cluster.machine("n1")
    assert isinstance(machine, Counter)
    return machine.count


async def test_raft_open_as_a_context_closes_the_node_after_an_error(tmp_path: Path) -> None:
    opened: list[Raft[int]] = []

    async def work() -> None:
        async with Raft.open(settings(tmp_path), Counter()) as raft:
            opened.append(raft)
            raise LookupError

    with pytest.raises(LookupError):
        await work()
    assert opened[0].role == "stopped"


async def test_raft_open_is_a_coroutine_for_asyncio(tmp_path: Path) -> None:
    """It can be awaited, bounded in time, and run as a task."""
    config = settings(tmp_path)
    raft = await asyncio.wait_for(Raft.open(config, Counter()), LIMIT_S)
    await raft.close()
    starting = asyncio.create_task(Raft.open(config, Counter(), world=World(rng=random.Random(1))))
    async with await starting as raft:
        assert_type(raft, Raft[int])
        assert raft.role != "stopped"


async def test_raft_open_as_a_cancelled_task_leaves_nothing_behind(tmp_path: Path) -> None:
    config = settings(tmp_path)
    starting = asyncio.create_task(Raft.open(config, Counter()))
    await asyncio.sleep(0)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    async with Raft.open(config, Counter()) as raft:  # the directory is not locked any more
        assert raft.role != "stopped"


def test_startup_throw_reaches_the_work() -> None:
    """What drives a coroutine by hand may give an error as a class or as an object."""

    class Thing:
        async def close(self) -> None:
            raise AssertionError("it was never opened")

    async def work(seen: list[BaseException]) -> Thing:
        try:
            await asyncio.sleep(1)
        except LookupError as error:
            seen.append(error)
        return Thing()

    thrown: list[tuple[Any, ...]] = [
        (LookupError,),
        (LookupError("a"),),
        (LookupError, "a"),
        (LookupError, LookupError("a")),
    ]
    for arguments in thrown:
        seen: list[BaseException] = []
        startup = Startup(work(seen), Thing.close)
        loop = asyncio.new_event_loop()
        try:
            asyncio.events._set_running_loop(loop)
            startup.send(None)
            with pytest.raises(StopIteration) as ended:
                startup.throw(*arguments)
        finally:
            asyncio.events._set_running_loop(None)
            loop.close()
        assert isinstance(ended.value.value, Thing)
        assert [type(error) for error in seen] == [LookupError]


async def test_raft_repr_shows_name_role_term_and_commit_index(tmp_path: Path) -> None:
    async with Raft.open(settings(tmp_path), Counter()) as raft:
        await raft.apply(b"1", timeout=LIMIT_S)
        stats = raft.stats()
        assert repr(raft) == (f"<Raft 'a' ({raft.node_id}): leader, term {stats.term}, commit index {stats.commit}>")
    assert ": stopped, term " in repr(raft)


def test_node_id_shows_hexadecimal_digits_and_is_an_integer() -> None:
    node_id = NodeId(0x5F46)
    assert (str(node_id), f"{node_id}", repr(node_id)) == ("0000000000005f46", "0000000000005f46", "0x5f46")
    assert node_id == 0x5F46
    ids: set[int] = {node_id}
    assert 0x5F46 in ids
    assert repr(Member(node_id, "a", "h:1", "", True)).startswith("Member(id=0x5f46, name='a'")
    assert encode(node_id) == msgspec.msgpack.encode(0x5F46), "formats and messages know integers"


def test_config_with_node_ids_keeps_plain_integers() -> None:
    config = Config(name="d", data_dir="d", listen="h:1", node_id=NodeId(5), cluster_id=NodeId(6))
    assert (type(config.node_id), type(config.cluster_id)) == (int, int)


async def test_raft_leader_is_a_member_on_every_node(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader = await nodes.leader()
        for raft in nodes.rafts.values():
            known = raft.leader
            assert known is not None
            assert (known.id, known.name, known.address) == (
                leader.node_id,
                leader.config.name,
                nodes.address(leader.config.name),
            )
            assert isinstance(known.id, NodeId)


async def test_raft_methods_take_a_member_by_name_or_id(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        name, node_id = follower.config.name, follower.node_id
        assert not (await leader.demote(name)).members[node_id].voter
        assert (await leader.promote(str(node_id))).members[node_id].voter, "sixteen digits are an id"
        changed = await leader.change_membership([(ChangeType.ADD_LEARNER_NODE, name)])
        assert not changed.members[node_id].voter
        assert (await leader.promote(node_id)).members[node_id].voter
        assert (await leader.update_member(name, address=nodes.address(name))).id == node_id
        assert (await leader.transfer_leadership(name)).id == node_id
        await until(leader, lambda: follower.is_leader)
        assert name not in {member.name for member in (await leader.remove(name)).members.values()}


async def test_raft_methods_with_an_unknown_name_list_the_members(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        for call in (
            raft.remove("z"),
            raft.promote("z"),
            raft.update_member("z", address="h:1"),
            raft.transfer_leadership("z"),
            raft.change_membership([(ChangeType.ADD_NODE, "z")]),
        ):
            with pytest.raises(MembershipError, match=rf"no member is named 'z': the members are a \({raft.node_id}\)"):
                await call
        with pytest.raises(ConfigError, match="member 'a b'"):
            await raft.remove("a b")
        with pytest.raises(ConfigError, match="looks like a node's id"):
            await raft.add_learner(str(raft.node_id), "127.0.0.1:1")
        with pytest.raises(MembershipError, match="named twice"):
            await raft.change_membership([(ChangeType.ADD_NODE, "a"), (ChangeType.ADD_NODE, raft.node_id)])


async def test_raft_transfer_by_name_without_a_log_says_what_is_missing(tmp_path: Path) -> None:
    """It said that no member has this name, which the node can't know."""
    config = Config(name="d", data_dir=str(tmp_path), listen=f"127.0.0.1:{free_block(1)}", cluster_id=5, node_id=4)
    async with Raft.open(config, Counter()) as raft:
        with pytest.raises(NoLeader, match="no node leads"):
            await raft.transfer_leadership("a")
        raft._driver.core.raft.leader = 1  # a leader's heartbeat comes before its entries
        with pytest.raises(MembershipError, match=r"node d \(0{15}4\) has applied nothing of the log yet"):
            await raft.transfer_leadership("a")
        raft._driver.core.raft.leader = 0


async def test_raft_snapshot_after_its_deadline_goes_on(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        await raft.apply(b"x")
        done = threading.Event()
        nodes.machine(raft).gate = lambda: void(done.wait(LIMIT_S))
        taken = raft.events(SnapshotTaken)
        with pytest.raises(TimeoutError, match=r"not finished after 0.05 s; it goes on") as caught:
            await raft.snapshot(timeout=0.05)
        assert isinstance(caught.value, DeadlineExceeded)
        assert caught.value.outcome is Outcome.UNKNOWN
        done.set()
        assert (await anext(taken)).snapshot_index == raft.stats().snapshot_index


def void(_: object) -> None:
    """Forget it."""


async def all_of(watch: AsyncIterator[Event]) -> list[Event]:
    return [event async for event in watch]


async def test_raft_events_are_of_one_class_for_each_kind(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        assert_type(raft.events(LeaderChanged), AsyncIterator[LeaderChanged])
        every = asyncio.create_task(all_of(raft.events()))
        some = asyncio.create_task(all_of(raft.events(MembershipChanged, NodeStopped)))
        await asyncio.sleep(0)
        await raft.apply(b"x")
        added = await raft.add_learner("b", "127.0.0.1:9", promote=False)
        await raft.close()
        told = await some
        assert [type(event) for event in told] == [MembershipChanged, NodeStopped]
        assert isinstance(told[0], MembershipChanged)
        assert told[0].membership.members[added.id].name == "b"
        assert told[0].term == raft.stats().term
        assert {type(event) for event in await every} >= {MembershipChanged, NodeStopped}


async def test_raft_transfer_to_an_id_of_no_node_leaves_the_leader(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader = await nodes.leader()
        for nobody in ("0" * 16, "f" * 16):
            with pytest.raises(MembershipError):
                await leader.transfer_leadership(nobody)
        assert leader.is_leader


async def test_raft_events_tell_of_each_role_once_also_of_one_by_the_membership(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader = await nodes.leader()
        other = next(raft for raft in nodes.rafts.values() if raft is not leader)
        watching = asyncio.create_task(all_of(other.events(RoleChanged)))
        await asyncio.sleep(0)
        await leader.demote(other.node_id)
        await until(other, lambda: other.role == "learner")
        await leader.promote(other.node_id)
        await until(other, lambda: other.role == "follower")
        await leader.transfer_leadership(other.node_id)
        await until(other, lambda: other.role == "leader")
        await other.close()
        roles = [event.role for event in await watching if isinstance(event, RoleChanged)]
        assert roles[:4] == ["learner", "follower", "candidate", "leader"]
        assert all(role != before for role, before in itertools.pairwise(roles))


def test_event_classes_are_all_exported() -> None:
    exported = {name: getattr(syncline, name) for name in syncline.__all__}  # now: some are imported at their first use
    kinds = {kind.__name__ for kind in Event.__subclasses__() if kind.__module__.startswith("syncline.")}
    assert kinds <= exported.keys()
    assert len(kinds) == 13
    assert RoleChanged("leader").role == "leader"
