"""What is not let in: it is refused and counted, and has changed nothing."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.consensus.membership import encode_change
from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    ChangeType,
    EntryType,
    LogEntry,
    MembershipChange,
    MembershipState,
    Message,
    MessageType,
    SingleChange,
    Snapshot,
    SnapshotMeta,
    StateType,
    StepRefusal,
)
from tests.helpers.consensus_cluster import START, Cluster, add_node, remove_node

LAST = START + 1
"""Where the log of the clusters here ends: the empty entry of the first leader."""


def fingerprint(node: RawNode) -> dict[str, Any]:
    """Everything that a message could change, `dropped` aside."""
    raft = node.raft
    return {
        "term": raft.term,
        "vote": raft.vote,
        "state": raft.state,
        "leader": raft.leader,
        "transferee": raft.transferee,
        "elapsed": (raft.election_elapsed, raft.heartbeat_elapsed),
        "log": str(raft.log),
        "entries": deepcopy(raft.log.unstable.entries),
        "progress": [str(one) for one in raft.tracker.progress.values()],
        "configuration": raft.tracker.configuration,
        "votes": dict(raft.tracker.votes),
        "messages": len(raft.messages) + len(raft.messages_after_append),
        "reads": (list(raft.read_states), len(raft.reads.held), raft.reads.last_position),
        "pending": raft.pending_membership_index,
    }


def message(kind: MessageType, **fields: Any) -> Message:
    return Message(kind, **{"to": 1, "sender": 2, "term": 1, **fields})


def snapshot(index: int = LAST + 5, term: int = 1, **membership: Any) -> Snapshot:
    return Snapshot(SnapshotMeta(index, term, MembershipState(**{"voters": (1, 2, 3), **membership})))


ANY_ROLE = [
    (message(MessageType.HUP), StepRefusal.LOCAL_MESSAGE),
    (message(MessageType.HUP, sender=0, term=0), StepRefusal.LOCAL_MESSAGE),
    (message(MessageType.BEAT), StepRefusal.LOCAL_MESSAGE),
    (message(MessageType.UNREACHABLE), StepRefusal.LOCAL_MESSAGE),
    (message(MessageType.SNAP_STATUS), StepRefusal.LOCAL_MESSAGE),
    (message(MessageType.CHECK_QUORUM), StepRefusal.LOCAL_MESSAGE),
    (message(MessageType.FORGET_LEADER), StepRefusal.LOCAL_MESSAGE),
    (message(MessageType.STORAGE_APPEND), StepRefusal.LOCAL_MESSAGE),
    (message(MessageType.STORAGE_APPLY), StepRefusal.LOCAL_MESSAGE),
    (message(MessageType.STORAGE_APPEND_RESP), StepRefusal.LOCAL_MESSAGE),
    (message(MessageType.STORAGE_APPLY_RESP, sender=LOCAL_APPEND), StepRefusal.LOCAL_MESSAGE),
    (message(MessageType.APP_RESP, sender=9, index=LAST), StepRefusal.UNKNOWN_PEER),
    (message(MessageType.APP_RESP, sender=9, term=8), StepRefusal.UNKNOWN_PEER),
    (message(MessageType.VOTE_RESP, sender=9), StepRefusal.UNKNOWN_PEER),
    (message(MessageType.PRE_VOTE_RESP, sender=9), StepRefusal.UNKNOWN_PEER),
    (message(MessageType.HEARTBEAT_RESP, sender=9), StepRefusal.UNKNOWN_PEER),
    (message(MessageType.READ_INDEX_RESP, sender=9), StepRefusal.UNKNOWN_PEER),
    (message(MessageType.HEARTBEAT, to=3, term=9), StepRefusal.MISROUTED),
    (message(MessageType.APP, to=0, term=9), StepRefusal.MISROUTED),
    (message(MessageType.APP, sender=0), StepRefusal.MALFORMED),
    (message(MessageType.APP, sender=-1), StepRefusal.MALFORMED),
    (message(MessageType.APP, sender=LOCAL_APPLY), StepRefusal.MALFORMED),
    (message(MessageType.APP, sender=1), StepRefusal.MALFORMED),
    (message(MessageType.APP, term=0), StepRefusal.MALFORMED),
    (message(MessageType.APP, term=-4), StepRefusal.MALFORMED),
    (message(MessageType.HEARTBEAT, term=2**63), StepRefusal.MALFORMED),
    (message(MessageType.APP, index=-1), StepRefusal.MALFORMED),
    (message(MessageType.APP, index=2**63), StepRefusal.MALFORMED),
    (message(MessageType.APP, commit=-1), StepRefusal.MALFORMED),
    (message(MessageType.APP, term=9, log_term=10), StepRefusal.MALFORMED),
    (message(MessageType.VOTE, term=9, index=LAST, log_term=10), StepRefusal.MALFORMED),
    (message(MessageType.APP, term=9, index=LAST, log_term=1, entries=[LogEntry(1, LAST + 2)]), StepRefusal.MALFORMED),
    (
        message(
            MessageType.APP, term=9, index=LAST, log_term=1, entries=[LogEntry(1, LAST + 1), LogEntry(1, LAST + 3)]
        ),
        StepRefusal.MALFORMED,
    ),
    (message(MessageType.APP, term=9, index=LAST, log_term=2, entries=[LogEntry(1, LAST + 1)]), StepRefusal.MALFORMED),
    (message(MessageType.APP, term=9, index=LAST, log_term=1, entries=[LogEntry(10, LAST + 1)]), StepRefusal.MALFORMED),
    (
        message(
            MessageType.APP,
            term=9,
            index=LAST,
            log_term=1,
            entries=[LogEntry(2, LAST + 1), LogEntry(4, LAST + 2), LogEntry(3, LAST + 3), LogEntry(4, LAST + 4)],
        ),
        StepRefusal.MALFORMED,
    ),
    (message(MessageType.HEARTBEAT, term=9, commit=LAST + 1), StepRefusal.IMPOSSIBLE_INDEX),
    (message(MessageType.SNAP, term=9), StepRefusal.MALFORMED),
    (message(MessageType.SNAP, term=9, snapshot=Snapshot()), StepRefusal.MALFORMED),
    (message(MessageType.SNAP, term=9, snapshot=snapshot(term=10)), StepRefusal.MALFORMED),
    (message(MessageType.SNAP, term=9, snapshot=snapshot(learners=(1,))), StepRefusal.MALFORMED),
    (message(MessageType.SNAP, term=9, snapshot=snapshot(learners_next=(3,))), StepRefusal.MALFORMED),
    (
        message(MessageType.STORAGE_APPLY_RESP, sender=LOCAL_APPLY, entries=[LogEntry(1, 99)]),
        StepRefusal.IMPOSSIBLE_INDEX,
    ),
    (message(MessageType.STORAGE_APPEND_RESP, sender=LOCAL_APPEND, snapshot=snapshot()), StepRefusal.IMPOSSIBLE_INDEX),
    (message(MessageType.STORAGE_APPLY_RESP, sender=LOCAL_APPLY, to=2), StepRefusal.LOCAL_MESSAGE),
    (message(MessageType.PROP, term=0), StepRefusal.MALFORMED),
    (message(MessageType.PROP, term=9, entries=[LogEntry(0, 0)]), StepRefusal.MALFORMED),
    (
        message(MessageType.PROP, term=0, entries=[LogEntry(0, 0, EntryType.CONF_CHANGE_V2, b"nonsense")]),
        StepRefusal.MALFORMED,
    ),
    (message(MessageType.PROP, term=0, entries=[LogEntry(0, 0, EntryType.CONF_CHANGE)]), StepRefusal.MALFORMED),
    (message(MessageType.READ_INDEX, term=0), StepRefusal.MALFORMED),
    (message(MessageType.READ_INDEX, term=9, entries=[LogEntry(0, 0)]), StepRefusal.MALFORMED),
    (message(MessageType.READ_INDEX_RESP, entries=[]), StepRefusal.MALFORMED),
]

ONLY_A_LEADER = [
    (message(MessageType.APP_RESP, index=LAST + 1), StepRefusal.IMPOSSIBLE_INDEX),
    (message(MessageType.APP_RESP, index=LAST, session=999), StepRefusal.STALE_SESSION),
    (message(MessageType.APP_RESP, index=LAST, session=999, reject=True), StepRefusal.STALE_SESSION),
    (message(MessageType.HEARTBEAT_RESP, session=999), StepRefusal.STALE_SESSION),
    (message(MessageType.HEARTBEAT_RESP, context=b"short"), StepRefusal.MALFORMED),
    (message(MessageType.APP_RESP, sender=1, index=LAST + 9, reject=True), StepRefusal.MALFORMED),
    (message(MessageType.APP_RESP, sender=1, index=LAST, reject=True, reject_hint=LAST), StepRefusal.MALFORMED),
    (message(MessageType.HEARTBEAT_RESP, sender=1), StepRefusal.MALFORMED),
    (message(MessageType.HEARTBEAT_RESP, context=(7).to_bytes(8, "little")), StepRefusal.IMPOSSIBLE_INDEX),
]


def node_as(state: StateType) -> RawNode:
    """Node 1 of three, in term 1, in some role."""
    cluster = Cluster(3)
    cluster.elect(1 if state is StateType.LEADER else 2)
    node = cluster[1]
    if state is StateType.CANDIDATE:
        node.raft.term -= 1  # so that it campaigns for term 1
        node.campaign()
    assert (node.state, node.term, node.last_index) == (state, 1, LAST)
    return node


@pytest.mark.parametrize("state", [StateType.FOLLOWER, StateType.CANDIDATE, StateType.LEADER])
@pytest.mark.parametrize(("refused", "reason"), ANY_ROLE)
def test_what_no_role_lets_in(state: StateType, refused: Message, reason: StepRefusal) -> None:
    node = node_as(state)
    before = fingerprint(node)
    assert node.step(refused) is reason
    assert fingerprint(node) == before
    assert node.raft.dropped == {reason: 1}


@pytest.mark.parametrize(("refused", "reason"), ONLY_A_LEADER)
def test_what_a_leader_does_not_let_in(refused: Message, reason: StepRefusal) -> None:
    node = node_as(StateType.LEADER)
    before = fingerprint(node)
    assert node.step(refused) is reason
    assert fingerprint(node) == before
    assert node.raft.dropped == {reason: 1}


def test_append_before_the_first_index_gets_the_commit_index() -> None:
    node = node_as(StateType.FOLLOWER)
    assert node.step(message(MessageType.APP, index=3, log_term=1, entries=[LogEntry(1, 4)])) is None
    answer = node.raft.messages_after_append[-1]
    assert (answer.type, answer.index, answer.reject) == (MessageType.APP_RESP, LAST, False)
    assert node.last_index == LAST


def test_an_append_beyond_the_end_is_rejected_with_a_hint() -> None:
    node = node_as(StateType.FOLLOWER)
    assert node.step(message(MessageType.APP, index=LAST + 7, log_term=1, session=5)) is None
    answer = node.raft.messages_after_append[-1]
    assert (answer.index, answer.reject, answer.reject_hint, answer.log_term) == (LAST + 7, True, LAST, 1)
    assert answer.session == 5


def test_proposal_that_comes_back_is_not_forwarded_again() -> None:
    """It was passed on to a node that took this one for the leader."""
    proposal = message(MessageType.PROP, sender=1, term=0, entries=[LogEntry(0, 0, data=b"a")])
    node = node_as(StateType.LEADER)
    assert node.step(proposal) is None
    assert node.last_index == LAST + 1
    node = node_as(StateType.FOLLOWER)
    assert node.step(proposal) is StepRefusal.MALFORMED
    assert not node.has_ready()


def test_an_append_may_speak_of_a_commit_index_beyond_its_entries() -> None:
    node = node_as(StateType.FOLLOWER)
    entries = [LogEntry(1, LAST + 1)]
    assert node.step(message(MessageType.APP, index=LAST, log_term=1, commit=LAST + 9, entries=entries)) is None
    assert node.commit_index == LAST + 1


# -- replication sessions -----------------------------------------------------------------------------------------


def test_a_member_removed_and_added_again_is_not_credited_with_old_answers() -> None:
    cluster = Cluster(3)
    leader = cluster.elect(1)
    leader.propose(b"a")
    cluster.settle(keep=lambda one: one.type is MessageType.APP_RESP and one.sender == 3)
    old = list(cluster.network)
    assert old, "an answer of node 3 is under way"
    cluster.network.clear()
    for change in (remove_node(3), add_node(3)):
        leader.propose_membership(change)
        cluster.cut = {3}
        cluster.settle()
    assert leader.status().progress[3].match_index == 0
    for answer in old:  # node 3 has lost its disk in the meantime
        assert leader.step(answer) is StepRefusal.STALE_SESSION
    assert leader.status().progress[3].match_index == 0
    assert leader.raft.dropped == {StepRefusal.STALE_SESSION: len(old)}


def test_every_member_of_every_term_has_its_own_session() -> None:
    cluster = Cluster(3)
    seen: set[int] = set()
    for node_id in (1, 2, 1):
        leader = cluster.elect(node_id)
        sessions = {one.session for one in leader.status().progress.values()}
        assert len(sessions) == 3
        if node_id == 1:
            assert not sessions & seen
            seen |= sessions


@pytest.mark.parametrize("kind", [MessageType.APP, MessageType.HEARTBEAT, MessageType.SNAP])
def test_an_answer_carries_the_session_of_what_it_answers(kind: MessageType) -> None:
    node = node_as(StateType.FOLLOWER)
    node.step(message(kind, index=LAST, log_term=1, session=77, snapshot=snapshot()))
    answers = node.raft.messages + node.raft.messages_after_append
    assert [answer.session for answer in answers] == [77]


# -- anything at all ----------------------------------------------------------------------------------------------

numbers = st.one_of(st.integers(-1, LAST + 3), st.sampled_from([2**63 - 1, 2**63, 2**64 - 1]))
terms = st.integers(-1, 4)
contents = st.one_of(
    st.binary(max_size=9),
    st.just(encode_change(MembershipChange(changes=(SingleChange(ChangeType.ADD_NODE, 4),)))),
)
garbage = st.builds(
    Message,
    type=st.sampled_from(MessageType),
    to=st.sampled_from([0, 1, 1, 1, 2]),
    sender=st.sampled_from([-1, 0, 1, 2, 2, 3, 3, 9, LOCAL_APPLY]),
    term=terms,
    log_term=terms,
    index=numbers,
    entries=st.one_of(
        st.lists(st.builds(LogEntry, terms, numbers, st.sampled_from(EntryType), contents), max_size=3),
        st.integers(0, 3).map(lambda n: [LogEntry(1, LAST + 1 + i) for i in range(n)]),
    ),
    commit=numbers,
    vote=numbers,
    snapshot=st.none()
    | st.builds(
        Snapshot,
        st.builds(
            SnapshotMeta,
            numbers,
            terms,
            st.builds(
                MembershipState,
                st.lists(st.integers(0, 4), max_size=4).map(tuple),
                st.lists(st.integers(0, 4), max_size=2).map(tuple),
                st.lists(st.integers(0, 4), max_size=2).map(tuple),
                st.lists(st.integers(0, 4), max_size=2).map(tuple),
                st.booleans(),
            ),
        ),
    ),
    reject=st.booleans(),
    reject_hint=numbers,
    context=st.one_of(st.binary(max_size=9), st.integers(0, 9).map(lambda n: n.to_bytes(8, "little"))),
    session=st.integers(-1, 9),
)


@settings(max_examples=400, deadline=None)
@given(state=st.sampled_from(list(StateType)), stream=st.lists(garbage, max_size=8), guarded=st.booleans())
def test_no_message_raises_and_what_is_refused_changes_nothing(
    state: StateType, stream: list[Message], guarded: bool
) -> None:
    cluster = Cluster(
        3, pre_vote=guarded or state is StateType.PRE_CANDIDATE, check_quorum=guarded, pre_vote_alone=True
    )
    cluster.elect(1 if state is StateType.LEADER else 2)
    node = cluster[1]
    if state in (StateType.CANDIDATE, StateType.PRE_CANDIDATE):
        node.campaign()
    for one in stream:
        before = fingerprint(node)
        if node.step(msgspec.structs.replace(one)) is not None:
            assert fingerprint(node) == before
        cluster.process(cluster.members[1])
        assert node.applied <= node.commit_index <= node.last_index
