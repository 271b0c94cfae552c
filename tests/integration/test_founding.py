"""A cluster's first start in any order, and members that come back with an emptied data directory."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections.abc import Iterable
from pathlib import Path

import msgspec
import pytest

from syncline import Raft
from syncline.consensus.types import Message, MessageType
from syncline.errors import NodeFailed, NoLeader, TransportError
from syncline.node.bootstrap import DISOWNED
from syncline.node.membership import HOUSEKEEPING_TICKS
from syncline.storage.datadir import IDENTITY_NAME, Identity, decode_identity, encode_identity
from syncline.transport.handshake import Hello, Purpose
from tests.helpers.node_cluster import Cluster, cluster, until

LOST = "has lost its data"


def empty(nodes: Cluster, name: str) -> None:
    shutil.rmtree(nodes.path / name)


def met(raft: Raft[object], others: Iterable[Raft[object]]) -> bool:
    return all(raft._driver.parts.transport.directory_of(other.node_id) is not None for other in others)


async def refused(nodes: Cluster, name: str, **ids: int) -> str:
    """Why a node that is started ends by itself: before it is open, or later."""
    try:
        raft = await nodes.start(name, disk=None, **ids)
    except NodeFailed as failure:
        return str(failure)
    return str(await asyncio.wait_for(raft.failed(), 20))


async def stay_passive(*rafts: Raft[object]) -> None:
    """They know each other, and let several election timeouts pass without taking part in anything."""
    for raft in rafts:
        await until(raft, lambda: met(raft, [other for other in rafts if other is not raft]))  # noqa: B023
    tried = [raft.apply(b"too early", timeout=5 * rafts[0].config.election_s) for raft in rafts]
    for future in tried:
        with pytest.raises(NoLeader, match=r"first start all its members must be up once; waiting for . at"):
            await future
    for raft in rafts:
        stats = raft.stats()
        assert (stats.role, stats.term, stats.vote, stats.leader_changes) == ("follower", 1, None, 0)


@pytest.mark.parametrize("order", list(itertools.permutations("abc")), ids="".join)
async def test_a_whole_cluster_starts_in_any_order(tmp_path: Path, order: tuple[str, ...]) -> None:
    nodes = Cluster(tmp_path, "abc")
    try:
        for name in order[:2]:
            await nodes.start(name)
        await until(nodes.rafts[order[0]], lambda: met(nodes.rafts[order[0]], [nodes.rafts[order[1]]]))
        last = await nodes.start(order[2])
        assert await last.apply(b"first", timeout=20) == 1
        assert len((await nodes.leader()).membership().members) == 3
    finally:
        await nodes.stop_all()


async def test_two_of_three_wait_for_the_third_also_across_a_restart(tmp_path: Path) -> None:
    nodes = Cluster(tmp_path, "abc")
    try:
        await stay_passive(await nodes.start("a"), await nodes.start("b"))
        await nodes.stop("b")
        await stay_passive(nodes.rafts["a"], await nodes.start("b"))
        await nodes.start("c")
        assert await nodes.rafts["b"].apply(b"first", timeout=20) == 1
    finally:
        await nodes.stop_all()


async def test_once_they_have_met_a_quorum_is_enough(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        await (await nodes.leader()).apply(b"first")
        await nodes.announced()
        await nodes.stop_all()
        await nodes.start("a")
        await nodes.start("c")
        assert await nodes.rafts["a"].apply(b"second", timeout=20) == 2


@pytest.mark.parametrize("lost", "abc")
async def test_a_founder_that_comes_back_empty_is_refused_and_stops(tmp_path: Path, lost: str) -> None:
    async with cluster(tmp_path) as nodes:
        await (await nodes.leader()).apply(b"first")
        await nodes.stop(lost)
        empty(nodes, lost)
        for _ in range(2):  # its directory is not empty any more then, and it must not take it for its old one
            failure = await refused(nodes, lost)
            assert LOST in failure
            assert f"syncline repair --replace --data-dir {tmp_path / lost}" in failure
            if (back := nodes.rafts.pop(lost, None)) is not None:
                assert back.stats().vote is None
                with pytest.raises(NodeFailed, match=LOST):
                    await back.apply(b"x")
                await back.close()
        assert await (await nodes.leader()).apply(b"second", timeout=20) == 2


async def test_initial_members_do_not_start_over_without_the_one_that_voted(tmp_path: Path) -> None:
    """Two of three lost their disks: a majority, which knows of nothing, and must not elect a leader."""
    async with cluster(tmp_path) as nodes:
        await (await nodes.leader()).apply(b"first")
        await until(nodes.rafts["c"], lambda: nodes.machines["c"].items == [b"first"])
        await nodes.stop_all()
        for lost in "ab":
            empty(nodes, lost)
        a, b = await nodes.start("a"), await nodes.start("b")
        await stay_passive(a, b)
        await nodes.start("c")
        for raft in (a, b):
            assert LOST in str(await asyncio.wait_for(raft.failed(), 20))
        assert nodes.machines["c"].items == [b"first"]


async def test_if_all_lost_everything_it_is_a_new_cluster(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        await (await nodes.leader()).apply(b"first")
        await nodes.stop_all()
        for lost in "abc":
            empty(nodes, lost)
        await nodes.start_all()
        assert await nodes.rafts["a"].apply(b"anew", timeout=20) == 1


async def test_joined_member_that_comes_back_empty_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        info, joined = await nodes.join(nodes.rafts["a"], "d")
        await until(joined, lambda: joined.membership().members.get(info.id, info).voter)
        await nodes.stop("d")
        empty(nodes, "d")
        ids = {"cluster_id": nodes.rafts["a"].cluster_id, "node_id": info.id}
        assert LOST in await refused(nodes, "d", **ids)


async def test_a_founder_is_told_by_a_member_that_came_later(tmp_path: Path) -> None:
    """None of those with whom it started the cluster is there any more; who joined knows its directory by the log."""
    async with cluster(tmp_path, "ab") as nodes:
        leader = await nodes.leader()
        for name in "cd":
            info, joined = await nodes.join(leader, name)
            await until(joined, lambda: joined.membership().members.get(info.id, info).voter)  # noqa: B023
        await nodes.announced()
        await nodes.stop("a")
        await nodes.stop("b")
        empty(nodes, "a")
        assert LOST in await refused(nodes, "a")


async def test_waiting_initial_member_gives_no_vote_and_takes_no_snapshot(tmp_path: Path) -> None:
    nodes = Cluster(tmp_path, "abc")
    try:
        a, b = await nodes.start("a"), await nodes.start("b")
        await stay_passive(a, b)
        a._driver.bootstrap.waiting = False  # as if it had met all of them, and had not written it down
        with pytest.raises(NoLeader):
            await a.apply(b"x", timeout=10 * a.config.election_s)
        assert a.role == "candidate"
        assert (b.stats().term, b.stats().vote) == (1, None)
        offer = Message(MessageType.SNAP, to=b.node_id, sender=a.node_id)
        with pytest.raises(TransportError, match="waiting for c at"):
            await b._driver.on_snapshot(a.node_id, offer, b"")
    finally:
        await nodes.stop_all()


async def test_both_ends_of_a_handshake_judge_the_directories(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        raft, peer = await nodes.pair()
        await nodes.announced()
        founding, ours = raft._driver.bootstrap, raft._driver.parts.identity.directory_id
        theirs = founding.known_directory(peer.node_id)
        assert theirs == peer._driver.parts.identity.directory_id != ours
        hello = Hello(2, 2, raft.cluster_id, peer.node_id, raft.node_id, Purpose.MESSAGES, 5, "", theirs, ours)
        assert founding.refuse(hello) is None
        assert founding.refuse(msgspec.structs.replace(hello, known=0)) is None
        for directory in (0, theirs + 1):
            emptied = msgspec.structs.replace(hello, directory=directory)
            assert DISOWNED in str(founding.refuse(emptied))
        assert raft.stats().leader is not None, "that was the other end's trouble"
        wrong = msgspec.structs.replace(hello, known=ours + 1)
        told = str(founding.refuse(wrong))
        assert "has lost the data directory" in told
        assert DISOWNED not in told, "the other end must not take it for its own trouble"
        founding.refuse(msgspec.structs.replace(wrong, sender=77, directory=0))
        founding.look_for_doubts()
        assert raft.stats().leader is not None, "one member and a stranger are no quorum of three"
        third = next(other for other in nodes.rafts.values() if other not in (raft, peer))
        third_directory = founding.known_directory(third.node_id)
        founding.refuse(msgspec.structs.replace(wrong, sender=third.node_id, directory=third_directory))
        assert LOST in str(await asyncio.wait_for(raft.failed(), 20))


async def test_a_learner_is_not_promoted_before_its_directory_is_known(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        leader = await nodes.leader()
        info, joined = await nodes.join(leader, "d", promote=False)
        joined._driver.reconfiguration._announce = lambda: None  # type: ignore[method-assign]
        member = leader._driver.parts.book.members[info.id]
        leader._driver.parts.book.members[info.id] = msgspec.structs.replace(member, promote=True, directory=0)
        await until(joined, lambda: joined.stats().applied == leader.stats().applied)
        looked = leader._driver.reconfiguration._ticks
        await until(leader, lambda: leader._driver.reconfiguration._ticks > looked + 4 * HOUSEKEEPING_TICKS)
        assert not leader.membership().members[info.id].voter
        leader._driver.parts.book.members[info.id] = msgspec.structs.replace(member, promote=True, directory=7)
        await until(leader, lambda: leader.membership().members[info.id].voter)


async def test_a_directory_of_an_earlier_version_is_given_an_id(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        for raft in nodes.rafts.values():  # an earlier version has no directory's id to announce
            raft._driver.reconfiguration._announce = lambda: None  # type: ignore[method-assign]
        await (await nodes.leader()).apply(b"first")
        await nodes.stop_all()
        for name in "abc":
            path = tmp_path / name / IDENTITY_NAME
            identity = decode_identity(str(path), path.read_bytes())
            assert identity.directory_id and not identity.founding and len(identity.founders) == 2
            path.write_bytes(encode_identity(msgspec.structs.replace(identity, directory_id=0, founders={})))
        drawn: dict[str, Identity] = {}
        for _ in range(2):
            await nodes.start_all()
            await nodes.leader()
            kept, drawn = drawn, {name: raft._driver.parts.identity for name, raft in nodes.rafts.items()}
            await nodes.stop_all()
        assert all(identity.directory_id for identity in drawn.values())
        assert {n: i.directory_id for n, i in kept.items()} == {n: i.directory_id for n, i in drawn.items()}
