"""AppendEntries: the leader sends entries, a follower appends them (log replication: thesis, 3.5)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING

import msgspec

from syncline.consensus import install_snapshot
from syncline.consensus.evidence import contradiction
from syncline.consensus.progress import Progress, ProgressState
from syncline.consensus.sizes import payload_size
from syncline.consensus.types import (
    NO_LIMIT,
    Compacted,
    LogEntry,
    Message,
    MessageType,
    NodeId,
    NotLoaded,
    Unavailable,
)

if TYPE_CHECKING:
    from syncline.consensus.raft import RaftCore

__all__ = [
    "append",
    "broadcast_append",
    "broadcast_heartbeat",
    "handle_append",
    "handle_heartbeat",
    "maybe_send_append",
    "tell_commit",
]


# -- the leader's side --------------------------------------------------------------------------------------------


def append(raft: RaftCore, entries: Sequence[LogEntry]) -> bool:
    """Append `entries`, which continue the log in the current term, to the leader's own log.

    Returns False, with nothing appended, if the uncommitted tail would grow too large. The leader sends itself no
    append. Its own acknowledgement is queued here and counts once the entries are durable (thesis, 10.2.1: a leader
    may write to its disk in parallel with replicating).
    """
    if raft.max_uncommitted_bytes < NO_LIMIT:
        size = payload_size(entries)
        # A proposal of any size is taken while nothing waits, or it could never be made; an empty one always, because
        # new terms and the end of joint memberships rest on it.
        if raft.uncommitted_bytes and size and raft.uncommitted_bytes + size > raft.max_uncommitted_bytes:
            raft.note("warning", "%x has too much uncommitted: dropping proposal", raft.id)
            return False
        raft.uncommitted_bytes += size
    raft.log.append(entries)
    raft.send(Message(MessageType.APP_RESP, to=raft.id, index=entries[-1].index))
    return True


class _Tail(msgspec.Struct, frozen=True, gc=False):
    """The part of the log behind an index that one message carries."""

    prev_term: int
    entries: Sequence[LogEntry]
    payload_bytes: int
    """In bytes; only counted if there is a limit."""


def broadcast_append(raft: RaftCore) -> None:
    """Send every other member the entries that it lacks, or at least the commit index."""
    tails: dict[int, _Tail] = {}  # followers that keep up lack the same entries: they are read and counted once
    for node_id, progress in raft.tracker.progress.items():
        if node_id != raft.id:
            maybe_send_append(raft, node_id, progress, tails=tails)


def tell_commit(raft: RaftCore, to: NodeId, progress: Progress) -> None:
    """Send the commit index to a follower that was not sent it and can commit more by it."""
    if progress.can_bump_commit(raft.log.commit_index):
        maybe_send_append(raft, to, progress)


def maybe_send_append(
    raft: RaftCore,
    to: NodeId,
    progress: Progress,
    *,
    send_if_empty: bool = True,
    tails: dict[int, _Tail] | None = None,
) -> bool:
    """Send an append, unless the follower is paused; without entries only if `send_if_empty`.

    An append without entries carries the commit index, or probes. If the follower needs compacted entries, a snapshot
    is sent instead. `tails` keeps parts of the log by their first index, for other followers that lack the same
    entries. Returns whether anything was sent.
    """
    log = raft.log
    if (not send_if_empty and progress.next_index > log.last_index) or progress.paused:
        return False
    # A full window still lets empty appends through (as often as heartbeats are answered): were all the appends in it
    # lost, the answer to an empty one is what shows it.
    room = progress.room_bytes
    full = room <= 0 or (progress.inflights.full and progress.state is ProgressState.REPLICATE)
    tail = tails.get(progress.next_index) if tails is not None and not full else None
    if tail is None or (tail.payload_bytes > room and len(tail.entries) > 1):
        try:
            tail = _read_tail(raft, progress.next_index, room, with_entries=not full)
        except NotLoaded:
            return False  # `RawNode.loaded` goes on from here
        except (Compacted, Unavailable):
            return install_snapshot.maybe_send_snapshot(raft, to, progress)
        # A tail cut to the room of one follower may be too short for another one: don't share it.
        whole = room >= raft.config.max_message_bytes or (tail.entries and tail.entries[-1].index == log.last_index)
        if tails is not None and not full and whole:
            tails[progress.next_index] = tail
    if not tail.entries and not send_if_empty:
        return False
    raft.send(
        Message(
            MessageType.APP,
            to=to,
            index=progress.next_index - 1,
            log_term=tail.prev_term,
            entries=tail.entries,
            commit=log.commit_index,
            session=progress.session,
        )
    )
    progress.sent_entries(len(tail.entries), tail.payload_bytes, raft.config.probe_ticks)
    progress.sent_commit = log.commit_index
    return True


def _read_tail(raft: RaftCore, index: int, room_bytes: int, *, with_entries: bool) -> _Tail:
    """The log from `index` on. Raises Compacted or Unavailable if the log does not reach back so far, and NotLoaded."""
    prev_term = raft.log.term(index - 1)
    entries = raft.log.entries_to_send(index, min(room_bytes, raft.config.max_message_bytes)) if with_entries else ()
    limited = raft.config.first_room_bytes < NO_LIMIT or raft.config.max_inflight_bytes not in (0, NO_LIMIT)
    return _Tail(prev_term, entries, payload_size(entries) if limited else 0)


def broadcast_heartbeat(raft: RaftCore) -> None:
    """Send every other member a heartbeat: AppendEntries without entries.

    It carries the number of the newest read that waits (see `read_index`).
    """
    context = raft.reads.context()
    committed = raft.log.commit_index
    for node_id, progress in raft.tracker.progress.items():
        if node_id == raft.id:
            continue
        # A follower must not commit entries that it may lack: its log agrees with the leader's up to `match` only.
        commit = min(progress.match_index, committed)
        raft.send(Message(MessageType.HEARTBEAT, to=node_id, commit=commit, context=context, session=progress.session))
        progress.sent_commit = commit


# -- the follower's side ------------------------------------------------------------------------------------------


def handle_append(raft: RaftCore, message: Message) -> None:
    """Append a leader's entries, and answer with the index up to which the logs agree (AppendEntries: thesis, figure
    3.1).
    """
    log = raft.log
    response = Message(MessageType.APP_RESP, to=message.sender, session=message.session)
    if message.index < log.commit_index:
        # An old message: committed entries agree with every leader's log. If they don't, a promise was lost
        # somewhere, and an answer would confirm the loss. So only the evidence is reported.
        entries = ((entry.index, entry.term) for entry in message.entries)
        positions = chain(((message.index, message.log_term),), entries)
        if (found := contradiction(raft, message, positions)) is not None:
            raft.evidence = found
            return
        response.index = log.commit_index
        raft.send(response)
        return
    agreed = log.maybe_append(message.index, message.log_term, message.commit, message.entries)
    if agreed is not None:
        # Not the last index: behind `agreed` this log may hold entries of another leader that the sender lacks. If they
        # were acknowledged, the sender would count them as copies of its own.
        response.index = agreed
        raft.send(response)
        return
    if (found := contradiction(raft, message, ((message.index, message.log_term),))) is not None:
        raft.evidence = found
        return
    raft.note(
        "debug",
        "%x [logterm: %d, index: %d] rejected MsgApp [logterm: %d, index: %d] from %x",
        *(raft.id, log.term_or_zero(message.index), message.index, message.log_term, message.index, message.sender),
    )
    # The hint is the highest entry that may agree: an entry of a newer term than the leader's entry at that
    # place can't be in the leader's log.
    response.index = message.index
    response.reject = True
    response.reject_hint, response.log_term = log.find_conflict_by_term(
        min(message.index, log.last_index), message.log_term
    )
    raft.send(response)


def handle_heartbeat(raft: RaftCore, message: Message) -> None:
    """Commit up to the leader's commit index, and answer, so that the leader knows that this node follows it."""
    raft.log.commit_to(message.commit)
    raft.send(Message(MessageType.HEARTBEAT_RESP, to=message.sender, context=message.context, session=message.session))
