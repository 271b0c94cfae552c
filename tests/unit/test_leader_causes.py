"""The log of a node tells why an election happened, and why a leader stopped leading: one line for each cause.

The nodes are real, on virtual time and a simulated network.
"""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from syncline import Raft, Stats
from syncline.node import leader_causes
from syncline.node.leader_causes import ELECTION_REASONS, END_REASONS
from syncline.server.logs import JsonFormatter, TextFormatter
from syncline.testing import RaftCluster
from tests.helpers.node_cluster import Listing
from tests.helpers.virtual_nodes import begin, call, inner, raft_of, server_of, until

LOGS = (Path(__file__).resolve().parents[2] / "docs" / "logs.md").read_text()


@pytest.fixture
def cluster(caplog: pytest.LogCaptureFixture) -> Iterator[RaftCluster]:
    caplog.set_level(logging.INFO, logger="syncline.node")
    with RaftCluster(Listing) as made:
        yield made


def lines(caplog: pytest.LogCaptureFixture, node: str, *parts: str) -> list[str]:
    """The lines of a node that hold all parts."""
    found = [record.getMessage() for phase in ("setup", "call") for record in caplog.get_records(phase)]
    return [line for line in found if line.startswith(f"node {node} (") and all(part in line for part in parts)]


def next_leader(cluster: RaftCluster, before: str) -> str:
    """The name of another leader than `before`, once the other nodes follow it."""
    others = [server for server in inner(cluster).servers.values() if server.name != before]
    until(cluster, lambda: any(server.is_leader for server in others if server.running))
    [found] = [server.name for server in others if server.running and server.is_leader]
    return found


async def _stats(raft: Raft[object]) -> Stats:
    return raft.stats()


def stats(cluster: RaftCluster, node: str) -> Stats:
    """The figures of a node, asked inside its process."""
    return call(cluster, node, _stats)


def levels(caplog: pytest.LogCaptureFixture, node: str, part: str) -> set[str]:
    """The levels of a node's lines with this part."""
    records = caplog.get_records("call")
    return {one.levelname for one in records if f"node {node} (" in one.getMessage() and part in one.getMessage()}


def elections(cluster: RaftCluster, node: str) -> dict[str, int]:
    return {reason: count for reason, count in stats(cluster, node).elections.items() if count}


def ends(cluster: RaftCluster, node: str) -> dict[str, int]:
    return {reason: count for reason, count in stats(cluster, node).leaderships_ended.items() if count}


def test_log_of_a_first_election_says_so(cluster: RaftCluster, caplog: pytest.LogCaptureFixture) -> None:
    leader = cluster.leader
    assert lines(caplog, leader, "starts an election in term", "the cluster has had no leader yet")
    assert elections(cluster, leader) == {"start": 1}
    assert ends(cluster, leader) == {}


def test_log_after_the_leader_died_says_so(cluster: RaftCluster, caplog: pytest.LogCaptureFixture) -> None:
    """Its system closes the connections, so the followers know that the process has gone."""
    died = cluster.leader
    cluster.crash(died)
    heir = next_leader(cluster, died)
    [line] = lines(caplog, heir, "starts an election", f": {died} (")
    assert "the leader, is not reached (" in line
    assert "it was last heard of " in line
    assert elections(cluster, heir)["leader_unreachable"] == 1


def test_log_after_the_leader_was_cut_off_says_so(cluster: RaftCluster, caplog: pytest.LogCaptureFixture) -> None:
    """The follower hears nothing. The leader finds no quorum, and steps down in its own term."""
    cut_off = cluster.leader
    inner(cluster).network.partition([cut_off], [name for name in cluster.nodes if name != cut_off])
    heir = next_leader(cluster, cut_off)
    assert lines(caplog, heir, "starts an election", f"{cut_off} (", "the leader, is ", "last heard of")
    until(cluster, lambda: not server_of(cluster, cut_off).is_leader)
    [line] = lines(caplog, cut_off, "stops leading: no quorum has answered for an election timeout")
    assert all(f"{name} (" in line for name in cluster.nodes)
    assert ends(cluster, cut_off) == {"lost_quorum": 1}
    assert levels(caplog, cut_off, "stops leading") == {"WARNING"}


def test_log_after_a_transfer_says_so(cluster: RaftCluster, caplog: pytest.LogCaptureFixture) -> None:
    before = cluster.leader
    target = cluster.followers[0]
    call(cluster, before, lambda raft: raft.transfer_leadership(raft_of(cluster, target).node_id))
    until(cluster, lambda: server_of(cluster, target).is_leader)
    assert lines(caplog, target, "starts an election", f"{before} (", "transfers the leadership to this node")
    assert lines(caplog, before, "stops leading: the leadership is transferred to", f"{target} (")
    assert levels(caplog, before, "stops leading") == {"INFO"}
    assert elections(cluster, target)["transfer"] == 1
    assert ends(cluster, before) == {"transfer": 1}


def test_log_after_a_leader_lost_its_quorum_says_so(cluster: RaftCluster, caplog: pytest.LogCaptureFixture) -> None:
    """Both followers die: no other node is elected. One comes back, and the reason is that nobody was."""
    alone = cluster.leader
    others = cluster.followers
    for name in others:
        cluster.crash(name)
    until(cluster, lambda: not server_of(cluster, alone).is_leader)
    assert lines(caplog, alone, "stops leading: no quorum has answered", f"{others[0]} (", f"{others[1]} (")
    until(cluster, lambda: bool(lines(caplog, alone, "starts an election", "this node has stopped leading")))
    assert elections(cluster, alone)["no_leader"] >= 1
    cluster.restart(others[0])
    until(cluster, lambda: any(server.is_leader for server in inner(cluster).servers.values() if server.running))


def test_log_after_a_paused_leader_says_so(cluster: RaftCluster, caplog: pytest.LogCaptureFixture) -> None:
    """Its connections stay up, so the followers know that it is silent, and it knows that it stood still."""
    paused = cluster.leader
    server_of(cluster, paused).pause()
    heir = next_leader(cluster, paused)
    [line] = lines(caplog, heir, "starts an election", f": {paused} (")
    assert "the leader, is silent, and it was last heard of " in line
    assert elections(cluster, heir)["leader_silent"] == 1
    server_of(cluster, paused).resume()
    until(cluster, lambda: not server_of(cluster, paused).is_leader)
    assert lines(caplog, paused, "stops leading: another node has begun term", "while this one stood still for")
    assert ends(cluster, paused) == {"paused": 1}
    until(cluster, lambda: bool(lines(caplog, paused, "the event loop stood still for")))


def test_log_of_a_leader_that_was_paused_with_a_write_says_so(
    cluster: RaftCluster, caplog: pytest.LogCaptureFixture
) -> None:
    """Its first tick finds a write that has waited as long as the pause, and transfers the leadership: too late."""
    paused = cluster.leader
    cluster.slow_disk(paused, 0.2)
    begin(cluster, paused, lambda raft: raft.apply(b"x"))
    cluster.run(0.05)
    server_of(cluster, paused).pause()
    next_leader(cluster, paused)
    server_of(cluster, paused).resume()
    until(cluster, lambda: not server_of(cluster, paused).is_leader)
    assert lines(caplog, paused, "stops leading: another node has begun term", "while this one stood still for")
    assert ends(cluster, paused) == {"paused": 1}


def test_log_after_a_removed_leader_says_so(cluster: RaftCluster, caplog: pytest.LogCaptureFixture) -> None:
    removed = cluster.leader
    own = raft_of(cluster, removed).node_id
    call(cluster, cluster.followers[0], lambda raft: raft.remove(own))
    heir = next_leader(cluster, removed)
    told = lines(caplog, removed, "stops leading: it is no voter any more")
    told += lines(caplog, removed, "stops leading: the leadership is transferred to")
    assert told, "it is removed, or transfers the leadership before"
    assert lines(caplog, heir, "starts an election")


def test_log_of_a_restarted_cluster_says_so(cluster: RaftCluster, caplog: pytest.LogCaptureFixture) -> None:
    for name in cluster.nodes:
        cluster.crash(name)
    caplog.clear()
    for name in cluster.nodes:
        cluster.restart(name)
    leader = cluster.leader
    assert lines(caplog, leader, "starts an election", "this node has started, and has heard of no leader since")
    assert elections(cluster, leader) == {"start": 1}


def test_member_lag_counts_entries_bytes_and_seconds(cluster: RaftCluster) -> None:
    """A follower that is away lacks what was written since, and is behind since the first entry that it lacks."""
    leader, away = cluster.leader, cluster.followers[0]
    cluster.apply(b"before")
    cluster.crash(away)
    for number in range(20):
        cluster.apply(b"%1000d" % number)
    cluster.run(5.0)
    [behind] = [one for one in stats(cluster, leader).progress.values() if not one.active]
    assert behind.lag >= 20
    assert 20_000 < behind.lag_bytes < 40_000
    assert 5.0 <= behind.lag_s < 60.0
    cluster.restart(away)
    cluster.settle()
    assert all(one.lag == one.lag_s == one.lag_bytes == 0 for one in stats(cluster, leader).progress.values())


def test_timings_count_each_stage_on_a_leader(cluster: RaftCluster) -> None:
    leader, follower = cluster.leader, cluster.followers[0]
    cluster.apply(b"x")
    call(cluster, leader, lambda raft: raft.read_index())
    times, other = raft_of(cluster, leader).timings(), raft_of(cluster, follower).timings()
    for name in times.__struct_fields__:
        assert sum(getattr(times, name).counts) > 0, name
    assert sum(other.commits.counts) == 0, "commits are timed where entries are proposed"
    assert sum(other.applies.counts) > 0


def test_log_in_text_and_in_json_tells_why_an_election_happened(
    cluster: RaftCluster, caplog: pytest.LogCaptureFixture
) -> None:
    died = cluster.leader
    cluster.crash(died)
    heir = next_leader(cluster, died)
    [record] = [one for one in caplog.get_records("call") if "starts an election" in one.getMessage()][:1]
    found = json.loads(JsonFormatter(node=heir).format(record))
    assert found["message"] in TextFormatter(node=heir).format(record)
    assert (found["level"], found["logger"], found["reason"]) == ("info", "syncline.node", "leader_unreachable")
    assert f"{died} (" in found["message"]


def test_docs_of_elections_have_each_reason_and_real_words() -> None:
    """What the table quotes stands in the code, up to the names and numbers in it."""
    section = LOGS.partition("## Why there was an election")[2].partition("\n## ")[0]
    named = set(re.findall(r"`([a-z_]+)`", section))
    assert named >= {*ELECTION_REASONS, *END_REASONS}
    code = inspect.getsource(leader_causes)
    plain = re.sub(r"\s+", " ", re.sub(r'"\s+f?"', "", code))
    for quoted in filter(re.compile(" ").search, re.findall(r"`([^`\n]+)`", section)):
        for words in re.split(r"…|\(…\)|[0-9.]+ s|[ab] \(…\)|term 8|:|, and it was|ago", quoted):
            wanted = words.strip(" ,")
            assert wanted in plain or "starts an election" in wanted or "stops leading" in wanted, wanted
