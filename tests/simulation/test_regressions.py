"""What the simulator has found, each in the fewest steps that show it."""

from __future__ import annotations

import asyncio
import functools
import random

import msgspec
import pytest

from syncline.errors import CorruptionError
from syncline.kv.commands import Put, encode_command
from syncline.testing.cluster import Settings, SimCluster
from syncline.testing.sim.loop import SimLoop, run_simulation
from syncline.testing.sim.seeds import Options, SeedReport, run_seed
from syncline.testing.sim.server import Condition, SimServer
from syncline.testing.sim.workers import usual_delay

NEWER = ("coordination", "etcd-clients", "http-clients")
"""Actors that came later than these seeds were found. They cost more steps than all that the seeds are about."""


def replay(seed: int, options: Options) -> SeedReport:
    """Run a seed without the actors that came later."""
    if options.faults is None:
        options = msgspec.structs.replace(options, without=(*options.without, *NEWER))
    return run_seed(seed, options)


async def write(server: SimServer, count: int) -> None:
    raft = server.raft
    assert raft is not None
    for number in range(count):
        command = encode_command(Put(b"k%d" % number, b"v"))
        await (await server.call(lambda command=command: raft.apply(command)))  # type: ignore[misc]


def test_snapshot_is_sent_again_to_a_receiver_back_from_power_loss() -> None:
    """Its sender waited for half a minute on a connection whose other end was gone."""
    report = replay(2001098, Options(sim_seconds=1.0))
    assert report.failure is None, report.failure


def test_leader_without_a_durable_own_vote_leads_no_term_twice() -> None:
    """The others' votes were a quorum, and its disk was slow. After the crash it was elected in the same term once
    more, and gave other entries the names of those that it had sent before."""
    report = replay(3003442, Options(sim_seconds=1.0))
    assert report.failure is None, report.failure


def test_greeting_to_a_node_without_power_ends_when_it_is_back() -> None:
    """Of two nodes that were needed for a quorum one waited five seconds for an answer, and sent nothing meanwhile."""
    report = replay(3004774, Options(sim_seconds=1.0))
    assert report.failure is None, report.failure


def test_greeting_to_a_node_that_restarted_fast_is_given_up() -> None:
    """It had just been sent when the node dialled, and that it was not answered was looked at only then."""
    report = replay(9800767, Options())
    assert report.failure is None, report.failure


def test_snapshot_of_a_new_leader_is_taken_despite_a_dead_ones() -> None:
    """A member received nothing while the connection of the old leader, which had lost its power, was thought alive."""
    faults = ("wipe", "lost-file", "joint", "demote", "remove", "replace", "add", "promote", "rot")
    report = replay(64, Options(sim_seconds=1.0, faults=faults))
    assert report.failure is None, report.failure


def test_bounded_stale_read_is_within_its_bound_despite_contact() -> None:
    """A cut in one direction let heartbeats through, and no entries."""
    report = replay(100200, Options(sim_seconds=2.0))
    assert report.failure is None, report.failure


def test_proposal_that_waits_for_a_transfer_does_not_spin() -> None:
    """The timer of its deadline struck a rounding error too early, and the clock said that there was time left."""
    report = replay(9400102, Options(sim_seconds=1.0))
    assert report.failure is None, report.failure


def test_a_directory_on_a_full_disk_can_be_made_a_later_versions() -> None:
    """The fault itself needed space."""
    report = replay(7000667, Options(sim_seconds=1.0))
    assert report.failure is None, report.failure


@pytest.mark.parametrize(("seed", "sim_seconds"), [(400463, 2.0), (2001797, 1.0)])
def test_quorum_survives_a_shrinking_membership_with_lost_disks(seed: int, sim_seconds: float) -> None:
    """What the faults did was more than Raft promises to survive."""
    report = run_seed(seed, Options(sim_seconds=sim_seconds))
    assert report.failure is None, report.failure


def test_initial_member_without_its_log_does_not_start_as_new() -> None:
    """Its identity was written from an old copy when the founders had met, and had forgotten that there was a log."""

    async def main(loop: SimLoop) -> None:
        cluster = SimCluster(loop, seed=1)
        await cluster.start(3)
        await cluster.leader()
        server = cluster.server("n1")
        server.crash()
        for path in server.disk.paths():
            if path.endswith(".wal"):
                server.disk.lose(path)
        server.start()
        await cluster.until(lambda: server.condition is not Condition.STARTING, timeout_s=5.0)
        assert server.condition is Condition.REFUSED
        assert isinstance(server.error, CorruptionError)

    run_simulation(main)


def test_a_snapshot_that_waits_to_be_restored_outlives_a_newer_one() -> None:
    """The newer one made the store drop it, and the node stopped itself."""

    def slow_restore(worker: str, rng: random.Random) -> float:
        return 5.0 if worker == "syncline-apply" else usual_delay(worker, rng)

    async def main(loop: SimLoop) -> None:
        settings = Settings(snapshot_entries=5, trailing_entries=0, snapshots_retained=1)
        cluster = SimCluster(loop, seed=1, settings=settings)
        await cluster.start(3)
        leader = await cluster.leader()
        behind = next(server for server in cluster.running if server is not leader)
        others = [server.name for server in cluster.running if server is not behind]
        for _ in range(2):  # each time it is too far behind for the log
            cluster.partition([behind.name], others)
            for name in others:
                cluster.network.reset(behind.name, name)
            before = _accepted(behind)
            await write(leader, 12)
            cluster.delays[behind.name] = slow_restore
            cluster.heal()
            await cluster.until(functools.partial(_accepted_after, behind, before), timeout_s=10.0)
            await asyncio.sleep(0.1)  # the leader hears of it
        assert behind.driver is not None
        assert behind.driver.applied < 12, "the first one is not restored yet"
        await cluster.until(lambda: _commit(behind) == _commit(leader) == _applied(behind), timeout_s=20.0)
        await asyncio.sleep(1.0)
        assert behind.running, behind.error

    run_simulation(main)


def _accepted_after(server: SimServer, index: int) -> bool:
    return _accepted(server) > index


def _accepted(server: SimServer) -> int:
    return server.driver.core.raft.restored_index if server.driver is not None else 0


def _commit(server: SimServer) -> int:
    return server.driver.core.commit_index if server.driver is not None else 0


def _applied(server: SimServer) -> int:
    return server.driver.applied if server.driver is not None else 0


@pytest.mark.slow
def test_answered_membership_is_durable_with_a_later_change() -> None:
    """The answer held the later change, which no quorum had on its disks yet."""
    faults = ("joint", "promote", "demote", "snapshot", "kill")
    report = replay(9, Options(nodes=5, sim_seconds=3.0, faults=faults))
    assert report.failure is None, report.failure


def test_joiner_that_moves_before_it_has_a_log_is_found() -> None:
    """It knew no member, and all members knew only its old address."""
    faults = "shrink,joint,remove,add,promote,demote,move,crash-at-answer,lose-at-answer,power,transfer,snapshot,cut"
    report = replay(8830024, Options(sim_seconds=3.0, faults=(*faults.split(","), "isolate-leader")))
    assert report.failure is None, report.failure


def test_registry_of_a_node_that_loads_a_snapshot_is_not_compared() -> None:
    """Its snapshot came while the log of its start was applied: the changes in that log had no effect any more."""
    report = replay(101078, Options(sim_seconds=2.0))
    assert report.failure is None, report.failure


def test_quorum_of_new_voters_is_counted_from_the_change() -> None:
    """A voter that answered became a learner. The others were silent, and had not been needed for a quorum."""
    report = replay(102380, Options(sim_seconds=1.3))
    assert report.failure is None, report.failure


@pytest.mark.slow
def test_bytes_on_a_slow_line_arrive_when_the_line_is_fast_again() -> None:
    """What was sent at 2000 bytes/s still took that long when all faults were over: no leader for five seconds."""
    report = replay(110152, Options())
    assert report.failure is None, report.failure


def test_rollback_spares_a_member_that_became_needed_meanwhile() -> None:
    """A learner was chosen. It became one of two voters before its rollback, which took the quorum along."""
    report = replay(112601, Options())
    assert report.failure is None, report.failure


@pytest.mark.parametrize("seed", [113147, 200214])
def test_server_that_is_being_added_is_left_by_faults(seed: int) -> None:
    """A fault chose it before its first start. Then the fault and the adding both started it."""
    report = run_seed(seed, Options(without=("http-clients",)))
    assert report.failure is None, report.failure


def test_rollback_follows_a_start_that_a_quorum_of_the_others_knows() -> None:
    """Only one member knew the later start, and it was cut off: the others could not refuse the older copy."""
    report = replay(200529, Options())
    assert report.failure is None, report.failure


def test_refused_proposals_do_not_follow_those_of_unknown_outcome() -> None:
    """A snapshot ended proposals whose entries were in the leader's log; an earlier refused one was then sent again."""
    report = replay(212281, Options(sim_seconds=3.8, without=("downgrade",)))
    assert report.failure is None, report.failure


def test_change_of_voters_waits_for_a_learner_that_another_fault_uses() -> None:
    """All voters but one left, the learner became the second voter, and its two copies still had to be replaced."""
    report = replay(212774, Options(sim_seconds=3.2, without=("replace",)))
    assert report.failure is None, report.failure


def test_faults_remember_the_voters_while_no_server_that_knows_them_runs() -> None:
    """Two of four voters lost their logs: one was taken for a learner, as a server that had just started knew it."""
    report = replay(220603, Options())
    assert report.failure is None, report.failure


MOVES = (
    "move", "move-majority", "rollback", "two-copies", "wipe", "foreign-disk", "joint", "shrink", "crash-at-answer",
    "lose-at-answer", "remove", "add", "replace", "kill", "power",
)  # fmt: skip


def test_joiner_without_a_log_that_moves_gets_hints() -> None:
    """It knew no member, and the members knew its old address alone."""
    report = replay(260888, Options(sim_seconds=2.0, faults=MOVES))
    assert report.failure is None, report.failure


def test_members_at_the_end_are_those_before_the_leader_is_taken_out() -> None:
    """The leader was to go: it was killed first, and then no server told the members."""
    report = replay(261629, Options(sim_seconds=2.0, faults=MOVES))
    assert report.failure is None, report.failure


@pytest.mark.slow
def test_watcher_that_reads_slowly_blames_no_server_for_its_pauses() -> None:
    """It read a message each 50 ms after the faults, too, and was more than the 400 behind that are read in 20 s."""
    report = replay(720448, Options())
    assert report.failure is None, report.failure
