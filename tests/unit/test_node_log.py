"""The lines of a node's log about itself: each change is told, with names beside ids."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from syncline import Raft
from syncline.errors import NoLeader
from tests.helpers.node_cluster import Cluster, cluster, until


class Lines:
    """What was logged since the last look."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog
        caplog.set_level(logging.INFO, logger="syncline.node")

    def has(self, *parts: str, level: int = logging.INFO) -> bool:
        return any(
            record.levelno == level and all(part in record.getMessage() for part in parts)
            for record in self._caplog.records
        )

    def clear(self) -> None:
        self._caplog.clear()


def label(raft: Raft[object]) -> str:
    return f"{raft.config.name} ({raft.node_id:016x})"


def others(nodes: Cluster, raft: Raft[object]) -> list[Raft[object]]:
    return [other for other in nodes.rafts.values() if other is not raft]


async def test_log_names_role_term_leader_and_links(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines(caplog)
    async with cluster(tmp_path) as nodes:
        leader = await nodes.leader()
        term = leader.stats().term
        assert lines.has(f"node {label(leader)}: leader in term {term}, before: candidate")
        for raft in nodes.rafts.values():
            assert lines.has(f"node {label(raft)}: the leader of term {term} is {label(leader)}")
            assert lines.has(f"node {label(raft)}: term {term}, after term {term - 1}")
            for other in others(nodes, raft):
                assert lines.has(f"node {label(raft)}: reaches {label(other)}")


async def test_log_names_transfer_membership_and_snapshot(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines(caplog)
    async with cluster(tmp_path) as nodes:
        leader = await nodes.leader()
        await nodes.announced()
        target = others(nodes, leader)[0]
        lines.clear()
        await leader.transfer_leadership(target.node_id)
        assert lines.has(f"node {label(leader)}: transfers the leadership of term", f"to {label(target)}")
        await until(leader, lambda: lines.has(f"node {label(leader)}: the transfer to {label(target)} is over"))
        await leader.apply(b"x")
        manifest = await leader.snapshot()
        assert lines.has(f"node {label(leader)}: snapshot taken at entry {manifest.index}")
        info = await target.add_learner("d", nodes.address("d"))
        learner = f"learners d ({info.id:016x})"
        assert lines.has(
            f"node {label(target)}: membership of index {target.membership().index}", "voters a (", learner
        )


async def test_log_of_a_node_without_a_leader_tells_whom_it_reaches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of three nodes one has left; the two that reach each other have a leader, and the last one alone has none."""
    lines = Lines(caplog)
    async with cluster(tmp_path) as nodes:
        leader = await nodes.leader()
        await nodes.announced()
        last, other = others(nodes, leader)
        gone = label(other)
        await nodes.stop(other.config.name)
        await until(last, lambda: lines.has(f"node {label(last)}: does not reach {gone} any more"))
        await nodes.stop(leader.config.name)
        told = f"node {label(last)}: no leader for"
        await until(last, lambda: lines.has(told, f"{gone}: not reached for", level=logging.WARNING))
        assert lines.has(told, f"{label(leader)}: not reached for", "last heard of", level=logging.WARNING)
        assert lines.has(f"node {label(last)}: no leader in term", f"before: {label(leader)}")
        with pytest.raises(NoLeader, match="not reached for"):
            await last.apply(b"x", timeout=0.1)
        assert gone in last.no_leader


async def test_log_names_the_node_that_stops_itself(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines(caplog)
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        raft.apply(b"break")
        await asyncio.wait_for(raft.failed(), 10)
        assert lines.has(f"node {label(raft)}: ", "the state machine is broken", level=logging.CRITICAL)


async def test_log_tells_that_a_node_was_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = Lines(caplog)
    async with cluster(tmp_path, "a") as nodes:
        raft = await nodes.leader()
        await nodes.stop("a")
        assert lines.has(f"node {label(raft)}: the node was closed")


async def test_log_tells_a_snapshot_that_is_sent_and_installed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = Lines(caplog)
    async with cluster(tmp_path, trailing_entries=0, snapshots_retained=1) as nodes:
        leader, follower = await nodes.pair()
        await nodes.stop(follower.config.name)
        await leader.apply(b"x")
        await leader.snapshot()
        await leader.apply(b"y")
        await leader.snapshot()
        late = await nodes.start(follower.config.name)
        await until(late, lambda: late.stats().applied >= leader.stats().applied)
        await until(late, lambda: lines.has("delivered to", label(late)))
        assert lines.has("snapshot at entry", f"sending it to {label(late)}")
        assert lines.has(f"node {label(late)}: snapshot installed at entry")
