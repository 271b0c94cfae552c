"""Three real nodes in one process: what a caller of the library sees while all goes well, and when it does not."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from syncline import Raft, RoleChanged
from syncline.consensus.rawnode import RawNode
from syncline.errors import (
    Closed,
    ConfigError,
    DeadlineExceeded,
    DirectoryLocked,
    NodeFailed,
    NoLeader,
    NotLeader,
    OperationError,
    Outcome,
    Rejected,
    TooLarge,
    UsageError,
    WrongDirectory,
)
from syncline.kv.machine import KvMachine
from syncline.node import log_writer, runtime
from syncline.node.read_batches import ReadBatches
from syncline.node.recovery_barrier import RecoveryBarrier
from syncline.server.api.raft_backend import NodeBackend
from syncline.transport.messages import ForwardReply
from syncline.transport.tls import PeerTls
from tests.helpers.node_cluster import Cluster, LoopListing, cluster, first_event, see_kept, until
from tests.helpers.storage import TroubledDisk
from tests.helpers.tasks import gives_up, nothing_reported

FAR = 1_000_000


class _FarBarrier(RecoveryBarrier):
    """Of a node whose log held much that was never committed, and is gone since."""

    def __init__(
        self, core: RawNode, reads: ReadBatches, applied: Callable[[], int], *, election_s: float, heartbeat_s: float
    ) -> None:
        super().__init__(core, reads, applied, election_s=election_s, heartbeat_s=heartbeat_s)
        self._index = FAR


async def test_commands_answer_on_every_node(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        await nodes.announced()
        first = leader.apply(b"one")
        assert await first == 1
        assert (first.index, first.term) == (nodes.machine(leader).indexes[0], leader.stats().term)
        assert await follower.apply(b"two") == 2
        assert nodes.machine(follower).items == [b"one", b"two"], "the answer is the follower's own"
        many = follower.apply_many([b"%d" % number for number in range(100)])
        assert await asyncio.gather(*many) == list(range(3, 103))
        for raft in (leader, follower):
            with pytest.raises(Rejected, match="not this one") as refused:
                await raft.apply(b"refuse")
            assert refused.value.code == "refused"
            with pytest.raises(TooLarge):
                await raft.apply(bytes(raft.config.max_entry_bytes + 1))
            with pytest.raises(ConfigError):
                raft.apply(b"x", timeout=0)
        await follower.barrier()
        assert len(nodes.machine(follower).items) == 102
        assert leader.stats().proposals_pending == follower.stats().proposals_pending == 0


async def test_an_entry_of_the_largest_size_goes_through_a_follower(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        _, follower = await nodes.pair()
        assert await follower.apply(bytes(follower.config.max_entry_bytes)) == 1


async def test_without_a_quorum_the_outcome_is_told(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        await nodes.announced()
        leader = await nodes.leader()
        others = [name for name, raft in nodes.rafts.items() if raft is not leader]
        for name in others:
            nodes.rafts[name]._driver.on_messages = lambda *_: None  # type: ignore[method-assign]
        sent = leader.apply(b"sent", timeout=0.5)
        for name in others:
            await nodes.stop(name)
        with pytest.raises(DeadlineExceeded) as unknown:
            await sent
        assert unknown.value.outcome is Outcome.UNKNOWN
        await until(leader, lambda: leader.leader is None)
        with pytest.raises(NoLeader) as not_applied:
            await leader.apply(b"unsent", timeout=0.1)
        assert not_applied.value.outcome is Outcome.NOT_APPLIED
        with pytest.raises(NoLeader):
            await leader.read_index(timeout=0.1)
        with pytest.raises(NotLeader):
            await leader.verify_leader(timeout=0.1)
        assert leader._driver.proposer.queue == [], "what has ended waits for no leader"
        assert leader.stats().proposals_pending == 0


async def test_a_read_sees_what_was_acknowledged_elsewhere(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        await nodes.leader()
        rafts = list(nodes.rafts.values())
        for turn in range(300):
            count = await rafts[turn % 3].apply(b"x")
            reader = rafts[(turn + 1) % 3]
            await reader.read_index()
            seen = len(nodes.machine(reader).items)
            assert seen >= int(str(count)), "a stale read"


async def test_the_leader_is_verified(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        await leader.verify_leader()
        with pytest.raises(NotLeader) as error:
            await follower.verify_leader()
        assert error.value.leader == leader.node_id
        assert leader.last_contact_s == 0.0
        age = follower.last_contact_s
        assert age is not None
        assert age < 10


async def test_how_old_a_state_may_be_is_counted_from_the_last_confirmed_read(tmp_path: Path) -> None:
    def age_of(raft: Raft[object]) -> float | None:
        return raft.state_age_s

    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        assert age_of(leader) is None, "a leader may have been replaced without knowing it"
        assert age_of(follower) is None, "to hear of a leader says nothing of what one lacks"
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        await follower.read_index()
        age_s = age_of(follower)
        assert age_s is not None
        assert 0.0 <= age_s <= loop.time() - asked_s
        assert age_of(leader) is None, "it answered for another"
        for name in [name for name, raft in nodes.rafts.items() if raft is not follower]:
            await nodes.stop(name)
        with pytest.raises(OperationError):
            await follower.read_index(timeout=0.3)
        later_s = age_of(follower)
        assert later_s is not None
        assert later_s >= 0.3, "a question that nobody answers makes nothing younger"


async def test_leadership_is_transferred_and_events_tell(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        assert (await leader.transfer_leadership(leader.node_id)).id == leader.node_id
        event = await first_event(follower, RoleChanged, leader.transfer_leadership(follower.node_id))
        assert event.role in ("candidate", "leader")
        assert await nodes.leader() is follower
        assert (await leader.transfer_leadership()).id == leader.node_id, "asked on a follower: it takes over itself"
        assert await leader.apply(b"x") == 1


async def test_transfer_fails_no_command_on_any_node(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader = await nodes.leader()
        written: list[bytes] = []
        over = False

        async def write(raft: Raft[object], name: str) -> None:
            number = 0
            while not over:
                number += 1
                command = f"{name} {number}".encode()
                await raft.apply(command, timeout=20)
                written.append(command)

        named = [(f"{name} {at}", raft) for name, raft in nodes.rafts.items() for at in "12"]
        writers = [asyncio.create_task(write(raft, name)) for name, raft in named]
        for _ in range(10):
            target = next(raft for raft in nodes.rafts.values() if raft is not leader)
            await leader.transfer_leadership(target.node_id)
            leader = await nodes.leader()
        over = True
        await asyncio.gather(*writers)
        await leader.barrier()
        assert sorted(nodes.machine(leader).items) == sorted(written), "each once"


async def test_what_a_leader_turns_back_waits_for_the_next_in_its_order(tmp_path: Path) -> None:
    """The leader's hand-over goes nowhere: until it is given up, nothing is lost, refused, or sent round in circles."""
    async with cluster(tmp_path, election_s=1.0) as nodes:
        leader, follower = await nodes.pair()
        third = next(raft for raft in nodes.rafts.values() if raft not in (leader, follower))
        await nodes.stop(third.config.name)
        leader._driver.core.transfer_leadership(third.node_id)
        turned_back = 0
        kept = follower._driver.forwarding.on_reply

        def counted(reply: ForwardReply, applied: int) -> None:
            nonlocal turned_back
            turned_back += len(reply.refused)
            kept(reply, applied)

        follower._driver.forwarding.on_reply = counted  # type: ignore[method-assign]
        own = leader.apply_many([b"own %d" % number for number in range(3)], timeout=20)
        first = follower.apply_many([b"%d" % number for number in range(3)], timeout=20)
        await until(follower, lambda: turned_back > 0)
        assert leader._driver.core.raft.transferee == third.node_id
        later = follower.apply_many([b"%d" % number for number in range(3, 6)], timeout=20)
        short = follower.apply(b"never", timeout=0.05)
        with pytest.raises(DeadlineExceeded) as ended:
            await short
        assert ended.value.outcome is Outcome.NOT_APPLIED
        await asyncio.gather(*own, *first, *later)
        assert [item for item in nodes.machine(follower).items if b"own" not in item] == [b"%d" % n for n in range(6)]
        ticks = leader.config.election_s / leader.config.heartbeat_s
        assert turned_back <= 7 * 2 * ticks, "once a tick is often enough"


@pytest.mark.parametrize("on_loop", [False, True])
async def test_a_restart_keeps_everything_and_applies_it_before_open_returns(tmp_path: Path, on_loop: bool) -> None:
    nodes = Cluster(tmp_path, "abc")
    if on_loop:
        nodes.make = LoopListing
    try:
        await nodes.start_all()
        _, follower = await nodes.pair()
        await nodes.announced()
        await asyncio.gather(*follower.apply_many([b"%d" % number for number in range(50)]))
        manifest = await follower.snapshot()
        await asyncio.gather(*follower.apply_many([b"more"] * 10))
        name, expected = follower.config.name, list(nodes.machine(follower).items)
        await follower.barrier()
        known = follower.stats().commit
        await nodes.stop_all()
        again = await nodes.start(name)
        assert nodes.machine(again).restored == 1
        assert nodes.machine(again).items == expected
        assert again.stats().applied == known
        assert again.stats().snapshot_index == manifest.index
        for other in set(nodes.peers) - {name}:
            await nodes.start(other)
        assert await again.apply(b"after") == len(expected) + 1
    finally:
        await nodes.stop_all()


async def test_node_killed_before_a_durable_commit_index_may_be_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_writer, "COMMIT_SETTLE_S", 60.0)
    nodes = Cluster(tmp_path, "abc")
    try:
        await nodes.start_all()
        leader, follower = await nodes.pair()
        name = follower.config.name
        await nodes.announced()  # an announcement that came later would take the commit index along
        await follower.apply(b"shown")
        assert nodes.machine(follower).items == [b"shown"]
        assert not follower.catching_up
        left_by_a_kill = tmp_path / "killed"
        shutil.copytree(tmp_path / name, left_by_a_kill)
        await nodes.stop_all()
        again = await nodes.start(name, data_dir=str(left_by_a_kill))
        assert nodes.machine(again).items == [], "what it showed is in its log, and not known to be committed"
        assert again.catching_up
        await nodes.start(leader.config.name)
        await until(again, lambda: not again.catching_up)
        assert nodes.machine(again).items == [b"shown"]
    finally:
        await nodes.stop_all()


async def test_recovery_barrier_ends_before_entries_never_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "RecoveryBarrier", _FarBarrier)
    async with cluster(tmp_path) as nodes:
        _, follower = await nodes.pair()
        await until(follower, lambda: not follower.catching_up)
        assert follower.stats().last_index < FAR, "a leader has confirmed what is committed"


async def test_close_ends_waiting_operations_and_transfers(tmp_path: Path) -> None:
    async with cluster(tmp_path, election_s=1.0) as nodes:
        leader, follower = await nodes.pair()
        await nodes.stop(leader.config.name)
        successor = leader._driver.core.leader
        assert successor not in (0, leader.node_id), "it saw its successor lead before it went"
        assert leader.leader is None, "it has stopped"
        assert (await nodes.leader()).node_id == successor
        others = list(nodes.rafts)
        await nodes.stop(others[1])
        last = nodes.rafts[others[0]]
        await until(last, lambda: last.leader is None)
        commands = last.apply_many([b"x"] * 20, timeout=60)
        waiting: list[asyncio.Future[Any]] = [*commands, last.read_index(timeout=60), last.barrier(timeout=60)]
        adding = asyncio.ensure_future(last.add_learner("z", "127.0.0.1:9", timeout=60))
        await asyncio.sleep(0)
        await last.close()
        await last.close()
        for future in waiting:
            assert isinstance(future.exception(), Closed)
        with pytest.raises(Closed):
            await adding
        for late in (last.apply(b"x"), last.read_index(), last.barrier()):
            with pytest.raises(Closed) as closed:
                await late
            assert closed.value.outcome is Outcome.NOT_APPLIED
        for call in (last.snapshot(), last.transfer_leadership(), last.remove(follower.node_id), last.failed()):
            with pytest.raises(Closed):
                await asyncio.wait_for(call, 5)
        assert [event async for event in last.events()] == []


async def test_close_reports_nothing_to_callers_that_gave_up(tmp_path: Path) -> None:
    """Their tasks were cancelled; what they waited for fails, as it must, and is nobody's error."""
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        raft._driver.reads.ask = lambda now_s: None  # type: ignore[method-assign]  # nobody confirms a read
        with nothing_reported():
            backend = NodeBackend(raft, KvMachine())
            for wait in (raft.failed(), raft.until_stopped(), raft.read_index(), raft.verify_leader()):
                await gives_up(wait)
            await backend.close()
            await raft.close()
            await asyncio.sleep(0)


async def test_a_directory_has_one_owner(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        with pytest.raises(DirectoryLocked):
            await Cluster(tmp_path, "a").start("a")
        cluster_id, node_id = raft.cluster_id, raft.node_id
        await nodes.stop_all()
        directory = str(tmp_path / "a")
        with pytest.raises(WrongDirectory, match="'a'"):
            await nodes.start("b", data_dir=directory, cluster_id=cluster_id, node_id=node_id)
        for other_cluster, other_node in ((cluster_id + 1, node_id), (cluster_id, 1)):
            with pytest.raises(WrongDirectory, match="own"):
                await nodes.start("a", cluster_id=other_cluster, node_id=other_node)
        with pytest.raises(ConfigError, match="empty"):
            await nodes.start("z", peers={})
        assert (await nodes.start("a", peers={})).node_id == node_id, "the directory knows"


async def test_a_broken_state_machine_stops_the_node(tmp_path: Path) -> None:
    nodes = Cluster(tmp_path, "a")
    for make in (nodes.make, LoopListing):
        nodes.make = make
        nodes.path = tmp_path / make.__name__
        raft = await nodes.start("a")
        try:
            watch = raft.events()
            with pytest.raises(NodeFailed, match="broken"):
                await raft.apply(b"break")
            assert "broken" in str(await raft.failed())
            for call in (raft.apply(b"x"), raft.read_index(), raft.snapshot(), raft.remove(3)):
                with pytest.raises(NodeFailed):
                    await asyncio.wait_for(call, 5)
            async with asyncio.timeout(5):
                assert [event async for event in watch], "and the watch has ended"
        finally:
            await nodes.stop_all()


async def test_a_failed_disk_stops_the_node_and_acknowledges_nothing(tmp_path: Path) -> None:
    nodes = Cluster(tmp_path, "a")
    disk = TroubledDisk()
    raft = await nodes.start("a", disk=disk)
    try:
        assert await raft.apply(b"kept") == 1
        disk.trouble.arm("sync")
        with pytest.raises(NodeFailed):
            await raft.apply(b"lost")
        assert nodes.machines["a"].items == [b"kept"]
        disk.trouble.disarm()
    finally:
        await nodes.stop_all()
    await see_kept(nodes)


async def test_snapshot_that_is_due_after_another_needs_no_command(tmp_path: Path) -> None:
    """It became due while the other was written."""
    opened = threading.Event()
    nodes = Cluster(tmp_path, "a", snapshot_entries=20, trailing_entries=1)
    raft = await nodes.start("a")
    try:
        nodes.machines["a"].gate = lambda: opened.wait(30)
        for _ in range(60):
            await raft.apply(b"x")
        assert raft.stats().snapshots_taken == 0
        opened.set()
        await until(raft, lambda: raft.stats().commit - raft.stats().snapshot_index < 20)
        assert raft.stats().snapshots_taken == 2
    finally:
        opened.set()
        await nodes.stop_all()


async def test_an_error_in_a_callback_stops_the_node(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()

        def broken(size_bytes: int) -> None:
            raise AssertionError(f"bug at {size_bytes}")

        raft._driver.snapshotter.applied = broken  # type: ignore[method-assign]
        raft.apply(b"x")  # answered, or not: the entry before it may be the one that fails
        assert "bug at" in str(await asyncio.wait_for(raft.failed(), 5))


async def test_a_node_that_cannot_listen_lets_go_of_its_directory(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        other = Cluster(tmp_path / "other", "a")
        with pytest.raises(OSError, match="another process holds the port"):
            await other.start("a", listen=nodes.address("a"))
        await other.start("a")
        await other.stop_all()


async def descriptors_without_threads() -> set[str]:
    """The process's open descriptors, once the last thread of a node has ended: that takes a moment after its close."""
    for thread in threading.enumerate():
        if thread.name.startswith("syncline-"):
            await asyncio.to_thread(thread.join, 10)
            assert not thread.is_alive(), thread.name
    return set(os.listdir("/proc/self/fd"))


async def test_a_node_that_cannot_read_its_certificate_leaves_nothing_behind(tmp_path: Path) -> None:
    nodes = Cluster(tmp_path, "a")
    await nodes.start("a")
    await nodes.stop_all()
    before = await descriptors_without_threads()
    with pytest.raises(ConfigError, match="/no/certificate"):
        await nodes.start("a", peer_tls=PeerTls(certificate="/no/certificate", key="/no/key", authority="/no/ca"))
    assert await descriptors_without_threads() == before


async def test_cancelled_proposals_leave_nothing_behind(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a", max_pending_bytes=9 << 20) as nodes:
        raft = await nodes.leader()
        cancelled = raft.apply(b"x", timeout=0.1)
        cancelled.cancel()
        await until(raft, lambda: raft.stats().proposals_pending == 0)
        assert raft._driver.proposals._bytes == 0


def test_the_constructor_is_not_the_way() -> None:
    with pytest.raises(UsageError, match=r"Raft\.open"):
        Raft()


async def test_a_successor_is_known_also_just_after_the_quorum_was_checked(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        await leader.apply(b"x")
        reconfiguration = leader._driver.reconfiguration
        await until(
            leader,
            lambda: all(reconfiguration.is_alive(raft.node_id) for raft in nodes.rafts.values() if raft is not leader),
        )
        for progress in leader._driver.core.raft.tracker.progress.values():
            progress.recent_active = False
        assert reconfiguration.best_successor() != 0
        await nodes.stop(follower.config.name)
        await until(leader, lambda: not reconfiguration.is_alive(follower.node_id))
        assert not leader.stats().progress[follower.node_id].active
