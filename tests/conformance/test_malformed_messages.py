"""Messages that no correct peer would send: never an exception, and where they are refused no change at all."""

from __future__ import annotations

from copy import deepcopy
from functools import cache

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    NO_LIMIT,
    Compacted,
    EntryType,
    LogEntry,
    MembershipState,
    Message,
    MessageType,
    Snapshot,
    SnapshotMeta,
    StateType,
)
from tests.conformance.cluster import Cluster
from tests.conformance.settings import Settings

STEPS = 700
SCENES = 12

numbers = st.one_of(st.integers(0, 60), st.sampled_from([-1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, 2**70]))
small_numbers = st.integers(0, 60)
nodes = st.one_of(st.integers(0, 6), st.sampled_from([-1, 99, LOCAL_APPEND, LOCAL_APPLY]))
data = st.one_of(st.just(b""), st.binary(max_size=12))

entries = st.lists(st.builds(LogEntry, numbers, numbers, st.sampled_from(EntryType), data), max_size=3)
ids = st.lists(st.integers(-1, 6), max_size=4).map(tuple)
memberships = st.builds(MembershipState, ids, ids, ids, ids, st.booleans())
snapshots = st.none() | st.builds(Snapshot, st.builds(SnapshotMeta, numbers, numbers, memberships), data)

anything = st.builds(
    Message,
    type=st.sampled_from(MessageType),
    to=nodes,
    sender=nodes,
    term=numbers,
    log_term=numbers,
    index=numbers,
    entries=entries,
    commit=numbers,
    vote=numbers,
    snapshot=snapshots,
    reject=st.booleans(),
    reject_hint=numbers,
    context=st.one_of(data, st.binary(min_size=8, max_size=8)),
    session=numbers,
)


@cache
def _scene(number: int) -> Cluster:
    cluster = Cluster(number, Settings(asynchronous=number % 2 == 1, check_quorum=number % 3 == 0))
    cluster.run(STEPS)
    return cluster


def _fresh_scene(number: int) -> Cluster:
    """A cluster in the middle of its life: leaders, candidates, followers, learners, and nodes of no group."""
    return deepcopy(_scene(number))


def _observe(raw: RawNode) -> tuple[object, ...]:
    """All that a message could change and that can be seen."""
    raft, status = raw.raft, raw.status()
    return (
        status.term,
        status.vote,
        status.state,
        status.leader,
        status.transferee,
        status.commit_index,
        status.applied,
        str(status.configuration),
        {node_id: str(one) for node_id, one in raft.tracker.progress.items()},
        dict(raft.tracker.votes),
        str(raft.log),
        _contents(raw),
        list(raft.messages),
        list(raft.messages_after_append),
        list(raft.read_states),
        len(raft.reads.held),
        raft.reads.last_position,
        raft.election_elapsed,
        raft.uncommitted_bytes,
    )


def _contents(raw: RawNode) -> list[LogEntry]:
    log = raw.raft.log
    return list(log.entries(log.first_index, NO_LIMIT))


def _committed(raw: RawNode) -> dict[int, LogEntry]:
    return {entry.index: entry for entry in _contents(raw) if entry.index <= raw.commit_index}


def _check_structure(raw: RawNode) -> None:
    log = raw.raft.log
    assert log.applied <= log.applying <= log.commit_index <= log.last_index
    for index, entry in enumerate(_contents(raw), log.first_index):
        assert entry.index == index
    for progress in raw.raft.tracker.progress.values():
        assert 0 <= progress.match_index < progress.next_index
        if raw.state is StateType.LEADER:
            assert progress.match_index <= log.last_index


def _step_and_check(cluster: Cluster, receiver: int, message: Message) -> None:
    raw = cluster.members[receiver].raw
    before, committed, term, commit = _observe(raw), _committed(raw), raw.term, raw.commit_index
    refusal = raw.step(message)
    if refusal is not None:
        assert _observe(raw) == before, f"refused as {refusal!r}, but it had an effect"
        assert raw.raft.dropped[refusal] >= 1, "refused, and not counted"
    assert raw.term >= term
    assert raw.commit_index >= commit
    after = _committed(raw)
    for index, entry in committed.items():
        if index in after:
            assert after[index] == entry, "a committed entry was replaced"
    _check_structure(raw)


def _go_on(cluster: Cluster, receiver: int) -> None:
    """The node still works: it can tick, campaign, hand out what it has to do, and take proposals."""
    raw = cluster.members[receiver].raw
    for _ in range(12):
        raw.tick()
        raw.status()
        if raw.has_ready() and cluster.settings.asynchronous:
            raw.ready()
        _check_structure(raw)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    number=st.integers(0, SCENES - 1), receiver=st.integers(1, 5), messages=st.lists(anything, min_size=1, max_size=8)
)
def test_arbitrary_messages_raise_nothing(number: int, receiver: int, messages: list[Message]) -> None:
    cluster = _fresh_scene(number)
    for message in messages:
        _step_and_check(cluster, receiver, message)
    _go_on(cluster, receiver)


fields = st.sampled_from(["term", "log_term", "index", "commit", "session", "reject_hint"])
_STORAGE_TYPES = (MessageType.STORAGE_APPEND_RESP, MessageType.STORAGE_APPLY_RESP)


@st.composite
def nearly_right(draw: st.DrawFn, cluster: Cluster, receiver: int) -> Message:
    """A message with the numbers of a real moment, of which some are off."""
    raw = cluster.members[receiver].raw
    last, term = raw.last_index, max(raw.term, 1)
    index = draw(st.integers(max(last - 6, 0), last + 3))
    try:
        log_term = raw.raft.log.term_or_zero(index)
    except Compacted:
        log_term = 0
    count = draw(st.integers(0, 3))
    message = Message(
        draw(st.sampled_from([kind for kind in MessageType if kind not in _STORAGE_TYPES])),
        to=receiver,
        sender=draw(st.integers(1, 5)),
        term=term,
        log_term=log_term,
        index=index,
        entries=[LogEntry(term, index + 1 + at, data=b"x") for at in range(count)],
        commit=draw(st.integers(0, last + 3)),
        reject=draw(st.booleans()),
        reject_hint=draw(st.integers(0, last + 3)),
        session=draw(st.integers(0, 30)),
        snapshot=draw(
            st.none() | st.builds(Snapshot, st.just(SnapshotMeta(index, max(log_term, 1), MembershipState((1, 2)))))
        ),
    )
    if draw(st.booleans()):
        message = msgspec.structs.replace(message, **{draw(fields): draw(small_numbers)})
    return message


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data(), number=st.integers(0, SCENES - 1), receiver=st.integers(1, 5))
def test_nearly_right_messages_raise_nothing(data: st.DataObject, number: int, receiver: int) -> None:
    cluster = _fresh_scene(number)
    for _ in range(6):
        _step_and_check(cluster, receiver, data.draw(nearly_right(cluster, receiver)))
    _go_on(cluster, receiver)
