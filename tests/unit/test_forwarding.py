"""Forwards and their answers: a leader of another term appends nothing, and each answer names its attempt."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from syncline import ApplyFuture, Raft
from syncline.consensus.types import NodeId
from syncline.errors import ConfigError, Dropped, NotLeader, Superseded
from syncline.node.envelope import DATA, Kind, Proposal, encode
from syncline.node.rejections import HANDING_OVER
from syncline.transport.messages import Forward, ForwardedProposal, ForwardReply, PeerMessage, RefusedProposal
from tests.helpers.node_cluster import cluster, until

PEER = 99


class Sent:
    """What a node would send, instead of its transport."""

    def __init__(self, raft: Raft[object]) -> None:
        self.messages: list[PeerMessage] = []
        raft._driver.parts.transport.send = self._send  # type: ignore[method-assign]

    def _send(self, to: NodeId, message: PeerMessage) -> bool:
        del to
        self.messages.append(message)
        return True


def forward(term: int) -> Forward:
    return Forward([ForwardedProposal(1, DATA, encode(Proposal(Kind.COMMAND, PEER, 1, b"forwarded")))], term)


@pytest.mark.parametrize("off", [-1, 1])
async def test_forward_of_another_term_is_refused_by_the_leader(tmp_path: Path, off: int) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        sent, term = Sent(raft), raft.stats().term
        raft._driver.on_messages(PEER, [forward(term + off)])
        raft._driver.on_messages(PEER, [forward(term)])
        refused, accepted = (message for message in sent.messages if isinstance(message, ForwardReply))
        assert (refused.term, accepted.term) == (term + off, term)
        assert [(item.number, item.code) for item in refused.refused] == [(1, NotLeader.code)]
        assert not refused.accepted
        assert [item.number for item in accepted.accepted] == [1]
        await raft.barrier()
        assert nodes.machine(raft).items == [b"forwarded"]


async def test_forward_without_a_term_is_refused(tmp_path: Path) -> None:
    """What a node sends that does not know of terms."""
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        sent = Sent(raft)
        raft._driver.on_messages(PEER, [Forward(forward(1).proposals)])
        [reply] = [message for message in sent.messages if isinstance(message, ForwardReply)]
        assert [item.code for item in reply.refused] == [NotLeader.code]


async def test_fenced_proposal_is_applied_in_its_term_on_any_node(tmp_path: Path) -> None:
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        term = leader.stats().term
        for raft in (leader, follower):
            future = raft.apply(b"x", term=term)
            await future
            assert future.term == term


async def test_fenced_proposal_of_another_term_is_not_applied(tmp_path: Path) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        term = raft.stats().term
        with pytest.raises(Superseded):
            await raft.apply(b"x", term=term - 1)
        with pytest.raises(Dropped, match="has not heard of term"):
            await raft.apply(b"x", term=term + 1)
        assert nodes.machine(raft).items == []


@pytest.mark.parametrize(("term", "error"), [(0, ConfigError), (-1, ConfigError), (2**63, ConfigError)])
async def test_fence_that_is_no_term_raises(tmp_path: Path, term: int, error: type[Exception]) -> None:
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        with pytest.raises(error):
            raft.apply(b"x", term=term)
        for wrong in ("1", 1.0, True):
            with pytest.raises(TypeError):
                raft.apply(b"x", term=wrong)  # type: ignore[arg-type]


async def test_fenced_proposals_end_with_a_transfer_and_others_go_on(tmp_path: Path) -> None:
    """A fenced proposal that waits when its term ends is not for the next leader.

    A transfer that takes an election timeout is given up, and the term goes on: on a busy machine it is tried again.
    """
    async with cluster(tmp_path) as nodes:
        applied: list[bytes] = []
        while True:
            leader, follower = await nodes.pair()
            term = follower.stats().term
            leader._driver.core.transfer_leadership(follower.node_id)
            fenced = [raft.apply(b"fenced", term=term) for raft in (leader, follower)]
            plain = [raft.apply(b"plain") for raft in (leader, follower)]
            await asyncio.gather(*plain)
            if follower.stats().term > term:
                break
            for future in fenced:  # in its term: it was applied, or refused because of the transfer
                try:
                    await future
                    applied.append(b"fenced")
                except (NotLeader, Dropped):
                    pass
            applied += [b"plain", b"plain"]
        for future in fenced:
            with pytest.raises((Superseded, NotLeader, Dropped)):
                await future
        assert sorted(nodes.machine(follower).items) == sorted([*applied, b"plain", b"plain"])


async def test_bursts_keep_their_order_through_repeated_transfers(tmp_path: Path) -> None:
    """Each command once, and those of one node in the order in which they were proposed."""
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        futures: dict[str, list[ApplyFuture[object]]] = {name: [] for name in nodes.rafts}
        for count in range(60):
            for name, raft in nodes.rafts.items():
                futures[name].append(raft.apply(f"{name}{count}".encode(), timeout=20))
            if count % 20 == 10:
                leader, follower = await nodes.pair()
                leader._driver.core.transfer_leadership(follower.node_id)
                leader._driver.schedule()
            await asyncio.sleep(0)
        await asyncio.gather(*(future for queue in futures.values() for future in queue))
        raft = await nodes.leader()
        await raft.barrier()
        items = nodes.machine(raft).items
        for name in nodes.rafts:
            own = [item for item in items if item.startswith(name.encode())]
            assert own == [f"{name}{count}".encode() for count in range(60)]


async def test_queue_of_a_stopped_leader_reaches_the_next_one(tmp_path: Path) -> None:
    """A follower's commands that the leader never answered are proposed again by themselves."""
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        held: list[PeerMessage] = []
        transport = follower._driver.parts.transport
        original = transport.send

        def send(to: NodeId, message: PeerMessage) -> bool:
            if isinstance(message, Forward) and to == leader.node_id:
                held.append(message)  # taken, and lost with the leader
                return True
            return original(to, message)

        transport.send = send  # type: ignore[method-assign]
        futures = follower.apply_many([b"%d" % number for number in range(5)], timeout=10)
        await until(follower, lambda: bool(held))
        await nodes.stop(leader.config.name)
        assert await asyncio.gather(*futures) == [1, 2, 3, 4, 5]
        assert nodes.machine(follower).items == [b"%d" % number for number in range(5)]


@pytest.mark.parametrize("code", [NotLeader.code, HANDING_OVER, Dropped.code])
async def test_answer_of_another_peer_than_the_leader_is_ignored(tmp_path: Path, code: str) -> None:
    """A faulty member could have a command applied twice, or called `not_applied` while it stands in the log."""
    async with cluster(tmp_path) as nodes:
        leader, follower = await nodes.pair()
        third = next(raft for raft in nodes.rafts.values() if raft not in (leader, follower))
        driver, forged = follower._driver, 0
        original = driver.parts.transport.send

        def send(to: NodeId, message: PeerMessage) -> bool:
            nonlocal forged
            if isinstance(message, Forward) and not forged:
                forged = len(message.proposals)
                refused = [RefusedProposal(item.number, code, "forged") for item in message.proposals]
                answer: list[PeerMessage] = [ForwardReply([], refused, leader.node_id, message.term)]
                driver.loop.call_soon(driver.on_messages, third.node_id, answer)
            return original(to, message)

        driver.parts.transport.send = send  # type: ignore[method-assign]
        assert await asyncio.gather(*follower.apply_many([b"0", b"1"], timeout=10)) == [1, 2]
        assert forged == 2
        await follower.barrier()
        assert nodes.machine(follower).items == [b"0", b"1"]
