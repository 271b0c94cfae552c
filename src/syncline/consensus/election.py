"""Elections: campaigns, requests for votes, and votes (thesis, 3.4, 3.6.1, 4.2.3, 9.6)."""

from __future__ import annotations

from typing import Final

from syncline.consensus import append_entries, roles
from syncline.consensus.quorum import VoteResult
from syncline.consensus.state import RaftState
from syncline.consensus.types import NONE, Message, MessageType, NodeId, StateType

__all__ = [
    "TRANSFER_CONTEXT",
    "answer_vote",
    "campaign_if_allowed",
    "count_vote",
    "in_lease",
    "learn_commit",
    "promotable",
    "rejection",
    "tick",
]

TRANSFER_CONTEXT: Final = b"CampaignTransfer"
"""Marks requests for votes after TimeoutNow: voters grant them within the leader's lease (thesis, 3.10)."""


def tick(raft: RaftState) -> None:
    """One tick in a node that does not lead: campaign after the randomised timeout without a leader."""
    raft.election_elapsed += 1
    if raft.election_elapsed >= raft.randomized_election_timeout and promotable(raft):
        raft.election_elapsed = 0
        campaign_if_allowed(raft, pre_vote=raft.config.pre_vote)


def promotable(raft: RaftState) -> bool:
    """Whether the node may become leader: it is a voter, and its log does not wait for a snapshot to be stored."""
    own = raft.tracker.progress.get(raft.id)
    return own is not None and not own.learner and raft.log.unstable.snapshot is None


def in_lease(raft: RaftState) -> bool:
    """Whether the node heard from a leader within the shortest election timeout.

    Then no other node can have won an election, and none is needed: a request for votes comes from a removed or
    disconnected node, and must not disturb the group (thesis, 4.2.3).
    """
    return raft.config.check_quorum and raft.leader != NONE and raft.election_elapsed < raft.config.election_ticks


def campaign_if_allowed(raft: RaftState, *, pre_vote: bool, transfer: bool = False) -> None:
    """Start an election, unless this node must not lead at the moment."""
    if raft.state is StateType.LEADER:
        raft.note("debug", "%x ignoring MsgHup because already leader", raft.id)
        return
    if not promotable(raft):
        raft.note("warning", "%x is unpromotable and can not campaign", raft.id)
        return
    # A change of the membership is in force when it is applied, so two nodes can have different memberships. Their
    # majorities overlap while they are at most one change apart. They are: a leader proposes a change only when the
    # one before it is applied, hence committed. The append that carries the new one has that commit index. So a node
    # with a change in its log knows that the one before it is committed, and here it waits until that is applied.
    # (This breaks if storage loses the commit index and yet keeps entries that were written after it.)
    if raft.log.has_unapplied_change():
        raft.note("warning", "%x cannot campaign at term %d since there are pending changes", raft.id, raft.term)
        return
    raft.note("info", "%x is starting a new election at term %d", raft.id, raft.term)
    _campaign(raft, pre_vote=pre_vote, transfer=transfer)


def _campaign(raft: RaftState, *, pre_vote: bool, transfer: bool = False) -> None:
    """Send RequestVote, or PreVote, to every voter."""
    if pre_vote:
        roles.become_pre_candidate(raft)
        request, response, term = MessageType.PRE_VOTE, MessageType.PRE_VOTE_RESP, raft.term + 1
    else:
        roles.become_candidate(raft)
        request, response, term = MessageType.VOTE, MessageType.VOTE_RESP, raft.term
    last_index, last_term = raft.log.last_index, raft.log.last_term
    commit, commit_term = _commit_to_tell(raft)
    context = TRANSFER_CONTEXT if transfer else b""
    for voter in sorted(raft.tracker.configuration.voters.voters):
        if voter == raft.id:
            # The node's own vote counts once it is durable, as any other vote.
            raft.send(Message(response, to=voter, term=term))
            continue
        raft.note(
            "info",
            "%x [logterm: %d, index: %d] sent %s request to %x at term %d",
            *(raft.id, last_term, last_index, request.name, voter, raft.term),
        )
        raft.send(
            Message(
                request,
                to=voter,
                term=term,
                index=last_index,
                log_term=last_term,
                commit=commit,
                context=context,
                commit_term=commit_term,
            )
        )


def _commit_to_tell(raft: RaftState) -> tuple[int, int]:
    """The node's commit index and its term, for a vote message; zeros if vote messages carry none."""
    if not raft.config.commit_in_votes:
        return 0, 0
    commit = raft.log.commit_index
    term = raft.log.term_or_zero(commit)
    return (commit, term) if term else (0, 0)


def learn_commit(raft: RaftState, message: Message) -> None:
    """Commit up to the entry that the sender of a vote message knows to be committed, if this log holds it.

    An entry is named by its index and term (Log Matching: thesis, 3.5). So if the terms agree, both logs are equal up
    to it, and what is committed there is committed here. That holds whatever becomes of the election, so it is learned
    first, from a message of an older term too.

    Without it a group can stay without a leader after a removal. The voter with the longest log waits for the votes
    of nodes that have left. The voter that knows of the removal has the shorter log. A leader learns nothing
    from it: it finds out what is committed by the first entry of its term.
    """
    log = raft.log
    known = message.commit <= log.commit_index
    if not known and raft.state is not StateType.LEADER and log.matches(message.commit, message.commit_term):
        log.commit_to(message.commit)


def rejection(raft: RaftState, kind: MessageType, to: NodeId) -> Message:
    """The rejection of a request for a vote."""
    commit, commit_term = _commit_to_tell(raft)
    return Message(kind, to=to, term=raft.term, reject=True, commit=commit, commit_term=commit_term)


def answer_vote(raft: RaftState, message: Message) -> None:
    """Grant or refuse a vote, or the promise of one (RequestVote: thesis, figure 3.1).

    Learners vote as well: a candidate that asks one knows it as a voter, perhaps from a membership that the learner
    has not heard of yet; were it to refuse, a group whose other voters failed could stay without a leader.
    """
    pre_vote = message.type is MessageType.PRE_VOTE
    may_vote = (
        raft.vote == message.sender  # again, its answer may be lost
        or (raft.vote == NONE and raft.leader == NONE)
        or (pre_vote and message.term > raft.term)
    )
    # A quorum's logs hold every committed entry, so a candidate whose log is not behind any of theirs holds them too.
    # Without this check a leader could replace committed entries (Leader Completeness: thesis, 3.6.3).
    granted = may_vote and raft.log.is_up_to_date(message.index, message.log_term)
    raft.note(
        "info",
        "%x [logterm: %d, index: %d, vote: %x] %s %s for %x [logterm: %d, index: %d] at term %d",
        *(raft.id, raft.log.last_term, raft.log.last_index, raft.vote),
        *("cast" if granted else "rejected", message.type.name),
        *(message.sender, message.log_term, message.index, raft.term),
    )
    response = MessageType.PRE_VOTE_RESP if pre_vote else MessageType.VOTE_RESP
    if not granted:
        raft.send(rejection(raft, response, message.sender))
        return
    # The term asked about, which for a pre-vote is not entered yet: an answer of an older term would be ignored.
    commit, commit_term = _commit_to_tell(raft)
    raft.send(Message(response, to=message.sender, term=message.term, commit=commit, commit_term=commit_term))
    if not pre_vote:
        # The answer leaves once this vote is durable (`Raft.send`): a crash must not allow a second vote in the term.
        raft.election_elapsed = 0
        raft.vote = message.sender


def count_vote(raft: RaftState, message: Message) -> None:
    """Count an answer to RequestVote, in a candidate or pre-candidate, and act on the result."""
    raft.note(
        "info",
        "%x received %s%s from %x at term %d",
        *(raft.id, message.type.name, " rejection" if message.reject else "", message.sender, raft.term),
    )
    raft.tracker.record_vote(message.sender, not message.reject)
    granted, refused, result = raft.tracker.tally()
    raft.note(
        "info", "%x has received %d %s votes and %d vote rejections", raft.id, granted, message.type.name, refused
    )
    if result is VoteResult.WON:
        if raft.state is StateType.PRE_CANDIDATE:
            _campaign(raft, pre_vote=False)
        elif raft.id in raft.tracker.votes:
            # The node's own vote counts once it is durable, with the term. The others may be a quorum before; but
            # a leader that lost its term in a crash could be elected in it again, and would reuse (index, term) pairs.
            roles.become_leader(raft)
            append_entries.broadcast_append(raft)
    elif result is VoteResult.LOST:
        # Rejections of a pre-vote carry the voter's term; this node stays in its own.
        roles.become_follower(raft, raft.term, NONE)
