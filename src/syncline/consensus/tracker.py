"""The membership in force, and the state of each member: its progress, and its vote in a running election."""

from __future__ import annotations

from syncline.consensus.membership import Configuration, ProgressMap
from syncline.consensus.progress import Inflights, Progress
from syncline.consensus.quorum import VoteResult
from syncline.consensus.types import NO_LIMIT, NodeId

__all__ = ["Tracker"]


class Tracker:
    """Members of the current membership in order of their ids."""

    __slots__ = (
        "_first_room_bytes",
        "_last_session",
        "_max_inflight_bytes",
        "_max_inflight_messages",
        "configuration",
        "progress",
        "votes",
    )

    def __init__(self, max_inflight_messages: int, max_inflight_bytes: int, first_room_bytes: int = NO_LIMIT) -> None:
        self._first_room_bytes = first_room_bytes
        self._max_inflight_messages = max_inflight_messages
        self._max_inflight_bytes = max_inflight_bytes
        self._last_session = 0
        self.configuration: Configuration = Configuration()
        self.progress: ProgressMap = {}
        """Every member, sorted by id: messages to all go out in this order."""
        self.votes: dict[NodeId, bool] = {}

    def switch(self, configuration: Configuration, progress: ProgressMap) -> None:
        """Put `configuration` into force."""
        self.configuration = configuration
        self.progress = dict(sorted(progress.items()))

    def make_progress(self, next_index: int, learner: bool) -> Progress:
        """The progress of a new member, in a session of its own.

        It counts as active: otherwise it would cost the leader its quorum before it could answer.
        """
        return Progress(
            next_index=next_index,
            inflights=Inflights(self._max_inflight_messages, self._max_inflight_bytes),
            learner=learner,
            recent_active=True,
            session=self._new_session(),
            room_bytes=self._first_room_bytes,
        )

    def reset(self, self_id: NodeId, last_index: int) -> None:
        """Drop the state of all members: a new term or role begins. The node's own log is fully known to it."""
        self.votes.clear()
        for node_id, old in self.progress.items():
            self.progress[node_id] = Progress(
                match_index=last_index if node_id == self_id else 0,
                next_index=last_index + 1,
                inflights=Inflights(self._max_inflight_messages, self._max_inflight_bytes),
                learner=old.learner,
                session=self._new_session(),
                room_bytes=self._first_room_bytes,
            )

    def committed_index(self) -> int:
        """The highest index that a quorum is known to hold."""
        return self.configuration.voters.committed_index(
            {node_id: one.match_index for node_id, one in self.progress.items()}
        )

    def quorum_active(self) -> bool:
        """Whether a quorum has answered lately."""
        active = {node_id: one.recent_active for node_id, one in self.progress.items() if not one.learner}
        return self.configuration.voters.vote_result(active) is VoteResult.WON

    def record_vote(self, node_id: NodeId, granted: bool) -> None:
        """Count a vote. The first one of a node counts."""
        self.votes.setdefault(node_id, granted)

    def tally(self) -> tuple[int, int, VoteResult]:
        """Votes granted, votes rejected, and the result."""
        voted = [
            self.votes[node_id] for node_id, one in self.progress.items() if not one.learner and node_id in self.votes
        ]
        granted = sum(voted)
        return granted, len(voted) - granted, self.configuration.voters.vote_result(self.votes)

    def _new_session(self) -> int:
        # Never reused while the node runs, hence unique within a term: a node leads a term only once.
        self._last_session += 1
        return self._last_session
