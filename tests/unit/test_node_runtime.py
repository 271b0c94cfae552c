"""The driver of one real node, brought into situations that a cluster seldom gets into."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvloop

from syncline import Raft
from syncline.consensus.membership import encode_change
from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import (
    ChangeType,
    EntryType,
    LogEntry,
    MembershipChange,
    MembershipState,
    Message,
    MessageType,
    SingleChange,
    Snapshot,
    SnapshotMeta,
)
from syncline.errors import (
    Closed,
    ConfigError,
    DiskFull,
    MembershipError,
    NodeFailed,
    NoLeader,
    NothingToSnapshot,
    Rejected,
    SynclineError,
    TooLarge,
    TransportError,
)
from syncline.node.envelope import DATA, MEMBERSHIP, ChangeContext, Kind, MemberRecord, Proposal, encode
from syncline.node.events import DiskSlow
from syncline.node.forwarding import FORWARD_BATCH_BYTES
from syncline.node.futures import ApplyFuture, Waiter
from syncline.node.rejections import DISK_FULL
from syncline.node.runtime import GATHER_BYTES, Driver
from syncline.storage.snapshots.file import SnapshotManifest, encode_manifest
from syncline.transport.messages import Forward, ForwardedProposal, ForwardReply, PeerMessage
from syncline.version import FEATURE_LEVEL
from tests.helpers.node_cluster import Listing, cluster, until

PEER = 99


class Sent:
    """What the node sends, instead of sending it."""

    def __init__(self, driver: Driver) -> None:
        self.messages: list[tuple[int, PeerMessage]] = []
        self.room = True
        driver.parts.transport.send = self._send  # type: ignore[method-assign]

    def _send(self, to: int, message: PeerMessage) -> bool:
        if self.room:
            self.messages.append((to, message))
        return self.room


@asynccontextmanager
async def leading(path: Path, **settings: object) -> AsyncIterator[tuple[Raft[object], Driver, Listing]]:
    """A cluster of one."""
    async with cluster(path, "a", **settings) as nodes:
        raft = await nodes.leader()
        await until(raft, lambda: raft.level == FEATURE_LEVEL)  # its entry would wake those that wait for a change
        await raft.apply(b"first")
        yield raft, raft._driver, nodes.machines["a"]


def numbered(driver: Driver, number: int) -> Waiter:
    future: ApplyFuture[object] = ApplyFuture(loop=driver.loop)
    future.number = number
    return future


def forwarded(number: int, data: bytes, *, origin: int = PEER) -> ForwardedProposal:
    return ForwardedProposal(number, DATA, encode(Proposal(Kind.COMMAND, origin, number, data)))


def reply_to(driver: Driver, *items: ForwardedProposal) -> ForwardReply:
    sent = Sent(driver)
    driver.on_messages(PEER, [Forward(list(items), driver.core.term)])
    reply = sent.messages[-1][1]
    assert isinstance(reply, ForwardReply)
    return reply


async def test_command_that_no_node_can_apply_does_not_enter_the_log(tmp_path: Path) -> None:
    async with leading(tmp_path) as (raft, driver, machine):
        reply = reply_to(
            driver,
            forwarded(1, b"good"),
            ForwardedProposal(2, DATA, b"rubbish"),
            ForwardedProposal(3, 7, b"of an unknown kind"),
            ForwardedProposal(4, MEMBERSHIP, b"rubbish"),
            ForwardedProposal(5, MEMBERSHIP, encode(MembershipChange(changes=(), context=b"rubbish"))),
            forwarded(6, b"somebody else's", origin=PEER + 1),
        )
        assert [accepted.number for accepted in reply.accepted] == [1]
        assert {refused.number for refused in reply.refused} == {2, 3, 4, 5, 6}
        await until(raft, lambda: machine.items == [b"first", b"good"])
        assert await raft.apply(b"alive") == 3


async def test_a_full_disk_of_the_leader_refuses_what_others_forward(tmp_path: Path) -> None:
    async with leading(tmp_path) as (raft, driver, _):

        def full(size_bytes: int, *, frees_space: bool = False) -> None:
            raise DiskFull(f"no room for {size_bytes}, {frees_space}")

        driver.parts.wal.check_space = driver.proposer._check_space = full
        reply = reply_to(driver, forwarded(1, b"x"))
        assert reply.refused[0].code == DISK_FULL
        assert "no room" in reply.refused[0].message
        with pytest.raises(DiskFull):
            await raft.apply(b"x")
        await raft.read_index()


async def test_what_a_full_link_does_not_take_waits_in_its_order(tmp_path: Path) -> None:
    async with leading(tmp_path) as (_, driver, _):
        sent = Sent(driver)
        sent.room = False
        big = bytes(FORWARD_BATCH_BYTES // 2 + 1)
        queue = [(numbered(driver, number), DATA, big) for number in range(1, 6)]
        driver.forwarding.forward(list(queue))
        assert driver.proposer.queue == queue
        assert not any(future.attempt for future, _, _ in queue)
        sent.room = True
        driver.proposer.clear()
        driver.forwarding.forward(list(queue))
        numbers = [
            [item.number for item in message.proposals] for _, message in sent.messages if isinstance(message, Forward)
        ]
        assert numbers == [[1, 2], [3, 4], [5]]
        assert all(future.attempt for future, _, _ in queue)


def offer_snapshot(driver: Driver) -> SnapshotMeta:
    """A newer leader's snapshot reaches the core, and nothing has followed from it yet: no turn has run since."""
    core = driver.core
    driver._in_turn = True  # and none will
    membership = MembershipState(voters=tuple(sorted((core.raft.id, PEER))))
    meta = SnapshotMeta(core.last_index + 100, core.term + 1, membership)
    message = Message(MessageType.SNAP, to=core.raft.id, sender=PEER, term=core.term + 1, snapshot=Snapshot(meta))
    assert core.step(message) is None
    assert core.raft.tracker.configuration.state() == membership
    return meta


async def test_no_snapshot_is_made_of_a_view_that_a_newer_one_overtakes(tmp_path: Path) -> None:
    async with leading(tmp_path) as (raft, driver, machine):
        await raft.snapshot()
        assert machine.views == machine.released == 1
        await raft.apply(b"more")
        waiting = driver.snapshotter.take()
        offer_snapshot(driver)
        with pytest.raises(NothingToSnapshot, match="from the leader"):
            await waiting
        assert machine.views == machine.released == 2
        assert len(driver.parts.snapshots.list()) == 1


@pytest.mark.parametrize("runtime", [b"", b"rubbish", b"\x91" * 100_000])
async def test_snapshot_with_an_unreadable_registry_is_refused(tmp_path: Path, runtime: bytes) -> None:
    """Once it was received the node would load it, stop, and stop at each start."""
    async with leading(tmp_path) as (raft, driver, _):
        meta = SnapshotMeta(1000, 2, MembershipState(voters=(raft.node_id, PEER)))
        message = Message(MessageType.SNAP, to=raft.node_id, sender=PEER, term=3, snapshot=Snapshot(meta))
        manifest = SnapshotManifest(1000, 2, meta.membership, raft.cluster_id, 0, "0" * 64, "test", runtime)
        for offered in (encode_manifest(manifest), b"rubbish", b"\x91" * 100_000):
            with pytest.raises(TransportError, match="can't be read"):
                await driver.snapshotter.receive(PEER, message, offered)
        assert not driver.running.stopped


async def test_old_change_does_not_undo_the_membership_of_a_snapshot(tmp_path: Path) -> None:
    async with leading(tmp_path) as (_, driver, _):
        context = encode(ChangeContext(0, 0, (MemberRecord(5, "old", "127.0.0.1:9"),)))
        change = MembershipChange(changes=(SingleChange(ChangeType.ADD_LEARNER_NODE, 5),), context=context)
        old = LogEntry(driver.core.term, driver.applied + 1, EntryType.CONF_CHANGE_V2, encode_change(change))
        meta = offer_snapshot(driver)
        driver.reconfiguration.applied(old)
        assert driver.core.raft.tracker.configuration.state() == meta.membership
        assert 5 not in driver.parts.book.members


async def test_a_condition_and_a_taken_name_are_judged_by_the_leader(tmp_path: Path) -> None:
    async with leading(tmp_path) as (raft, driver, _):
        await until(raft, lambda: bool(driver.parts.book.members[raft.node_id].directory))
        index = raft.membership().index

        def change(member: MemberRecord, expected: int) -> bytes:
            context = encode(ChangeContext(PEER, 1, (member,), expected))
            single = SingleChange(ChangeType.ADD_LEARNER_NODE, member.id)
            return encode(MembershipChange(changes=(single,), context=context))

        free = MemberRecord(7, "free", "127.0.0.1:9")
        for member, expected, message in (
            (free, index + 1, "has changed"),
            (MemberRecord(7, "a", "127.0.0.1:9"), 0, "member already"),
            (MemberRecord(7, "free", raft.config.address), 0, "member already"),
            (MemberRecord(7, "free", "127.0.0.1:9", directory=5), 0, "another data directory"),
            (MemberRecord(raft.node_id, "a", "127.0.0.1:9", directory=5), 0, "another data directory"),
            (MemberRecord(raft.node_id, "b", "127.0.0.1:9"), 0, "is named 'a'"),
        ):
            with pytest.raises(MembershipError, match=message):
                driver.reconfiguration.append(change(member, expected), PEER, 1)
        assert driver.reconfiguration.append(change(free, index), PEER, 1)[0] == raft.stats().last_index


async def test_a_stalled_disk_is_told_once(tmp_path: Path) -> None:
    async with leading(tmp_path) as (raft, driver, _):
        watch = raft.events(DiskSlow)
        for stalled_s in (60.0, 60.0, 60.0, 0.0):
            driver._yield_if_disk_stalls(stalled_s)
        await raft.close()
        assert len([event async for event in watch]) == 1


async def test_an_error_while_a_message_is_dealt_with_stops_the_node(tmp_path: Path) -> None:
    async with leading(tmp_path) as (raft, driver, _):
        driver.on_messages(PEER, [None])  # type: ignore[list-item]
        with pytest.raises(NodeFailed):
            await asyncio.wait_for(raft.apply(b"x"), 5)
        await asyncio.wait_for(raft.failed(), 5)


async def test_a_tick_that_fails_stops_the_node(tmp_path: Path) -> None:
    async with leading(tmp_path) as (raft, driver, _):

        def broken() -> None:
            raise AssertionError("bug in a tick")

        driver.snapshotter.tick = broken  # type: ignore[method-assign]
        assert "bug in a tick" in str(await asyncio.wait_for(raft.failed(), 5))


class Told:
    """What a callback of `_apply_then` was told, each time."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, SynclineError | None]] = []

    def __call__(self, answer: object, error: SynclineError | None) -> None:
        self.calls.append((answer, error))

    @property
    def error(self) -> SynclineError | None:
        assert len(self.calls) == 1
        return self.calls[0][1]


async def test_a_callback_is_told_the_answer_or_the_error_once(tmp_path: Path) -> None:
    async with leading(tmp_path, max_entry_bytes=2000) as (raft, _, _):
        good, refused, large = Told(), Told(), Told()
        raft._apply_then(b"good", good)
        raft._apply_then(b"refuse", refused)
        raft._apply_then(bytes(3000), large)
        assert isinstance(large.error, TooLarge)
        assert good.calls == []
        await raft.apply(b"behind them")
        assert good.calls == [(2, None)]
        assert isinstance(refused.error, Rejected)
        with pytest.raises(ConfigError, match="timeout"):
            raft._apply_then(b"x", Told(), timeout=-1.0)
        pending = Told()
        raft._apply_then(b"cut off", pending)
    assert isinstance(pending.error, Closed)


async def test_callback_that_raises_is_reported_to_the_loop_alone(tmp_path: Path) -> None:
    said: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    async with leading(tmp_path) as (raft, _, _):

        def broken(answer: object, error: SynclineError | None) -> None:
            raise RuntimeError("the caller's own fault")

        raft._apply_then(b"x", broken)
        assert await raft.apply(b"y") == 3
    assert [str(context["exception"]) for context in said] == ["the caller's own fault"]


async def test_what_has_ended_while_it_waited_for_a_leader_never_enters_the_log(tmp_path: Path) -> None:
    async with leading(tmp_path) as (raft, driver, machine):
        leader, driver.core.raft.leader = driver.core.raft.leader, 0  # nobody leads for a moment
        late = Told()
        raft._apply_then(b"late", late, timeout=0.01)
        driver.proposals.expire(driver.loop.time() + 1.0, 0)
        assert isinstance(late.error, NoLeader)
        driver.core.raft.leader = leader
        await raft.apply(b"alive")
        assert len(late.calls) == 1
        assert machine.items == [b"first", b"alive"]


async def test_proposals_gather_while_the_disk_has_the_ones_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    propose_batch = RawNode.propose_batch

    def noted(core: RawNode, batch: list[bytes]) -> tuple[int, int]:
        sizes.append(len(batch))
        return propose_batch(core, batch)

    async with leading(tmp_path) as (raft, driver, _):
        monkeypatch.setattr(RawNode, "propose_batch", noted)
        first = raft.apply(b"first of them")
        await asyncio.sleep(0)
        assert sizes == [1], "a lone one waits for nothing"
        others = []
        for _ in range(5):
            others.append(raft.apply(b"another"))
            driver._turn()
        assert sizes == [1]
        large = raft.apply(bytes(GATHER_BYTES))
        driver._turn()
        assert sizes == [1, 6], "so much at once gains nothing by waiting"
        await asyncio.gather(first, *others, large)


async def test_forwards_without_pause_do_not_delay_the_leaders_own(tmp_path: Path) -> None:
    async with leading(tmp_path) as (raft, driver, _):
        Sent(driver)
        told = Told()
        async with asyncio.timeout(10):
            number = 0
            while len(told.calls) < 1:
                number += 1
                driver.on_messages(PEER, [Forward([forwarded(number, b"theirs")], driver.core.term)])
                if number == 1:
                    raft._apply_then(b"own", Told())
                    driver._turn()
                    raft._apply_then(b"own too", told)
                await asyncio.sleep(0)
        assert told.error is None


async def test_messages_that_come_while_a_turn_ends_are_dealt_with_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No network calls back from within a flush today; one that did must not leave a message lying until a tick."""
    async with leading(tmp_path) as (raft, driver, machine):
        Sent(driver)
        writer = driver.parts.writer
        await until(raft, lambda: writer._idle.is_set() and not (writer._unsettled or driver._scheduled))
        assert driver._ticker is not None
        driver._ticker.cancel()  # it would look anyway

        def flush() -> None:
            monkeypatch.undo()
            driver.on_messages(PEER, [Forward([forwarded(1, b"late")], driver.core.term)])

        monkeypatch.setattr(driver.parts.transport, "flush", flush)
        driver._turn()
        await until(raft, lambda: machine.items == [b"first", b"late"])


async def test_reads_right_after_an_answer_join_the_next_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A round of the leader with its followers is worth more than the moment that the others wait for it."""
    rounds = 0
    read_index = RawNode.read_index

    def counted(core: RawNode, context: bytes) -> bool:
        nonlocal rounds
        rounds += 1
        return read_index(core, context)

    monkeypatch.setattr(RawNode, "read_index", counted)
    async with cluster(tmp_path, "abc") as nodes:
        raft = await nodes.leader()
        rounds = 0
        ended: list[asyncio.Future[object]] = []

        def ask(times: int) -> None:
            future = raft.read_index()
            ended.append(future)
            if times > 1:
                future.add_done_callback(lambda _: ask(times - 1))

        ask(3)
        await asyncio.sleep(0)
        await asyncio.sleep(0)  # the first one is on its way
        ask(3)
        async with asyncio.timeout(10):
            while len(ended) < 6:
                await asyncio.shield(ended[-1])
                await asyncio.sleep(0)
            await asyncio.gather(*(asyncio.shield(future) for future in ended))
        assert 3 <= rounds <= 5, "six would mean that nobody ever joined"


def test_a_wait_does_not_end_before_its_time(tmp_path: Path) -> None:
    """Where timers round to a millisecond, half of them would: a loop around it would turn without a pause."""

    async def check() -> None:
        async with leading(tmp_path) as (raft, driver, _):
            for step in range(40):
                until_s = driver.loop.time() + 0.001 + step * 0.0001
                await raft._driver.running.wait(until_s)
                assert driver.loop.time() >= until_s

    uvloop.run(check())
