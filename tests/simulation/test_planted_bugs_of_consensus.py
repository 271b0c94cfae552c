"""The invariants of the consensus core, each broken on purpose: it is noticed, and named.

Of one bug several invariants may tell. Here only the one that is asked about is listened to, so each is seen to notice
by itself.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import pytest

from syncline.consensus import append_entries, election, install_snapshot, leader, membership, roles
from syncline.consensus.log import RaftLog
from syncline.consensus.membership import Configuration
from syncline.consensus.quorum import JointConfig, MajorityConfig
from syncline.consensus.raft import RaftCore
from syncline.consensus.types import NONE, LogEntry, Message, MessageType, SingleChange, Snapshot
from syncline.node.recovery_barrier import RecoveryBarrier
from syncline.node.runtime import Driver
from syncline.testing.sim import seeds
from syncline.testing.sim.seeds import Options, run_seed

SEEDS = 24
"""Each bug must be found within so many."""


def found(
    patch: pytest.MonkeyPatch, name: str, *faults: str, nodes: int = 3, sim_seconds: float = 2.0, says: str = ""
) -> None:
    """The invariant of this name is seen to be broken, and says so in these words."""
    broken = seeds._Judge.broken

    def only(judge: seeds._Judge, invariant: str, text: str) -> None:
        if invariant == name and says in text:
            broken(judge, invariant, text)

    patch.setattr(seeds._Judge, "broken", only)
    for seed in range(1, SEEDS + 1):
        failure = run_seed(seed, Options(nodes=nodes, sim_seconds=sim_seconds, faults=faults)).failure
        if failure is not None:
            return
    raise AssertionError(f"none of {SEEDS} seeds finds it")


def vote_again_and_again(patch: pytest.MonkeyPatch) -> None:
    """A node votes for whoever asks, whomever it voted for in that term; and there are several candidates in one."""
    answer, reset = election.answer_vote, roles._reset

    def forgetful(raft: RaftCore, message: Message) -> None:
        vote, raft.vote = raft.vote, NONE
        answer(raft, message)
        raft.vote = vote or raft.vote  # the log would refuse another one

    def without_chance(raft: RaftCore, term: int) -> None:
        reset(raft, term)
        raft.randomized_election_timeout = raft.config.election_ticks

    patch.setattr(election, "answer_vote", forgetful)
    patch.setattr(roles, "_reset", without_chance)


def test_two_leaders_in_a_term(monkeypatch: pytest.MonkeyPatch) -> None:
    vote_again_and_again(monkeypatch)
    found(monkeypatch, "election safety", "isolate-leader")


def test_vote_for_each_candidate_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RaftLog, "is_up_to_date", lambda *_: True)
    found(monkeypatch, "leader completeness", "cut", "kill")


def test_a_second_vote_in_a_term(monkeypatch: pytest.MonkeyPatch) -> None:
    vote_again_and_again(monkeypatch)
    found(monkeypatch, "one vote per term", "isolate-leader")


def test_a_candidate_that_counts_its_own_vote_before_it_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    count = election.count_vote

    def early(raft: RaftCore, message: Message) -> None:
        raft.tracker.record_vote(raft.id, True)
        count(raft, message)

    monkeypatch.setattr(election, "count_vote", early)
    found(monkeypatch, "a leader has its vote on the disk", "slow-disk", "isolate-leader", "transfer")


def test_an_append_that_does_not_look_where_the_logs_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(log: RaftLog, prev_index: int, _: int, commit: int, entries: Sequence[LogEntry]) -> int | None:
        if not log.first_index - 1 <= prev_index <= log.last_index:
            return None
        new = log._without_known(prev_index, entries)
        if new:
            log.append(new)
        agreed = prev_index + len(entries)
        log.commit_to(min(commit, agreed))
        return agreed

    monkeypatch.setattr(RaftLog, "maybe_append", careless)
    found(monkeypatch, "log matching", "isolate-leader", "late-refusals", says="comes one of term")


def test_two_entries_of_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    append = RaftLog.append

    def changed(log: RaftLog, entries: Sequence[LogEntry]) -> None:
        append(log, [LogEntry(one.term, one.index, one.type, one.data and one.data[:-1]) for one in entries])

    monkeypatch.setattr(RaftLog, "append", changed)
    found(monkeypatch, "log matching", says="has another entry")


def test_a_leader_that_writes_over_its_own_log(monkeypatch: pytest.MonkeyPatch) -> None:
    append = append_entries.append

    def one_too_low(raft: RaftCore, entries: Sequence[LogEntry]) -> bool:
        low = raft.log.last_index
        if raft.log.commit_index < low and entries[0].index > low:
            entries = [LogEntry(one.term, one.index - 1, one.type, one.data) for one in entries]
        return append(raft, entries)

    monkeypatch.setattr(append_entries, "append", one_too_low)
    found(monkeypatch, "leader append-only", says="replaces its entry")


def test_a_leader_whose_log_gets_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    tick = leader.tick

    def shorter(raft: RaftCore) -> None:
        tick(raft)
        if raft.log.unstable.entries and raft.log.last_index > raft.log.commit_index:
            del raft.log.unstable.entries[-1]

    monkeypatch.setattr(leader, "tick", shorter)
    found(monkeypatch, "leader append-only", "slow-disk", "pause", says="has lost entries")


def test_a_commit_by_the_leader_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MajorityConfig, "committed_index", lambda voters, acked: max(map(acked.get, voters.voters)))
    found(monkeypatch, "committed entries never change", "isolate-leader", "cut")


def test_a_term_that_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def believe(raft: RaftCore, message: Message) -> None:
        raft.term = message.term

    monkeypatch.setattr(RaftCore, "_answer_older_term", believe)
    found(monkeypatch, "nothing goes back", "isolate-leader", says="the term of")


def test_a_commit_index_that_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def commit_to(log: RaftLog, index: int) -> None:
        log.commit_index = max(index, log.applied)

    monkeypatch.setattr(RaftLog, "commit_to", commit_to)
    found(monkeypatch, "nothing goes back", "slow-threads", "delay", says="the commit index of")


def test_a_vote_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = election.answer_vote

    def forgetful(raft: RaftCore, message: Message) -> None:
        raft.leader, vote = NONE, raft.vote
        raft.vote = message.sender
        answer(raft, message)
        if raft.vote == message.sender and message.type is MessageType.PRE_VOTE:
            raft.vote = vote

    monkeypatch.setattr(election, "answer_vote", forgetful)
    found(monkeypatch, "nothing goes back", "delay", "transfer", "isolate-leader", nodes=5, says="changed its vote")


def test_an_applied_index_that_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    carry_out = Driver._carry_out

    def forget(driver: Driver) -> None:
        driver.applied -= driver.applied > 10
        carry_out(driver)

    monkeypatch.setattr(Driver, "_carry_out", forget)
    found(monkeypatch, "nothing goes back", says="the applied index of")


def test_a_node_that_shows_its_state_before_it_has_caught_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecoveryBarrier, "reached", True)
    found(monkeypatch, "nothing goes back", "kill", says="shows its state at")


@pytest.mark.slow
def test_a_second_change_of_the_membership_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leader, "_admit_change", lambda *_: True)
    found(monkeypatch, "one uncommitted change", "joint", "slow-disk", nodes=5)


def test_several_voters_change_without_a_joint_membership(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(changer: membership.Changer, changes: Collection[SingleChange]) -> object:
        changer._apply(changes, outgoing=frozenset())
        return changer._checked(Configuration(JointConfig(changer._incoming), frozenset(changer._learners)))

    monkeypatch.setattr(membership, "enters_joint", lambda _: False)
    monkeypatch.setattr(membership.Changer, "simple", at_once)
    found(monkeypatch, "memberships share a quorum", "joint", nodes=5, says="have nobody in common")


def test_a_membership_from_before_the_snapshot(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = install_snapshot._restore

    def keep(raft: RaftCore, snapshot: Snapshot) -> bool:
        before = raft.tracker.configuration, raft.tracker.progress
        restored = restore(raft, snapshot)
        if restored:
            raft.tracker.switch(*before)
        return restored

    monkeypatch.setattr(install_snapshot, "_restore", keep)
    found(monkeypatch, "memberships share a quorum", "add", "remove", "cut")
