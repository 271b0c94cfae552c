"""Validate incoming messages before they change any state.

A message that no correct peer could have sent is refused: it is malformed, misrouted, from no member, or names
impossible indexes. It has no effect, and it is counted. When etcd/raft answers such a message, so does this core;
when etcd/raft would panic, the message is refused here and the node goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final

from syncline.consensus.evidence import lost_entries, two_leaders
from syncline.consensus.membership import MembershipRefused, decode_change, restore
from syncline.consensus.read_queue import decode_position
from syncline.consensus.state import RaftState
from syncline.consensus.types import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    NONE,
    EntryType,
    LogEntry,
    Message,
    MessageType,
    StateType,
    StepRefusal,
)

__all__ = ["examine"]


_LOCAL_TYPES: Final = frozenset(
    {
        MessageType.HUP,
        MessageType.BEAT,
        MessageType.UNREACHABLE,
        MessageType.SNAP_STATUS,
        MessageType.CHECK_QUORUM,
        MessageType.FORGET_LEADER,
        MessageType.STORAGE_APPEND,
        MessageType.STORAGE_APPLY,
    }
)
_STORAGE_RESPONSES: Final = {
    MessageType.STORAGE_APPEND_RESP: LOCAL_APPEND,
    MessageType.STORAGE_APPLY_RESP: LOCAL_APPLY,
}
_RESPONSES: Final = frozenset(
    {
        MessageType.APP_RESP,
        MessageType.VOTE_RESP,
        MessageType.HEARTBEAT_RESP,
        MessageType.READ_INDEX_RESP,
        MessageType.PRE_VOTE_RESP,
    }
)
_VOTES: Final = frozenset({MessageType.VOTE, MessageType.VOTE_RESP, MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESP})
_VOTES_OF_ITS_OWN: Final = frozenset({MessageType.VOTE_RESP, MessageType.PRE_VOTE_RESP})
_TERMLESS: Final = frozenset({MessageType.PROP, MessageType.READ_INDEX})
"""Requests on their way to the leader, of whatever term: they belong to no term until it takes them."""

_index_of = attrgetter("index")
_term_of = attrgetter("term")

_MAX_NUMBER: Final[int] = 2**63 - 1
"""The largest term or index. Nothing reaches it by counting."""


def examine(raft: RaftState, message: Message) -> StepRefusal | None:
    """The reason to refuse a message from outside, or None: it may be stepped."""
    kind = message.type
    if kind in _LOCAL_TYPES:
        return StepRefusal.LOCAL_MESSAGE
    if kind in _STORAGE_RESPONSES:
        return _check_storage_response(raft, message)
    if kind in _RESPONSES and message.sender not in raft.tracker.progress:
        return StepRefusal.UNKNOWN_PEER
    if message.to != raft.id:
        return StepRefusal.MISROUTED
    if not _well_formed(raft, message):
        return StepRefusal.MALFORMED
    check = _CHECKS.get(kind)
    return check(raft, message) if check is not None else None


def _well_formed(raft: RaftState, message: Message) -> bool:
    """Check the rules for every message between nodes."""
    kind, sender, term = message.type, message.sender, message.term
    if not NONE < sender < LOCAL_APPLY:
        return False
    if sender == raft.id and not _may_come_from_oneself(raft, message):
        return False
    if kind in _TERMLESS:
        if term != 0:
            return False
    elif not 0 < term <= _MAX_NUMBER and not (term == 0 and kind is MessageType.PRE_VOTE_RESP):
        return False
    log_term, commit_term = message.log_term, message.commit_term
    if log_term > term or commit_term > term:  # no node has an entry of a later term
        return False
    if commit_term and kind not in _VOTES:
        return False
    # All at once: the bits of a negative number make the result negative, those above the limit make it larger.
    numbers = message.index | log_term | message.commit | message.reject_hint | message.session | commit_term
    return 0 <= numbers <= _MAX_NUMBER


def _may_come_from_oneself(raft: RaftState, message: Message) -> bool:
    """Whether a node may receive a message from itself.

    Storage returns the node's own vote or acknowledgement, but never a rejection of an append: the leader would send
    itself another one. Nor does a node answer a heartbeat of its own.

    A transfer request is sent in the name of the node that shall lead. A request that was sent to the previous leader
    may come back to a node that leads itself by now. A follower does not take its own request back: two followers that
    each take the other one for the leader would forward it to each other without end.
    """
    kind = message.type
    if kind in _TERMLESS:
        return raft.state is StateType.LEADER
    if kind is MessageType.APP_RESP:
        return not message.reject
    return kind in _VOTES_OF_ITS_OWN or kind is MessageType.TRANSFER_LEADER


def _check_storage_response(raft: RaftState, message: Message) -> StepRefusal | None:
    if message.sender != _STORAGE_RESPONSES[message.type] or message.to != raft.id:
        return StepRefusal.LOCAL_MESSAGE
    log = raft.log
    if message.entries and message.entries[-1].index > log.applying:
        return StepRefusal.IMPOSSIBLE_INDEX
    if message.snapshot is not None and message.snapshot.meta.index > log.commit_index:
        return StepRefusal.IMPOSSIBLE_INDEX
    return None


def _check_append(raft: RaftState, message: Message) -> StepRefusal | None:
    if raft.leader != message.sender and _is_second_leader(raft, message):
        return StepRefusal.SECOND_LEADER
    entries = message.entries
    if not entries:
        return None
    first = message.index + 1
    if list(map(_index_of, entries)) != list(range(first, first + len(entries))):
        return StepRefusal.MALFORMED
    if not _terms_in_order(message.log_term, entries, message.term):
        return StepRefusal.MALFORMED
    return None


def _is_second_leader(raft: RaftState, message: Message) -> bool:
    found = two_leaders(message, term=raft.term, leader=raft.leader, last_index=raft.log.last_index)
    if found is not None:
        raft.evidence = found
    return found is not None


def _terms_in_order(lowest: int, entries: Sequence[LogEntry], highest: int) -> bool:
    """Whether terms never decrease from `lowest` over the entries to `highest` (thesis, 3.5)."""
    first, last = entries[0].term, entries[-1].term
    if not max(lowest, 1) <= first <= last <= highest:
        return False
    terms = list(map(_term_of, entries))
    if first == last:  # the usual case, decided without sorting
        return terms.count(first) == len(terms)
    return terms == sorted(terms)


def _check_append_response(raft: RaftState, message: Message) -> StepRefusal | None:
    if message.term != raft.term or raft.state is not StateType.LEADER:
        return None
    if not message.reject and message.index > raft.log.last_index:
        return StepRefusal.IMPOSSIBLE_INDEX
    return _check_session(raft, message)


def _check_heartbeat(raft: RaftState, message: Message) -> StepRefusal | None:
    if raft.leader != message.sender and _is_second_leader(raft, message):
        return StepRefusal.SECOND_LEADER
    # A leader tells a follower to commit what it knows the follower to hold.
    if message.term >= raft.term and message.commit > raft.log.last_index:
        raft.evidence = (
            lost_entries(message, term=raft.term, leader_session=raft.leader_session, last_index=raft.log.last_index)
            or raft.evidence
        )
        return StepRefusal.IMPOSSIBLE_INDEX
    return None


def _check_heartbeat_response(raft: RaftState, message: Message) -> StepRefusal | None:
    if message.term != raft.term or raft.state is not StateType.LEADER:
        return None
    if message.context:
        position = decode_position(message.context)
        if position is None:
            return StepRefusal.MALFORMED
        if position > raft.reads.last_position:
            return StepRefusal.IMPOSSIBLE_INDEX
    return _check_session(raft, message)


def _check_snapshot(_: RaftState, message: Message) -> StepRefusal | None:
    if message.snapshot is None:
        return StepRefusal.MALFORMED
    meta = message.snapshot.meta
    if not (0 < meta.index <= _MAX_NUMBER and 0 < meta.term <= message.term):
        return StepRefusal.MALFORMED
    try:
        restore(meta.membership, meta.index)
    except MembershipRefused:
        return StepRefusal.MALFORMED
    return None


def _check_proposal(_: RaftState, message: Message) -> StepRefusal | None:
    if not message.entries:
        return StepRefusal.MALFORMED
    for entry in message.entries:
        if entry.type is not EntryType.NORMAL:
            try:
                decode_change(entry)
            except ValueError:
                return StepRefusal.MALFORMED
    return None


def _check_read(_: RaftState, message: Message) -> StepRefusal | None:
    return None if len(message.entries) == 1 else StepRefusal.MALFORMED


def _check_session(raft: RaftState, message: Message) -> StepRefusal | None:
    # The node's own acknowledgements speak of its own log, of which there is only one. An answer without a session
    # answers a message without one, which no leader of this kind sends: it came by a way of the runtime's own.
    if message.session in (0, raft.tracker.progress[message.sender].session) or message.sender == raft.id:
        return None
    return StepRefusal.STALE_SESSION


_CHECKS: Final[dict[MessageType, Callable[[RaftState, Message], StepRefusal | None]]] = {
    MessageType.PROP: _check_proposal,
    MessageType.APP: _check_append,
    MessageType.APP_RESP: _check_append_response,
    MessageType.SNAP: _check_snapshot,
    MessageType.HEARTBEAT: _check_heartbeat,
    MessageType.HEARTBEAT_RESP: _check_heartbeat_response,
    MessageType.READ_INDEX: _check_read,
    MessageType.READ_INDEX_RESP: _check_read,
}
