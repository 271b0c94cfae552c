"""Bugs of the consensus core that others published in 2025 and 2026, and some of the same kinds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import pytest

from syncline.consensus import append_entries, candidate, election, install_snapshot, leader, raft, roles
from syncline.consensus.log import RaftLog
from syncline.consensus.membership import Configuration, ProgressMap, restore
from syncline.consensus.progress import Progress, ProgressState
from syncline.consensus.quorum import JointConfig, MajorityConfig, VoteResult
from syncline.consensus.raft import RaftCore
from syncline.consensus.tracker import Tracker
from syncline.consensus.types import (
    NONE,
    LogEntry,
    MembershipState,
    Message,
    MessageType,
    StateType,
)
from syncline.consensus.validation import StepRefusal

__all__ = [
    "acknowledges_the_whole_log",
    "auto_leave_forgotten_in_a_snapshot",
    "campaigns_with_an_unapplied_change",
    "candidate_ignores_a_snapshot_of_its_term",
    "candidate_while_a_snapshot_is_written",
    "commits_below_what_it_installed",
    "follower_commits_up_to_its_end",
    "granted_pre_vote_restarts_the_clock",
    "joint_votes_counted_together",
    "leads_without_a_quorum",
    "leaves_the_snapshot_state_only_at_its_index",
    "only_the_one_that_entered_leaves",
    "phantom_contacts",
    "pre_vote_enters_its_term",
    "snapshot_contacts_do_not_count",
    "storage_answers_of_an_older_term_count",
    "vote_cleared_at_timeout_now",
    "votes_of_removed_peers_count",
]

ANSWERS: Final = (MessageType.APP_RESP, MessageType.HEARTBEAT_RESP)


def vote_cleared_at_timeout_now(patch: pytest.MonkeyPatch) -> None:
    """A node that is told to campaign forgets its vote first, whether it may campaign or not."""
    original = election.campaign_if_allowed

    def campaign_if_allowed(node: RaftCore, *, pre_vote: bool, transfer: bool = False) -> None:
        if transfer:
            node.vote = NONE
        original(node, pre_vote=pre_vote, transfer=transfer)

    patch.setattr(election, "campaign_if_allowed", campaign_if_allowed)


def candidate_ignores_a_snapshot_of_its_term(patch: pytest.MonkeyPatch) -> None:
    """A candidate gives way to a leader of its term that appends, and not to one that sends a snapshot."""
    original = candidate.step

    def step(node: RaftCore, message: Message) -> StepRefusal | None:
        return None if message.type is MessageType.SNAP else original(node, message)

    for state in (StateType.CANDIDATE, StateType.PRE_CANDIDATE):
        patch.setitem(raft._ROLE_STEPS, state, step)


def leaves_the_snapshot_state_only_at_its_index(patch: pytest.MonkeyPatch) -> None:
    """A follower that acknowledges more than the snapshot that is under way to it is not sent anything any more."""
    original = leader._handle_acknowledgement

    def handle(node: RaftCore, sender: int, progress: Progress) -> None:
        if progress.state is not ProgressState.SNAPSHOT or progress.match_index == progress.pending_snapshot:
            original(node, sender, progress)

    patch.setattr(leader, "_handle_acknowledgement", handle)


def granted_pre_vote_restarts_the_clock(patch: pytest.MonkeyPatch) -> None:
    """A node that promises its vote waits for an election timeout again, as if it had given it."""
    original = election.answer_vote

    def answer_vote(node: RaftCore, message: Message) -> None:
        original(node, message)
        if message.type is MessageType.PRE_VOTE and not node.messages_after_append[-1].reject:
            node.election_elapsed = 0

    patch.setattr(election, "answer_vote", answer_vote)


def pre_vote_enters_its_term(patch: pytest.MonkeyPatch) -> None:
    """A node that is asked whether it would vote in a term takes on that term, as if it were asked to vote."""
    original = RaftCore._enter_newer_term

    def enter_newer_term(node: RaftCore, message: Message) -> bool:
        taken = original(node, message)
        if taken and message.type is MessageType.PRE_VOTE:
            roles.become_follower(node, message.term, NONE)
        return taken

    patch.setattr(RaftCore, "_enter_newer_term", enter_newer_term)


def candidate_while_a_snapshot_is_written(patch: pytest.MonkeyPatch) -> None:
    """A node campaigns while its log waits for a snapshot to be stored."""

    def promotable(node: RaftCore) -> bool:
        own = node.tracker.progress.get(node.id)
        return own is not None and not own.learner

    patch.setattr(election, "promotable", promotable)


def phantom_contacts(patch: pytest.MonkeyPatch) -> None:
    """A heartbeat that is sent to a follower counts as one that it has answered."""
    original = append_entries.broadcast_heartbeat

    def broadcast_heartbeat(node: RaftCore) -> None:
        for progress in node.tracker.progress.values():
            progress.recent_active = True
        original(node)

    patch.setattr(append_entries, "broadcast_heartbeat", broadcast_heartbeat)


def leads_without_a_quorum(patch: pytest.MonkeyPatch) -> None:
    """A leader that nobody answers leads on."""
    patch.setattr(leader, "_check_quorum", lambda _raft: True)


def snapshot_contacts_do_not_count(patch: pytest.MonkeyPatch) -> None:
    """What a follower answers while a snapshot is under way to it does not show that it is there."""
    for kind in ANSWERS:
        original = leader._ABOUT_A_MEMBER[kind]

        def handle(node: RaftCore, message: Message, progress: Progress, original: object = original) -> None:
            before = progress.recent_active if progress.state is ProgressState.SNAPSHOT else True
            assert callable(original)
            original(node, message, progress)
            progress.recent_active = before

        patch.setitem(leader._ABOUT_A_MEMBER, kind, handle)


def joint_votes_counted_together(patch: pytest.MonkeyPatch) -> None:
    """In a joint membership a candidate needs a majority of all voters, not one of each half."""
    patch.setattr(JointConfig, "vote_result", lambda voters, votes: MajorityConfig(voters.voters).vote_result(votes))


def auto_leave_forgotten_in_a_snapshot(patch: pytest.MonkeyPatch) -> None:
    """A node that comes by a joint membership in a snapshot does not know that it is to be left."""

    def forgetful(state: MembershipState, last_index: int, make_progress: object) -> tuple[Configuration, ProgressMap]:
        kept = msgspec.structs.replace(state, auto_leave=False)
        return restore(kept, last_index, make_progress)  # type: ignore[arg-type]

    patch.setattr(install_snapshot, "restore", forgetful)
    patch.setattr(raft, "restore", forgetful)


def only_the_one_that_entered_leaves(patch: pytest.MonkeyPatch) -> None:
    """A new leader does not leave the joint membership that its predecessor has entered."""
    original = RaftCore._applied_to

    def applied_to(node: RaftCore, index: int) -> None:
        pending = node.pending_membership_index
        own = not pending or node.log.term_or_zero(pending) == node.term
        if own:
            original(node, index)
        else:
            node.log.applied_to(max(index, node.log.applied))

    patch.setattr(RaftCore, "_applied_to", applied_to)


def follower_commits_up_to_its_end(patch: pytest.MonkeyPatch) -> None:
    """A follower commits what the leader has committed as far as its own log goes, agreeing or not."""

    def maybe_append(log: RaftLog, prev_index: int, prev_term: int, commit: int, new: Sequence[LogEntry]) -> int | None:
        if not log.matches(prev_index, prev_term):
            return None
        missing = log._without_known(prev_index, new)
        if missing:
            log.append(missing)
        log.commit_to(min(commit, log.last_index))
        return prev_index + len(new)

    patch.setattr(RaftLog, "maybe_append", maybe_append)


def acknowledges_the_whole_log(patch: pytest.MonkeyPatch) -> None:
    """A follower acknowledges all that it has, where it was only asked for a part."""
    original = append_entries.handle_append

    def handle_append(node: RaftCore, message: Message) -> None:
        original(node, message)
        response = node.messages_after_append[-1]
        if not response.reject and response.index >= node.log.commit_index:
            response.index = node.log.last_index

    from syncline.consensus import follower

    patch.setitem(follower._FROM_LEADER, MessageType.APP, handle_append)


def campaigns_with_an_unapplied_change(patch: pytest.MonkeyPatch) -> None:
    """A node campaigns by a membership that it knows to be over."""
    patch.setattr(RaftLog, "has_unapplied_change", lambda _log: False)


def votes_of_removed_peers_count(patch: pytest.MonkeyPatch) -> None:
    """Every vote that was given counts, also that of a peer that is no voter any more."""

    def tally(tracker: Tracker) -> tuple[int, int, VoteResult]:
        granted = sum(tracker.votes.values())
        refused = len(tracker.votes) - granted
        needed = len(tracker.configuration.voters.incoming.voters) // 2 + 1
        if granted >= needed:
            return granted, refused, VoteResult.WON
        return granted, refused, tracker.configuration.voters.vote_result(tracker.votes)

    patch.setattr(Tracker, "tally", tally)


def commits_below_what_it_installed(patch: pytest.MonkeyPatch) -> None:
    """A node that has taken over a snapshot goes back to an older commit index that it hears of."""

    def commit_to(log: RaftLog, index: int) -> None:
        if index > log.commit_index or log.unstable.snapshot is not None:
            log.commit_index = max(index, log.applied)

    patch.setattr(RaftLog, "commit_to", commit_to)


def storage_answers_of_an_older_term_count(patch: pytest.MonkeyPatch) -> None:
    """What storage has written for an earlier term counts as written, whatever has taken its place since."""
    original = RaftCore._answer_older_term

    def answer(node: RaftCore, message: Message) -> None:
        unstable = node.log.unstable
        if message.type is MessageType.STORAGE_APPEND_RESP and unstable.entries and message.index >= unstable.offset:
            last = min(message.index, node.log.last_index)
            unstable.stable_to(last, node.log.term(last))
        original(node, message)

    patch.setattr(RaftCore, "_answer_older_term", answer)
