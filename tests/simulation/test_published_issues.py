"""The scenarios behind published issues of hashicorp/raft and of programs on it, in virtual time.

`docs/coming-from-hashicorp-raft.md` lists the issues, and which test plays each of them.
"""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable

import pytest

from syncline import Raft, Stats
from syncline.consensus.types import HardState
from syncline.errors import DeadlineExceeded, NotLeader, OperationError, Outcome, SynclineError
from syncline.storage.wal.writer import WalWrite
from syncline.testing import RaftCluster, Settings
from syncline.testing.plugin import MakeCluster
from tests.helpers.crash_cases import Crashes, Node, crash_everywhere
from tests.helpers.node_cluster import Listing
from tests.helpers.virtual_nodes import begin, call, entries, inner, raft_of, server_of, until

FOREVER_S = 3600.0


def write_many(cluster: RaftCluster, count: int, *, text: str = "entry") -> None:
    for number in range(count):
        cluster.apply(f"{text} {number}".encode())


def stats_of(cluster: RaftCluster, node: str) -> Stats:
    async def stats(raft: Raft[object]) -> Stats:
        return raft.stats()

    return call(cluster, node, stats)


# -- reads and answers ------------------------------------------------------------------------------------------------


def test_read_on_any_node_sees_each_acknowledged_write(raft_cluster: MakeCluster) -> None:
    """#359, #603: there it takes Barrier and VerifyLeader in the right order, on the leader alone."""
    cluster = raft_cluster(Listing)
    for number in range(5):
        cluster.apply(b"%d" % number, node=cluster.nodes[number % 3])
        for node in cluster.nodes:
            seen = call(cluster, node, lambda raft, node=node: raft.read(lambda: len(entries(cluster, node))))  # type: ignore[misc]
            assert seen == number + 1


def test_read_does_not_wait_for_the_disk(raft_cluster: MakeCluster) -> None:
    """#13, #302: there a verification, and the figures of the node, wait behind a write to the disk."""
    cluster = raft_cluster(Listing)
    cluster.apply(b"before")
    leader = cluster.leader
    before_s = cluster.time_s
    writing = begin(cluster, leader, lambda raft: _slow_write(cluster, leader, raft))
    call(cluster, leader, lambda raft: raft.read_index(timeout=1.0))
    assert stats_of(cluster, leader).log_waits_s > 0, "the disk is busy"
    assert cluster.time_s - before_s < 0.3
    until(cluster, writing.done)


async def _slow_write(cluster: RaftCluster, leader: str, raft: Raft[object]) -> object:
    cluster.slow_disk(leader, 0.4)
    return await raft.apply(b"slow")


def test_apply_on_a_leader_that_is_cut_off_has_an_unknown_outcome(raft_cluster: MakeCluster) -> None:
    """#561, consul #2893: the entry may be committed by the next leader, and the caller must be told so."""
    for reaches_a_follower in (False, True):
        cluster = raft_cluster(Listing)
        old, other = cluster.leader, cluster.followers[0]
        cluster.isolate(old)
        if reaches_a_follower:  # requests arrive, and answers are lost
            inner(cluster).network.heal(old, other)
            inner(cluster).network.cut(other, old, one_way=True)
        with pytest.raises(OperationError) as lost:
            cluster.apply(b"maybe", node=old, timeout=1.5)
        assert lost.value.outcome is Outcome.UNKNOWN
        cluster.heal()
        cluster.assert_same_state()
        assert entries(cluster, other).count(b"maybe") <= 1
        cluster.close()


def test_operations_without_a_quorum_end_by_their_deadline(raft_cluster: MakeCluster) -> None:
    """#145, #445, #640, #413, vault #11907: there a time-out bounds the queue alone, or nothing."""
    cluster = raft_cluster(Listing)
    cluster.apply(b"before")
    node = cluster.leader
    cluster.partition(*([name] for name in cluster.nodes))
    cluster.run(5.0)
    works: list[Callable[[Raft[object]], Awaitable[object]]] = [
        lambda raft: raft.apply(b"x", timeout=1.0),
        lambda raft: raft.barrier(timeout=1.0),
        lambda raft: raft.read_index(timeout=1.0),
        lambda raft: raft.read(lambda: None, timeout=1.0),
        lambda raft: raft.verify_leader(timeout=1.0),
        lambda raft: raft.transfer_leadership(timeout=1.0),
        lambda raft: raft.add_learner("d", "d:7100", timeout=1.0),
        lambda raft: raft.remove(cluster.nodes[-1], timeout=1.0),
        lambda raft: raft.hold_upgrade(timeout=1.0),
        lambda raft: raft.ask_leader(b"x", timeout=1.0),
        lambda raft: raft.session(timeout=1.0),
    ]
    for number, work in enumerate(works):
        before_s = cluster.time_s
        with pytest.raises(SynclineError):
            call(cluster, node, work)
        assert cluster.time_s - before_s < 1.5, f"the operation {number} of the list"


def test_operations_under_way_end_when_the_node_closes(raft_cluster: MakeCluster) -> None:
    """#300 and defect 4 of the list: there futures that are still queued at the end may never end."""
    cluster = raft_cluster(Listing)
    node = cluster.leader
    cluster.isolate(node)
    waiting = [begin(cluster, node, lambda raft, n=n: raft.apply(b"%d" % n, timeout=30.0)) for n in range(20)]  # type: ignore[misc]
    begin(cluster, node, lambda raft: raft.close())
    until(cluster, lambda: all(one.done() for one in waiting), timeout_s=10.0)
    assert {type(one.exception()).__name__ for one in waiting} == {"Closed"}
    gc.collect()  # what else has failed meanwhile, and was told to nobody, is told now
    cluster.run(0.1)


def test_verify_leader_does_not_count_learners(raft_cluster: MakeCluster) -> None:
    """Defects 2 and 3 of VerifyLeader: answers of non-voters, and answers to older messages, counted there."""
    cluster = raft_cluster(Listing, nodes=4)
    leader, learner, *voters = [cluster.leader, *cluster.followers]
    call(cluster, leader, lambda raft: raft.demote(learner))
    cluster.settle()
    cluster.partition([leader, learner], voters)
    with pytest.raises((NotLeader, DeadlineExceeded)):
        call(cluster, leader, lambda raft: raft.verify_leader(timeout=0.3))


# -- restarts ---------------------------------------------------------------------------------------------------------


def test_restart_without_the_others_shows_what_was_applied(raft_cluster: MakeCluster) -> None:
    """#549: there a node that is restarted shows the state of its last snapshot until a leader tells it more."""
    cluster = raft_cluster(Listing)
    write_many(cluster, 20)
    cluster.settle()
    cluster.run(5.0)
    shown = {node: list(entries(cluster, node)) for node in cluster.nodes}
    for node in cluster.nodes:
        cluster.crash(node, power_loss=True)
    for node in cluster.nodes:
        cluster.restart(node)
        assert entries(cluster, node) == shown[node] or raft_of(cluster, node).catching_up
        assert len(entries(cluster, node)) >= 19, "all that was durably known to be committed"
        cluster.crash(node)


def test_members_that_all_move_elect_a_leader(raft_cluster: MakeCluster) -> None:
    """#532, consul #1580, rqlite #695: there all nodes with new addresses never find each other again."""
    cluster = raft_cluster(Listing)
    cluster.apply(b"before")
    cluster.settle()
    servers = list(inner(cluster).servers.values())
    for server in servers:
        server.crash()
        server.move()
    addresses = {server.name: server.config.address for server in servers}
    for server in servers:
        server.hint(addresses)
        server.start()
    until(cluster, lambda: all(server.running for server in servers))
    cluster.apply(b"after")
    cluster.assert_same_state()
    assert entries(cluster, "n1") == [b"before", b"after"]


def votes(node: Node) -> None:
    for term in range(1, 4):
        node.write(WalWrite((), HardState(term, 1 + term % 3, 0)))


def test_term_and_vote_survive_a_crash_as_a_pair() -> None:
    """#661: there they are three writes. A crash in between leaves the new term with the vote of the older one.

    The disk is crashed before each of its operations, in several ways. Each start must find the last pair that was
    acknowledged, or the one under way.
    """
    crashes = Crashes(0, each=1, nested=1)
    crash_everywhere(votes, crashes)
    assert crashes.cases > 20


# -- leadership -------------------------------------------------------------------------------------------------------


def test_leader_whose_disk_hangs_loses_its_leadership(raft_cluster: MakeCluster) -> None:
    """#503, #683, #612, consul #22064: there heartbeats go on, and the cluster takes no write."""
    cluster = raft_cluster(Listing)
    cluster.apply(b"before")
    old = cluster.leader
    cluster.slow_disk(old, FOREVER_S)
    begin(cluster, old, lambda raft: raft.apply(b"first", timeout=2.0))
    until(cluster, lambda: not raft_of(cluster, old).is_leader, timeout_s=10.0)
    assert stats_of(cluster, old).log_waits_s > 0, "the figures do not wait for the disk"
    cluster.apply(b"after")
    assert cluster.leader != old


def test_leader_without_a_quorum_steps_down(raft_cluster: MakeCluster) -> None:
    """#666: there a leader may lead on, because it counts contacts that it does not have."""
    cluster = raft_cluster(Listing)
    old = cluster.leader
    cluster.isolate(old)
    until(cluster, lambda: raft_of(cluster, old).role != "leader", timeout_s=5.0)


def test_transfer_that_is_cut_short_blocks_no_later_write(raft_cluster: MakeCluster) -> None:
    """#696, #493, weaviate #12486: there "transfer in progress" stays, and the leader refuses all later writes."""
    cluster = raft_cluster(Listing)
    old, behind, other = cluster.leader, *cluster.followers
    cluster.partition([old, other], [behind])
    write_many(cluster, 5)
    transfer = begin(cluster, old, lambda raft: raft.transfer_leadership(behind, timeout=1.0))
    cluster.run(0.1)
    cluster.partition([old], [other], [behind])
    until(cluster, lambda: not raft_of(cluster, old).is_leader)
    until(cluster, transfer.done)
    assert transfer.exception() is not None
    cluster.partition([old, other], [behind])  # the target of the transfer stays away
    if cluster.leader != old:
        call(cluster, cluster.leader, lambda raft: raft.transfer_leadership(old))
    assert cluster.leader == old
    cluster.apply(b"after", node=old)


def test_transfer_by_name_moves_the_leadership(raft_cluster: MakeCluster) -> None:
    """#211: a program that prefers a member makes it the leader."""
    cluster = raft_cluster(Listing)
    preferred = cluster.followers[-1]
    member = call(cluster, cluster.leader, lambda raft: raft.transfer_leadership(preferred))
    assert (member.name, cluster.leader) == (preferred, preferred)


def test_transfer_that_fails_leaves_the_leader_in_office(raft_cluster: MakeCluster) -> None:
    """#581: the answer tells whether the target leads, and the old leader takes writes at once."""
    cluster = raft_cluster(Listing)
    old, target = cluster.leader, cluster.followers[0]
    cluster.pause(target)
    with pytest.raises(OperationError):
        call(cluster, old, lambda raft: raft.transfer_leadership(target, timeout=0.4))
    cluster.apply(b"after", node=old, timeout=2.0)


# -- snapshots --------------------------------------------------------------------------------------------------------


def test_follower_with_a_conflicting_suffix_takes_one_snapshot(raft_cluster: MakeCluster) -> None:
    """#697, #704, #212: there the suffix stays behind the snapshot, and the follower asks for the next one without
    end.
    """
    cluster = raft_cluster(Listing, settings=Settings(snapshot_entries=20, trailing_entries=2))
    old = cluster.leader
    cluster.isolate(old)
    lost = [begin(cluster, old, lambda raft, n=n: raft.apply(b"lost %d" % n, timeout=1.0)) for n in range(70)]  # type: ignore[misc]
    cluster.run(2.0)
    assert all(one.done() for one in lost)
    cluster.crash(old)  # so that no append from before the snapshot is on its way to it
    write_many(cluster, 50)  # fewer than are lost: the snapshot ends within the conflicting part
    new = cluster.leader
    assert 10 < stats_of(cluster, new).first_index < stats_of(cluster, new).snapshot_index < 70
    cluster.heal()
    cluster.restart(old)
    cluster.assert_same_state()
    installed = stats_of(cluster, old).snapshots_installed
    assert installed == 1
    write_many(cluster, 5, text="later")
    cluster.assert_same_state()
    assert stats_of(cluster, old).snapshots_installed == installed
    assert not [item for item in entries(cluster, old) if item.startswith(b"lost")]


@pytest.mark.parametrize("operation", ["write_at", "sync", "rename"])
def test_snapshot_that_fails_leaves_no_file(raft_cluster: MakeCluster, operation: str) -> None:
    """#714, consul #5314: there each attempt that fails leaves a temporary directory."""
    cluster = raft_cluster(Listing)
    cluster.apply(b"before")
    cluster.settle()
    node = cluster.followers[0]
    disk = server_of(cluster, node).disk
    disk.fail(operation, suffix=".snap" if operation == "rename" else ".snap.tmp")
    before = set(disk.paths())
    with pytest.raises(SynclineError):
        cluster.snapshot(node)
    assert set(disk.paths()) <= before
    cluster.snapshot(node)
    assert stats_of(cluster, node).snapshots_taken == 1


# -- members ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["remove", "demote"])
def test_member_changed_while_it_is_cut_off_disturbs_no_leader(raft_cluster: MakeCluster, change: str) -> None:
    """#524, #525, #526: there it comes back with a higher term, and the leader steps down again and again."""
    cluster = raft_cluster(Listing)
    leader, gone = cluster.leader, cluster.followers[0]
    cluster.isolate(gone)
    cluster.run(2.5)
    call(cluster, leader, lambda raft: getattr(raft, change)(gone, timeout=10.0))
    term = stats_of(cluster, leader).term
    cluster.heal()
    cluster.run(5.0)
    assert (cluster.leader, stats_of(cluster, leader).term) == (leader, term)
    if change == "remove":
        assert "was removed from the cluster" in str(cluster.error(gone))
    else:
        assert raft_of(cluster, gone).role == "learner"


def test_learner_without_a_leader_does_not_campaign(raft_cluster: MakeCluster) -> None:
    """#483, #476, #492: there a non-voter became a candidate."""
    cluster = raft_cluster(Listing)
    leader, learner, other = cluster.leader, *cluster.followers
    call(cluster, leader, lambda raft: raft.demote(learner))
    cluster.settle()
    cluster.crash(leader)
    cluster.crash(other)
    term = stats_of(cluster, learner).term
    cluster.run(30.0)
    assert raft_of(cluster, learner).role == "learner"
    assert stats_of(cluster, learner).term == term


def test_new_member_votes_only_when_it_has_caught_up(raft_cluster: MakeCluster) -> None:
    """#404, #161: there a new voter counts at once, with an empty log."""
    cluster = raft_cluster(Listing)
    write_many(cluster, 80)
    leader, sim = cluster.leader, inner(cluster)
    added = call(cluster, leader, lambda raft: raft.add_learner("n4", "n4:7100", timeout=10.0))
    assert not added.voter
    cluster.crash(cluster.followers[0])  # two of three voters are left: one more would make four, and three a quorum
    write_many(cluster, 5, text="meanwhile")
    cluster.heal()
    new = sim.add_server("n4", added.id)
    new.start()
    until(cluster, lambda: new.running and new.raft is not None and new.raft.role == "follower")
    assert len(entries(cluster, "n4")) >= 80, "it votes, and it has the log"


def test_leader_that_is_removed_is_replaced_at_once(raft_cluster: MakeCluster) -> None:
    """#62, #79, optimism #18699: there the others wait for an election, or apply entries that differ."""
    cluster = raft_cluster(Listing)
    old = cluster.leader
    rest = [name for name in cluster.nodes if name != old]
    writes = [begin(cluster, old, lambda raft, n=n: raft.apply(b"%d" % n, timeout=5.0)) for n in range(50)]  # type: ignore[misc]
    call(cluster, old, lambda raft: raft.remove(raft.node_id, timeout=10.0))
    before_s = cluster.time_s
    until(cluster, lambda: any(raft_of(cluster, name).is_leader for name in rest), timeout_s=0.4)
    assert cluster.time_s - before_s < 0.4, "less than an election timeout"
    until(cluster, lambda: server_of(cluster, old).error is not None)
    cluster.apply(b"after")
    cluster.settle()
    states = [entries(cluster, name) for name in rest]
    assert states[0] == states[1]
    acknowledged = [b"%d" % n for n, one in enumerate(writes) if one.done() and one.exception() is None]
    assert [item for item in states[0] if item in set(acknowledged)] == acknowledged


def test_change_of_an_older_membership_is_refused(raft_cluster: MakeCluster) -> None:
    """Defect 1 of the list: there the index of a configuration is always 0, so that no change can depend on it."""
    cluster = raft_cluster(Listing)
    leader, first, second = cluster.leader, *cluster.followers
    index = raft_of(cluster, leader).membership().index
    assert index > 0
    call(cluster, leader, lambda raft: raft.demote(first, expected_index=index))
    with pytest.raises(OperationError, match="membership"):
        call(cluster, leader, lambda raft: raft.demote(second, expected_index=index))
    assert raft_of(cluster, leader).membership().index > index


def test_restart_with_the_settings_of_the_first_start_changes_nothing(raft_cluster: MakeCluster) -> None:
    """#336, #338, #271: there a second bootstrap is an error to be ignored, and a missing one a node without peers."""
    cluster = raft_cluster(Listing)
    cluster.apply(b"before")
    cluster.settle()
    node = cluster.leader
    before = raft_of(cluster, node).membership()
    assert server_of(cluster, node).config.peers, "they are given at each start"
    cluster.crash(node)
    cluster.restart(node)
    cluster.apply(b"after", node=node)
    assert raft_of(cluster, node).membership().index == before.index
    assert set(raft_of(cluster, node).membership().members) == set(before.members)


def test_leader_shows_the_lag_of_each_member(raft_cluster: MakeCluster) -> None:
    """Consul #4722: there no figure says how far a follower is behind."""
    cluster = raft_cluster(Listing)
    leader, behind, other = cluster.leader, *cluster.followers
    ids = {name: raft_of(cluster, name).node_id for name in cluster.nodes}
    cluster.isolate(behind)
    write_many(cluster, 8)
    cluster.run(1.5)
    progress = stats_of(cluster, leader).progress
    assert progress[ids[behind]].lag >= 8
    assert progress[ids[other]].lag == 0
    assert [progress[ids[behind]].active, progress[ids[other]].active] == [False, True]
