"""Bounds on what a node takes: the apply backlog, and the limit of the state machine's state."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from syncline import FSM, Raft
from syncline.consensus.rawnode import RawNode
from syncline.errors import BacklogFull, LimitReached, NoSpace
from syncline.kv.commands import Delete, DeleteRange, Put, Txn, encode_command
from syncline.kv.machine import KvMachine
from syncline.kv.sizes import RECORD_OVERHEAD_BYTES
from syncline.node import intake
from syncline.node.envelope import DATA, Kind, MemberRecord, Proposal, encode
from syncline.node.fsm import Entry
from syncline.node.intake import Intake
from syncline.node.runtime import Driver
from syncline.sessions.entries import SessionChange, encode_change
from syncline.transport.messages import Forward, ForwardedProposal, ForwardReply, PeerMessage
from tests.helpers.node_cluster import Cluster, Listing, until

PEER = 99


@asynccontextmanager
async def running(
    path: Path, make: Callable[[], object], names: str = "a", **settings: object
) -> AsyncIterator[Cluster]:
    nodes = Cluster(path, names, **settings)
    nodes.make = make  # type: ignore[assignment]  # any state machine
    try:
        await nodes.start_all()
        yield nodes
    finally:
        await nodes.stop_all()


def reply_to(driver: Driver, *items: ForwardedProposal) -> ForwardReply:
    """What the node answers to a forward of `PEER`."""
    sent: list[PeerMessage] = []
    real = driver.parts.transport.send

    def send(_: int, message: PeerMessage) -> bool:
        sent.append(message)
        return True

    driver.parts.transport.send = send  # type: ignore[assignment,method-assign]
    driver.on_messages(PEER, [Forward(list(items), driver.core.term)])
    driver.parts.transport.send = real  # type: ignore[method-assign]
    [reply] = [message for message in sent if isinstance(message, ForwardReply)]
    return reply


def forwarded(number: int, data: bytes, kind: Kind = Kind.COMMAND) -> ForwardedProposal:
    return ForwardedProposal(number, DATA, encode(Proposal(kind, PEER, number, data)))


class Halting(Listing):
    """Halts at its second entry until it is let go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def apply(self, entry: Entry) -> object:
        if self.items:
            assert self.go_on.wait(20)
        return super().apply(entry)


async def halted(nodes: Cluster, monkeypatch: pytest.MonkeyPatch) -> tuple[Raft[object], Halting]:
    """A node whose state machine has halted, with five entries committed behind it and a limit of three."""
    monkeypatch.setattr(intake, "MAX_BACKLOG_ENTRIES", 3)
    raft = await nodes.leader()
    machine = nodes.machines["a"]
    assert isinstance(machine, Halting)
    await nodes.announced()
    await raft.apply(b"first")
    for number in range(5):
        raft.apply(b"%d" % number, timeout=60)
    await until(raft, lambda: raft.stats().lag == 5)
    await asyncio.sleep(0)
    return raft, machine


async def test_backlog_above_the_limit_refuses_proposals_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path, Halting) as nodes:
        raft, machine = await halted(nodes, monkeypatch)
        last = raft.stats().last_index
        for future in (raft.apply(b"more"), raft.barrier()):
            assert future.done(), "at once"
            text = "5 committed entries wait to be applied on node a.*try again"
            with pytest.raises(BacklogFull, match=text) as caught:
                await future
            assert (caught.value.code, caught.value.outcome.value) == ("backlog", "not_applied")
        driver = raft._driver
        reply = reply_to(driver, forwarded(1, b"more"), forwarded(2, b"", Kind.BARRIER))
        assert [(refusal.code, refusal.number) for refusal in reply.refused] == [("backlog", 1), ("backlog", 2)]
        assert raft.stats().last_index == last
        told = encode(MemberRecord(PEER, "b", "127.0.0.1:7101"))
        assert len(reply_to(driver, forwarded(3, told, Kind.ANNOUNCE)).accepted) == 1, "the runtime's own pass"
        machine.go_on.set()
        await until(raft, lambda: raft.stats().lag == 0)
        assert await raft.apply(b"again") == 7


async def test_backlog_in_bytes_is_refused_by_its_name(tmp_path: Path) -> None:
    """The core bounds the bytes of what is uncommitted or not applied; which of the two it is must be told."""
    async with running(tmp_path, Halting, max_uncommitted_bytes=100_000) as nodes:
        raft = await nodes.leader()
        machine = nodes.machines["a"]
        assert isinstance(machine, Halting)
        await nodes.announced()
        await raft.apply(b"first")
        for _ in range(2):
            raft.apply(bytes(49_900), timeout=60)
        await until(raft, lambda: raft.stats().lag == 2)
        with pytest.raises(BacklogFull):
            await raft.apply(bytes(45_000))
        machine.go_on.set()


# -- the state's limit ------------------------------------------------------------------------------------------------

RECORD = 1000 + len(b"key 00") + RECORD_OVERHEAD_BYTES


def put(number: int, size: int = 1000) -> bytes:
    return encode_command(Put(b"key %02d" % number, bytes(size)))


async def limited(nodes: Cluster) -> tuple[Raft[object], KvMachine]:
    raft = await nodes.leader()
    machine: object = nodes.machines["a"]
    assert isinstance(machine, KvMachine)
    await raft.barrier()
    return raft, machine


def ten_records() -> KvMachine:
    return KvMachine(max_bytes=10 * RECORD)


async def test_store_at_its_limit_refuses_puts_and_takes_deletes(tmp_path: Path) -> None:
    async with running(tmp_path, ten_records) as nodes:
        raft, machine = await limited(nodes)
        for number in range(9):
            await raft.apply(put(number))
        await raft.apply(put(9))
        assert machine.size_bytes == machine.max_bytes, "the limit is reached, and not passed"
        with pytest.raises(NoSpace, match=r"node a, counts for 13900.*limit is 13900.*Deletes pass") as caught:
            await raft.apply(put(10))
        assert (caught.value.code, caught.value.outcome.value) == ("no_space", "not_applied")
        with pytest.raises(NoSpace):
            await raft.apply(put(3, 1001))
        await raft.apply(put(3))  # no larger than before
        with pytest.raises(NoSpace):
            await raft.apply(encode_command(Txn((), (Put(b"small", b""),), ())))
        await raft.apply(encode_command(Delete(b"key 00")))
        await raft.apply(encode_command(Txn((), (Delete(b"key 01"),), ())))
        await raft.apply(encode_command(DeleteRange(b"key 02", b"key 03")))
        for number in range(3):
            await raft.apply(put(number))
        with pytest.raises(NoSpace):
            await raft.apply(put(10))
        assert raft._driver.parts.intake.refused_no_space == 4
        machine.store.check()


@pytest.mark.parametrize("together", [1, 3, 7, 40])
async def test_store_limit_counts_what_is_on_its_way(tmp_path: Path, together: int) -> None:
    """All of them are proposed before one is applied; those that fit by the state alone would pass the limit."""
    async with running(tmp_path, ten_records) as nodes:
        raft, machine = await limited(nodes)
        answers = []
        for start in range(0, 40, together):
            futures = raft.apply_many([put(number) for number in range(start, min(start + together, 40))], timeout=20)
            answers += await asyncio.gather(*futures, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, NoSpace)]
        assert len(refused) == 30
        assert machine.size_bytes == machine.max_bytes


async def test_store_limit_forgets_what_the_core_did_not_take(tmp_path: Path) -> None:
    """Else what was dropped would count as on its way until something else is appended, which can be never."""
    async with running(tmp_path, ten_records) as nodes:
        raft, machine = await limited(nodes)
        core = raft._driver.core
        core.raft.transferee = PEER
        reply = reply_to(raft._driver, *(forwarded(number, put(number)) for number in range(1, 11)))
        assert {refusal.code for refusal in reply.refused} == {"handing_over"}
        core.raft.transferee = 0
        await asyncio.gather(*raft.apply_many([put(number) for number in range(10)]))
        assert machine.size_bytes == machine.max_bytes


async def test_leader_keeps_the_store_limit_for_forwarded_commands(tmp_path: Path) -> None:
    async with running(tmp_path, ten_records) as nodes:
        raft, machine = await limited(nodes)
        reply = reply_to(raft._driver, *(forwarded(number, put(number)) for number in range(1, 20)))
        assert [accepted.number for accepted in reply.accepted] == list(range(1, 11))
        assert {refusal.code for refusal in reply.refused} == {"no_space"}
        assert [refusal.number for refusal in reply.refused] == list(range(11, 20))
        await until(raft, lambda: raft.stats().applied == raft.stats().last_index)
        assert machine.size_bytes <= machine.max_bytes
        reply = reply_to(raft._driver, forwarded(20, put(30)), forwarded(21, encode_command(Delete(b"key 01"))))
        assert [accepted.number for accepted in reply.accepted] == [21]
        assert [refusal.code for refusal in reply.refused] == ["no_space"]


async def test_put_waits_for_deletes_that_are_not_applied_yet(tmp_path: Path) -> None:
    """A leader may apply a delete after a follower has answered it: its own disk can be the last of the three."""
    async with running(tmp_path, ten_records) as nodes:
        raft, machine = await limited(nodes)
        await asyncio.gather(*raft.apply_many([put(number) for number in range(10)]))
        delete = encode_command(Delete(b"key 01"))
        own = raft.apply_many([delete, put(20), put(21), encode_command(Delete(b"key 02")), put(22)])
        answers = await asyncio.gather(*own, return_exceptions=True)
        assert [type(answer) for answer in answers if isinstance(answer, Exception)] == [NoSpace]
        assert isinstance(answers[2], NoSpace), "in their order: the second delete comes behind it"
        assert {key for key in (b"key 20", b"key 22") if machine.store.get(key)} == {b"key 20", b"key 22"}
        delete = encode_command(Delete(b"key 03"))
        reply = reply_to(raft._driver, *(forwarded(at, data) for at, data in ((1, put(30)), (2, delete))))
        assert [(item.number, item.code) for item in reply.refused] == [(1, "no_space")]
        reply = reply_to(raft._driver, forwarded(3, delete), forwarded(4, put(30)), forwarded(5, delete))
        assert [accepted.number for accepted in reply.accepted] == [3]
        assert [(item.number, item.code) for item in reply.refused] == [(4, "handing_over"), (5, "handing_over")]
        await until(raft, lambda: raft.stats().applied == raft.stats().last_index)
        reply = reply_to(raft._driver, forwarded(4, put(30)))
        assert [accepted.number for accepted in reply.accepted] == [4]


async def test_session_that_is_opened_behind_a_waiting_put_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both come again with each look at the queue."""
    monkeypatch.setattr(intake, "MAX_OPENED", 1)
    async with running(tmp_path, ten_records) as nodes:
        raft, _ = await limited(nodes)
        await asyncio.gather(*raft.apply_many([put(number) for number in range(10)]))
        freeing = raft.apply_many([encode_command(Delete(b"key 01")), put(20), put(21)])
        opened = raft._apply(int(Kind.SESSION), encode_change(SessionChange(opened=7)), 5.0, b"")
        answers = await asyncio.gather(*freeing, return_exceptions=True)
        assert isinstance(answers[2], NoSpace)
        assert await opened is True
        with pytest.raises(LimitReached):
            await raft.open_session()


class Measured:
    """A state of 100 bytes at most. A command enlarges it by the number that it is."""

    max_bytes, size_bytes, growth_overhead_bytes, growth_factor = 100, 80, 100, 100

    def growth(self, data: bytes) -> int:
        return int(data)


class Step:
    """The intake of a leader whose log ends at index 10, all of it applied."""

    def __init__(self) -> None:
        self.core = SimpleNamespace(last_index=10, commit_index=10, term=1)
        self.state, self.applied = Measured(), 10
        self.intake = Intake(
            cast("RawNode", self.core), cast("FSM[object]", self.state), "a", applied=lambda: self.applied
        )

    def admit(self, growth: int, kind: Kind = Kind.COMMAND) -> None:
        self.intake.admit(Proposal(kind, 7, 1, b"%d" % growth if kind is Kind.COMMAND else b""))


def test_store_limit_does_not_count_an_applied_command_twice() -> None:
    """An entry of the runtime's own was appended behind it, and is not applied yet."""
    step = Step()
    step.admit(10)
    step.core.last_index, step.applied, step.state.size_bytes = 12, 11, 90
    step.admit(10)
    step.core.last_index = 13
    with pytest.raises(NoSpace, match="90 bytes and 10 more"):
        step.admit(1)


def test_store_limit_counts_a_command_until_it_is_applied() -> None:
    """A barrier was appended before it, in the same step."""
    step = Step()
    step.admit(0, Kind.BARRIER)
    step.admit(10)
    step.core.last_index, step.applied = 12, 11
    with pytest.raises(NoSpace, match="80 bytes and 10 more"):
        step.admit(11)
    step.admit(10)


async def test_follower_tells_its_caller_of_the_leaders_store_limit(tmp_path: Path) -> None:
    async with running(tmp_path, ten_records, "abc") as nodes:
        _, follower = await nodes.pair()
        for number in range(10):
            await follower.apply(put(number))
        with pytest.raises(NoSpace, match="Deletes pass"):
            await follower.apply(put(10))
        await follower.apply(encode_command(Delete(b"key 01")))
        await follower.apply(put(10))
