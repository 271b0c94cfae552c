"""Messages in a leader: proposals, reads, and the answers of followers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from syncline.consensus import append_entries, install_snapshot, read_index, roles
from syncline.consensus.membership import decode_change
from syncline.consensus.progress import Progress, ProgressState
from syncline.consensus.types import NONE, EntryType, LogEntry, MembershipChange, Message, MessageType, NodeId
from syncline.consensus.validation import StepRefusal

if TYPE_CHECKING:
    from syncline.consensus.raft import RaftCore

__all__ = ["commit", "may_propose", "propose", "replicate", "step", "tick"]


def tick(raft: RaftCore) -> None:
    """One tick in a leader: heartbeats, and at each election timeout a check of the quorum."""
    raft.heartbeat_elapsed += 1
    raft.election_elapsed += 1
    if raft.config.probe_ticks:
        for progress in raft.tracker.progress.values():
            progress.probe_ticks = max(0, progress.probe_ticks - 1)
    if raft.election_elapsed >= raft.config.election_ticks:
        raft.election_elapsed = 0
        if raft.config.check_quorum and not _check_quorum(raft):
            return
        # A leadership transfer that takes longer has failed; go on leading (thesis, 3.10).
        raft.transferee = NONE
    if raft.heartbeat_elapsed >= raft.config.heartbeat_ticks:
        raft.heartbeat_elapsed = 0
        append_entries.broadcast_heartbeat(raft)


def step(raft: RaftCore, message: Message) -> StepRefusal | None:
    """Act on a message of the current term, or on a local one."""
    handle = _ABOUT_A_MEMBER.get(message.type)
    if handle is None and (take := _ABOUT_THE_GROUP.get(message.type)) is not None:
        return take(raft, message)
    progress = raft.tracker.progress.get(message.sender)
    if progress is None:
        raft.note("debug", "%x no progress available for %x", raft.id, message.sender)
    elif handle is not None:
        handle(raft, message, progress)
    return None


def _take_proposal(raft: RaftCore, message: Message) -> StepRefusal | None:
    return None if propose(raft, message.entries) else StepRefusal.PROPOSAL_DROPPED


def _take_read(raft: RaftCore, message: Message) -> StepRefusal | None:
    return None if read_index.take_read(raft, message) else StepRefusal.TOO_MANY_READS


def _beat(raft: RaftCore, _: Message) -> None:
    append_entries.broadcast_heartbeat(raft)


def _look_for_quorum(raft: RaftCore, _: Message) -> None:
    _check_quorum(raft)


def _check_quorum(raft: RaftCore) -> bool:
    """Step down unless a quorum answered since the last check (thesis, 6.2). Returns whether it still leads."""
    active = raft.tracker.quorum_active()
    if not active:
        raft.note("warning", "%x stepped down to follower since quorum is not active", raft.id)
        roles.become_follower(raft, raft.term, NONE)
    for node_id, progress in raft.tracker.progress.items():
        if node_id != raft.id:
            progress.recent_active = False
    return active


def commit(raft: RaftCore, *, tell: bool = False) -> bool:
    """Commit the entries that a quorum holds, and send the commit index; with `RaftConfig.lazy_commit` only if
    `tell`.

    Returns False if no more entries are committed. With the first entry of its own term the leader knows the commit
    index: reads that waited for it can start.
    """
    before = raft.log.commit_index
    # Only an entry of the leader's own term is committed by counting its copies. A later leader can still replace an
    # entry of an earlier term that a quorum holds (thesis, figure 3.7).
    if not raft.log.maybe_commit(raft.tracker.committed_index(), raft.term):
        return False
    if raft.reads.held:
        read_index.release_held_reads(raft)
    if tell or not raft.config.lazy_commit or raft.pending_membership_index > before:
        raft.told_commit = raft.log.commit_index
        append_entries.broadcast_append(raft)
    return True


# -- proposals ----------------------------------------------------------------------------------------------------


def may_propose(raft: RaftCore) -> bool:
    """Whether the leader takes proposals: it is still a member, and transfers no leadership (thesis, 3.10)."""
    return raft.id in raft.tracker.progress and raft.transferee == NONE


def propose(raft: RaftCore, proposed: Sequence[LogEntry]) -> bool:
    """Append proposed entries to the log, and replicate them. False: dropped, the log is unchanged."""
    if not may_propose(raft):
        raft.note("debug", "%x [term %d] takes no proposals now; dropping proposal", raft.id, raft.term)
        return False
    first = raft.log.last_index + 1
    entries = []
    for index, entry in enumerate(proposed, first):
        if entry.type is EntryType.NORMAL or _admit_change(raft, entry, index):
            entries.append(LogEntry(raft.term, index, entry.type, entry.data))
        else:
            # An empty entry instead, so that the proposals around it keep their places.
            entries.append(LogEntry(raft.term, index))
    return replicate(raft, entries)


def replicate(raft: RaftCore, entries: Sequence[LogEntry]) -> bool:
    """Append entries that continue the log in the current term, and send them out. False: too much is uncommitted."""
    if not append_entries.append(raft, entries):
        return False
    append_entries.broadcast_append(raft)
    return True


def _admit_change(raft: RaftCore, entry: LogEntry, index: int) -> bool:
    """Whether a change of the membership may enter the log at `index`: no other one may be under way (thesis, 4.1)."""
    change = decode_change(entry)
    if not raft.config.disable_membership_validation and (reason := _refuse_change(raft, change)):
        configuration = raft.tracker.configuration
        raft.note("info", "%x ignoring conf change %s at config %s: %s", raft.id, change, configuration, reason)
        return False
    raft.pending_membership_index = index
    return True


def _refuse_change(raft: RaftCore, change: MembershipChange) -> str | None:
    joint = raft.tracker.configuration.voters.joint
    if raft.pending_membership_index > raft.log.applied:
        return (
            f"possible unapplied conf change at index {raft.pending_membership_index} (applied to {raft.log.applied})"
        )
    if joint and change.changes:
        return "must transition out of joint config first"
    if not joint and not change.changes:
        return "not in joint state; refusing empty conf change"
    return None


# -- answers of followers -----------------------------------------------------------------------------------------


def _handle_append_response(raft: RaftCore, message: Message, progress: Progress) -> None:
    """Act on a follower's answer to AppendEntries or InstallSnapshot."""
    progress.recent_active = True
    if message.commit > progress.durable_commit:
        progress.durable_commit = message.commit
    if message.reject:
        _handle_rejection(raft, message, progress)
        return
    # The second condition: a probe that only confirms what was known still shows where the logs meet.
    if progress.maybe_update(message.index) or (
        progress.match_index == message.index and progress.state is ProgressState.PROBE
    ):
        _handle_acknowledgement(raft, message.sender, progress)


def _handle_rejection(raft: RaftCore, message: Message, progress: Progress) -> None:
    """The logs don't agree at the append's start: go back to an index at which they may agree, and probe there
    (thesis, 3.5).

    The follower's hint is its highest entry that may agree. Up to that index the leader chooses its own highest entry
    whose term is not newer than the hint's.
    """
    raft.note(
        "debug",
        "%x received MsgAppResp(rejected, hint: (index %d, term %d)) from %x for index %d",
        *(raft.id, message.reject_hint, message.log_term, message.sender, message.index),
    )
    hint = message.reject_hint
    if message.log_term:
        hint, _ = raft.log.find_conflict_by_term(hint, message.log_term)
    if progress.maybe_decrease(message.index, hint):
        raft.note("debug", "%x decreased progress of %x to [%s]", raft.id, message.sender, progress)
        if progress.state is ProgressState.REPLICATE:
            progress.become_probe()
        append_entries.maybe_send_append(raft, message.sender, progress)


def _handle_acknowledgement(raft: RaftCore, sender: NodeId, progress: Progress) -> None:
    """A follower (or the leader's own storage) has acknowledged more: raise the commit index, and send the next
    entries.
    """
    if progress.state is ProgressState.PROBE:
        progress.become_replicate()
    elif progress.state is ProgressState.REPLICATE:
        progress.inflights.free_up_to(progress.match_index)
    elif progress.match_index + 1 >= raft.log.first_index:
        # The follower has some snapshot that meets the log.
        raft.note("debug", "%x recovered from needing snapshot: resumed sending to %x", raft.id, sender)
        progress.become_probe()
        progress.become_replicate()
    # The quorum's index can only have grown up to this acknowledgement: mostly other followers were first.
    committed = progress.match_index > raft.log.commit_index and commit(raft)
    lazy = raft.config.lazy_commit
    if not committed and sender != raft.id and (not lazy or raft.told_commit > progress.sent_commit):
        # The next heartbeat would tell it too, but later.
        append_entries.tell_commit(raft, sender, progress)
    if sender == raft.id:
        return
    # The window has room again, perhaps for several messages.
    while progress.next_index <= raft.log.last_index and append_entries.maybe_send_append(
        raft, sender, progress, send_if_empty=False
    ):
        pass
    if sender == raft.transferee and progress.match_index == raft.log.last_index:
        raft.note("info", "%x sent MsgTimeoutNow to %x after received MsgAppResp", raft.id, sender)
        raft.send(Message(MessageType.TIMEOUT_NOW, to=sender))


def _handle_heartbeat_response(raft: RaftCore, message: Message, progress: Progress) -> None:
    """Act on a follower's answer to a heartbeat: send it what it lacks, and confirm reads (ReadIndex)."""
    progress.recent_active = True
    if message.commit > progress.durable_commit:
        progress.durable_commit = message.commit
    progress.heartbeat_answered()
    # No message reports a lost append. The answer to a heartbeat finds it, with the empty append that the answer
    # causes if the window is full. A follower in PROBE that lacks nothing gets one too, to leave PROBE.
    if progress.match_index < raft.log.last_index or progress.state is ProgressState.PROBE:
        append_entries.maybe_send_append(raft, message.sender, progress)
    read_index.handle_heartbeat_response(raft, message)


# -- reports of the runtime ---------------------------------------------------------------------------------------


def _handle_unreachable(raft: RaftCore, message: Message, progress: Progress) -> None:
    """Messages to a follower were lost: stop pipelining, and probe."""
    if progress.state is ProgressState.REPLICATE:
        progress.become_probe()
    elif progress.state is ProgressState.PROBE:
        progress.probe_lost()
    sender = message.sender
    raft.note("debug", "%x failed to send message to %x because it is unreachable [%s]", raft.id, sender, progress)


def _handle_transfer(raft: RaftCore, message: Message, progress: Progress) -> None:
    """Transfer leadership: bring the transferee's log up to date, then send TimeoutNow (thesis, 3.10)."""
    transferee = message.sender
    if progress.learner:
        raft.note("debug", "%x is learner. Ignored transferring leadership", transferee)
        return
    if raft.transferee == transferee:
        raft.note("info", "%x [term %d] transfer to %x is in progress already", raft.id, raft.term, transferee)
        return
    if raft.transferee != NONE:
        raft.note("info", "%x [term %d] abort previous transfer to %x", raft.id, raft.term, raft.transferee)
        raft.transferee = NONE
    if transferee == raft.id:
        raft.note("debug", "%x is already leader. Ignored transferring leadership to self", raft.id)
        return
    raft.note("info", "%x [term %d] starts to transfer leadership to %x", raft.id, raft.term, transferee)
    raft.election_elapsed = 0  # the transfer has one election timeout to succeed
    raft.transferee = transferee
    if progress.match_index == raft.log.last_index:
        raft.send(Message(MessageType.TIMEOUT_NOW, to=transferee))
        raft.note("info", "%x sends MsgTimeoutNow to %x immediately", raft.id, transferee)
    else:
        append_entries.maybe_send_append(raft, transferee, progress)


_ABOUT_THE_GROUP: Final[dict[MessageType, Callable[[RaftCore, Message], StepRefusal | None]]] = {
    MessageType.PROP: _take_proposal,
    MessageType.BEAT: _beat,
    MessageType.CHECK_QUORUM: _look_for_quorum,
    MessageType.READ_INDEX: _take_read,
}

_ABOUT_A_MEMBER: Final[dict[MessageType, Callable[[RaftCore, Message, Progress], None]]] = {
    MessageType.APP_RESP: _handle_append_response,
    MessageType.HEARTBEAT_RESP: _handle_heartbeat_response,
    MessageType.SNAP_STATUS: install_snapshot.handle_status,
    MessageType.UNREACHABLE: _handle_unreachable,
    MessageType.TRANSFER_LEADER: _handle_transfer,
}
"""Handlers of members' answers and of reports about a member: they get its progress."""
