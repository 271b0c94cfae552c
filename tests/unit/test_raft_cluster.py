"""The users' cluster: a plain test can do to it what happens to real ones."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from examples.state_machine.raffle import Raffle

from syncline import FSM
from syncline.errors import DeadlineExceeded, NoLeader, OperationError, Outcome, Rejected, UsageError
from syncline.testing import RaftCluster
from syncline.testing.plugin import MakeCluster
from tests.helpers.node_cluster import Listing


def items(machine: FSM[object]) -> list[bytes]:
    assert isinstance(machine, Listing)
    return machine.items


def test_a_command_is_answered_and_reaches_every_node(raft_cluster: MakeCluster) -> None:
    cluster = raft_cluster(Raffle)
    assert cluster.apply(b"join ann") == 1
    assert cluster.apply(b"join bob", node=cluster.followers[0]) == 2
    cluster.assert_same_state()
    assert cluster.nodes == ["n1", "n2", "n3"]


def test_a_refusal_reaches_the_caller(raft_cluster: MakeCluster) -> None:
    with pytest.raises(Rejected, match="nobody has joined"):
        raft_cluster(Raffle).apply(b"draw")


def test_the_leader_is_killed_and_nothing_is_lost(raft_cluster: MakeCluster) -> None:
    cluster = raft_cluster(Listing)
    cluster.apply(b"before")
    old = cluster.leader
    cluster.crash(old, power_loss=True)
    assert cluster.leader != old
    cluster.apply(b"after")
    cluster.restart(old)
    cluster.assert_same_state()
    assert items(cluster.machine(old)) == [b"before", b"after"]


def test_a_leader_without_a_majority_acknowledges_nothing(raft_cluster: MakeCluster) -> None:
    cluster = raft_cluster(Listing)
    old = cluster.leader
    cluster.isolate(old)
    with pytest.raises(OperationError) as lost:
        cluster.apply(b"lost", node=old, timeout=1.0)
    assert lost.value.outcome is Outcome.UNKNOWN
    new = cluster.leader
    assert new != old
    cluster.apply(b"kept")
    assert cluster.read(items, node=new) == [b"kept"]
    with pytest.raises(OperationError):
        cluster.read(items, node=old, timeout=1.0)
    cluster.heal()
    cluster.assert_same_state()
    assert items(cluster.machine(old)) == [b"kept"]


def test_without_a_majority_there_is_no_leader(raft_cluster: MakeCluster) -> None:
    cluster = raft_cluster(Listing)
    cluster.partition(["n1"], ["n2"], ["n3"])
    cluster.run(5.0)
    with pytest.raises((NoLeader, DeadlineExceeded)):
        cluster.apply(b"nobody listens", node="n1")


def test_a_paused_node_is_left_behind_and_catches_up(raft_cluster: MakeCluster) -> None:
    cluster = raft_cluster(Listing)
    slow = cluster.followers[0]
    cluster.pause(slow)
    for number in range(80):  # more than the log keeps: a snapshot will be sent
        cluster.apply(b"%d" % number)
    with pytest.raises(DeadlineExceeded, match="does not answer"):
        cluster.apply(b"asleep", node=slow, timeout=1.0)
    cluster.heal()
    cluster.assert_same_state()
    assert len(items(cluster.machine(slow))) >= 80


def test_a_slow_disk_slows_the_answer_down(raft_cluster: MakeCluster) -> None:
    cluster = raft_cluster(Listing)
    started_s = cluster.time_s
    cluster.apply(b"quick")
    assert cluster.time_s - started_s < 0.2
    for node in cluster.nodes:
        cluster.slow_disk(node, 0.3)
    started_s = cluster.time_s
    cluster.apply(b"slow")
    assert cluster.time_s - started_s >= 0.3


def test_leadership_is_transferred(raft_cluster: MakeCluster) -> None:
    cluster = raft_cluster(Listing)
    old = cluster.leader
    assert cluster.transfer_leadership() != old


def test_a_snapshot_on_demand_is_what_a_restart_begins_with(raft_cluster: MakeCluster) -> None:
    cluster = raft_cluster(Listing)
    cluster.apply(b"one")
    cluster.settle()
    cluster.snapshot("n2")
    cluster.crash("n2")
    cluster.restart("n2")
    machine = cluster.machine("n2")
    assert isinstance(machine, Listing)
    assert machine.restored == 1
    assert machine.items == [b"one"]


def test_a_state_machine_that_breaks_stops_its_nodes_and_says_why(raft_cluster: MakeCluster) -> None:
    cluster = raft_cluster(Listing)
    with pytest.raises(Exception, match=r"broken|does not answer"):
        cluster.apply(b"break", timeout=1.0)
    cluster.run(1.0)
    assert "the state machine is broken" in repr(cluster.error(cluster.nodes[0]))


def test_different_states_are_told(raft_cluster: MakeCluster) -> None:
    cluster = raft_cluster(Listing)
    cluster.apply(b"one")
    cluster.settle()
    items(cluster.machine("n3")).append(b"by hand")
    with pytest.raises(AssertionError, match="n3 holds"):
        cluster.assert_same_state()


def test_cluster_that_fails_at_its_start_closes_its_loop() -> None:
    loops: set[asyncio.AbstractEventLoop] = set()

    def broken() -> Listing:
        loops.add(asyncio.get_running_loop())
        raise RuntimeError("no machine")

    with pytest.raises((RuntimeError, TimeoutError)):
        RaftCluster(broken, nodes=1)
    assert [loop.is_closed() for loop in loops] == [True]


def test_one_seed_is_one_course_of_events() -> None:
    def course(seed: int) -> tuple[str, float]:
        with RaftCluster(Listing, nodes=5, seed=seed) as cluster:
            cluster.apply(b"one")
            cluster.crash(cluster.leader)
            return cluster.leader, cluster.time_s

    assert course(1) == course(1)
    assert len({course(seed) for seed in range(4)}) > 1


def test_an_hour_takes_no_time(raft_cluster: MakeCluster) -> None:
    cluster = raft_cluster(Listing)
    cluster.pause("n1")
    started_s = time.monotonic()
    before_s = cluster.time_s
    cluster.run(60.0)
    assert cluster.time_s - before_s == pytest.approx(60.0)
    assert time.monotonic() - started_s < 60.0


def test_a_wrong_name_is_refused(raft_cluster: MakeCluster) -> None:
    cluster = raft_cluster(Listing)
    with pytest.raises(UsageError, match="no node 'n9'"):
        cluster.partition(["n9"], ["n1"])
    cluster.crash("n1")
    with pytest.raises(UsageError, match="n1 was killed"):
        cluster.apply(b"x", node="n1")


def test_raft_cluster_used_wrongly_says_what_to_do(raft_cluster: MakeCluster) -> None:
    """An AssertionError would look like one of the test's own, and a closed loop like a fault of the library."""
    cluster = raft_cluster(Listing)
    with pytest.raises(UsageError, match="n1 runs: crash it first"):
        cluster.restart("n1")
    cluster.crash("n1")
    for again in (cluster.crash, cluster.pause):
        with pytest.raises(UsageError, match="n1 was killed"):
            again("n1")
    cluster.close()
    with pytest.raises(UsageError, match="was closed"):
        cluster.apply(b"x")
    with pytest.raises(UsageError, match="was closed"):
        assert cluster.leader
    with pytest.raises(UsageError, match="nodes is 0"):
        raft_cluster(Listing, nodes=0)
    with pytest.raises(TypeError, match="not a Listing object"):
        raft_cluster(Listing())  # type: ignore[arg-type]


def test_raft_cluster_that_was_closed_says_so_for_each_fault(raft_cluster: MakeCluster) -> None:
    cluster = raft_cluster(Listing)
    cluster.close()
    calls: tuple[Callable[[], object], ...] = (
        lambda: cluster.crash("n1"),
        lambda: cluster.pause("n1"),
        lambda: cluster.restart("n1"),
        lambda: cluster.isolate("n1"),
        lambda: cluster.partition(["n1"], ["n2"]),
        lambda: cluster.slow_disk("n1", 1.0),
        cluster.heal,
        cluster.settle,
    )
    for call in calls:
        with pytest.raises(UsageError, match="was closed: make another one"):
            call()


def test_raft_cluster_in_a_coroutine_says_what_to_do(raft_cluster: MakeCluster) -> None:
    """`close` works there, for the sake of `finally`; and the loop around it stays the running one."""
    cluster = raft_cluster(Listing)

    async def used() -> None:
        with pytest.raises(UsageError, match="write `def`, not `async def`"):
            raft_cluster(Listing)
        with pytest.raises(UsageError, match="write `def`, not `async def`"):
            cluster.apply(b"x")
        cluster.close()
        await asyncio.sleep(0)

    asyncio.run(used())


def test_raft_cluster_called_by_its_own_read_says_what_to_do(raft_cluster: MakeCluster) -> None:
    cluster = raft_cluster(Listing)
    with pytest.raises(UsageError, match="a function that the cluster calls can't call the cluster"):
        cluster.read(lambda _: cluster.apply(b"x"))
    assert cluster.apply(b"y") is not None


def test_raft_cluster_of_no_state_machine_names_what_is_missing(raft_cluster: MakeCluster) -> None:
    with pytest.raises(TypeError, match="dict is no state machine: it has no method 'apply'"):
        raft_cluster(dict)  # type: ignore[type-var]
    cluster = raft_cluster(Listing)
    with pytest.raises(UsageError, match="no node 'n9'"):
        cluster.slow_disk("n9", 1.0)
