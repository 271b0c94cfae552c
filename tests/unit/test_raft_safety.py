"""The five safety properties of the Raft paper (figure 3), after every step of clusters to which everything happens.

Messages are delivered in any order, twice, or never; storage works when it likes (asynchronous form); nodes crash and
lose what was not durable, which includes a commit index; logs are compacted; members come and go.
"""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from syncline.consensus.types import (
    ChangeType,
    Compacted,
    HardState,
    LogEntry,
    MembershipChange,
    ProposalDropped,
    SingleChange,
    StateType,
    StepRefusal,
    Transition,
)
from tests.helpers.consensus_cluster import START, Cluster, Member

NODES = range(1, 6)


class Disorder:
    """A cluster, a seed, and what is known about what was elected, committed and applied."""

    def __init__(self, seed: int, **config: Any) -> None:
        self.rng = random.Random(seed)
        self.cluster = Cluster(3, election_ticks=6, heartbeat_ticks=1, **config)
        for node_id in (4, 5):  # wait to be added
            self.cluster.start(node_id)
        self.leaders: dict[int, int] = {}
        self.committed: dict[int, LogEntry] = {}
        self.marks: dict[int, tuple[int, int, int]] = {}
        self.proposals = 0
        self.actions = [
            (30, self.tick),
            (60, self.deliver),
            (4, self.lose),
            (4, self.repeat),
            (60, self.ready),
            (40, self.append),
            (40, self.apply),
            (12, self.propose),
            (3, self.change_membership),
            (2, self.crash),
            (2, self.compact),
            (1, self.transfer),
            (2, self.report),
        ]

    def run(self, steps: int) -> None:
        actions = [action for _, action in self.actions]
        weights = [weight for weight, _ in self.actions]
        for _ in range(steps):
            member = self.cluster.members[self.rng.choice(NODES)]
            self.rng.choices(actions, weights)[0](member)
            self.check()

    # -- what happens ---------------------------------------------------------------------------------------------

    def tick(self, member: Member) -> None:
        member.node.tick()

    def deliver(self, _: Member) -> None:
        if self.cluster.network:
            self.cluster.deliver(self.cluster.network.pop(self._any_message()))

    def lose(self, _: Member) -> None:
        if self.cluster.network:
            self.cluster.network.pop(self._any_message())

    def repeat(self, _: Member) -> None:
        if self.cluster.network:
            self.cluster.network.append(self.cluster.network[self._any_message()])

    def ready(self, member: Member) -> None:
        if member.node.has_ready():
            self.cluster.take_ready(member)

    def append(self, member: Member) -> None:
        if member.append_work:
            self.cluster.do_append(member)

    def apply(self, member: Member) -> None:
        if member.apply_work:
            self.cluster.do_apply(member)

    def propose(self, member: Member) -> None:
        self.proposals += 1
        with suppress(ProposalDropped):
            member.node.propose(b"%d" % self.proposals)

    def change_membership(self, member: Member) -> None:
        kinds = [ChangeType.ADD_NODE, ChangeType.REMOVE_NODE, ChangeType.ADD_LEARNER_NODE]
        singles = [SingleChange(self.rng.choice(kinds), self.rng.choice(NODES)) for _ in range(self.rng.randrange(3))]
        with suppress(ProposalDropped):
            member.node.propose_membership(MembershipChange(self.rng.choice(list(Transition)), tuple(singles)))

    def crash(self, member: Member) -> None:
        node_id, storage = member.node.raft.id, member.storage
        hard_state, _ = storage.initial_state()
        commit = self.rng.randint(member.durable_commit, hard_state.commit)
        storage.set_hard_state(HardState(hard_state.term, hard_state.vote, commit))
        self.marks.pop(node_id, None)
        self.cluster.start(node_id, storage, applied=storage.snapshot().meta.index)

    def compact(self, member: Member) -> None:
        log, storage = member.node.raft.log, member.storage
        if member.apply_work or log.applied >= log.unstable.offset or log.unstable.snapshot is not None:
            return
        with suppress(Compacted):
            storage.create_snapshot(log.applied, member.node.status().membership)
            storage.compact(log.applied)

    def transfer(self, member: Member) -> None:
        member.node.transfer_leadership(self.rng.choice(NODES))

    def report(self, member: Member) -> None:
        peer = self.rng.choice(NODES)
        if self.rng.random() < 0.5:
            member.node.report_unreachable(peer)
        else:
            member.node.report_snapshot(peer, ok=self.rng.random() < 0.5)

    def _any_message(self) -> int:
        return self.rng.randrange(min(len(self.cluster.network), 40))

    # -- what must hold -------------------------------------------------------------------------------------------

    def check(self) -> None:
        for node_id, member in self.cluster.members.items():
            self._check_monotonic(node_id, member)
            self._check_leader(node_id, member)
            self._check_applied(member)
        self._check_logs_match()

    def _check_monotonic(self, node_id: int, member: Member) -> None:
        node = member.node
        marks = (node.term, node.commit_index, node.applied)
        before = self.marks.get(node_id, marks)
        assert all(now >= then for now, then in zip(marks, before, strict=True)), "a mark went back"
        assert node.applied <= node.commit_index <= node.last_index
        self.marks[node_id] = marks

    def _check_leader(self, node_id: int, member: Member) -> None:
        node = member.node
        if node.state is not StateType.LEADER:
            return
        assert self.leaders.setdefault(node.term, node_id) == node_id, f"two leaders in term {node.term}"
        if node.term == max(self.leaders):  # leader completeness
            log = node.raft.log
            for index, entry in self.committed.items():
                if index >= log.first_index:
                    assert log.term(index) == entry.term, f"the leader of term {node.term} lacks committed {index}"

    def _check_applied(self, member: Member) -> None:
        for entry in member.applied:
            assert self.committed.setdefault(entry.index, entry) == entry, "two nodes applied different entries"
        member.applied.clear()

    def _check_logs_match(self) -> None:
        logs = [member.node.raft.log for member in self.cluster.members.values()]
        for i, one in enumerate(logs):
            for other in logs[i + 1 :]:
                low = max(one.first_index, other.first_index)
                high = min(one.last_index, other.last_index)
                same = [one.term(index) == other.term(index) for index in range(low, high + 1)]
                assert same == sorted(same, reverse=True), "logs agree behind a place where they differ"


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("guarded", [False, True])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_nothing_unsafe_happens(seed: int, asynchronous: bool, guarded: bool) -> None:
    disorder = Disorder(
        seed,
        async_storage_writes=asynchronous,
        pre_vote=guarded,
        check_quorum=guarded,
        step_down_on_removal=guarded,
        max_inflight_messages=3,
        max_message_bytes=60,
    )
    disorder.run(700)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_disorder_gets_somewhere(asynchronous: bool) -> None:
    """Against a test that proves nothing: leaders are elected, entries applied, and no correct message is refused."""
    terms = entries = changes = 0
    refusals: set[StepRefusal] = set()
    for seed in range(10):
        disorder = Disorder(seed, async_storage_writes=asynchronous)
        disorder.run(1500)
        terms += len(disorder.leaders)
        entries += len(disorder.committed)
        changes += sum(entry.type != 0 for entry in disorder.committed.values())
        refusals.update(*(member.node.raft.dropped for member in disorder.cluster.members.values()))
        assert all(index > START for index in disorder.committed)
    assert terms >= 10
    assert entries >= 100
    assert changes >= 5
    assert refusals <= {
        StepRefusal.PROPOSAL_DROPPED,
        StepRefusal.UNKNOWN_PEER,
        StepRefusal.STALE_SESSION,
        StepRefusal.NO_LEADER,
    }
