"""Settings of one node's consensus core. Plain data; the core reads it once, when the node is made."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TypeAlias

from syncline.consensus.storage import LogStorage
from syncline.consensus.types import LOCAL_APPLY, NO_LIMIT, NONE, NodeId

__all__ = ["RaftConfig", "ReadOnlyOption", "Trace"]

Trace: TypeAlias = Callable[[str, str], None]
"""Receives one trace line of the core: its level (`debug`, `info`, `warning`, `error`) and its text."""


class ReadOnlyOption(IntEnum):
    """How a leader confirms that it still leads before it answers a read (thesis, 6.4)."""

    SAFE = 0
    """A quorum answers a heartbeat sent after the request. Relies on no clock."""

    LEASE_BASED = 1
    """The leader trusts the lease that check-quorum gives it. Saves the round trip; wrong once clocks run at rates
    that differ by more than the lease allows, or a machine is paused. Needs `check_quorum`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """The core's settings. Times are in ticks (calls of `RawNode.tick`), sizes in bytes.

    Raises ValueError if a setting, or a pair of them, can't be used.
    """

    id: NodeId
    """This node. Not `NONE`, and not one of the local targets."""

    storage: LogStorage
    """The stable log. Read, never written, by the core."""

    election_ticks: int = 10
    """A follower that hears from no leader for this long campaigns; each wait is drawn at random from
    [election_ticks, 2 * election_ticks) (thesis, 3.4). Greater than `heartbeat_ticks`; ten times it is usual."""

    heartbeat_ticks: int = 1
    """A leader sends heartbeats this often."""

    applied: int = 0
    """The applied index at the start: entries up to it are not handed out again."""

    async_storage_writes: bool = False
    """Send storage work as messages, and receive its completion as messages (see `Ready`)."""

    max_message_bytes: int = NO_LIMIT
    """Entries in one append message, as `sizes.entry_size` counts them. At least one entry is sent whatever its size;
    0 means one at a time. Small values make recovery smooth, large ones make replication fast."""

    max_committed_bytes_per_ready: int = 0
    """Entries handed out to be applied and not yet acknowledged. 0: the same as `max_message_bytes`."""

    max_uncommitted_bytes: int = NO_LIMIT
    """Payload in the leader's uncommitted tail; beyond it proposals are dropped. 0: no limit. A single proposal is
    taken whatever its size while the tail is empty."""

    max_inflight_messages: int = 256
    """Appends sent to one follower and not yet answered. Bounds what the transport must buffer."""

    max_inflight_bytes: int = NO_LIMIT
    """Payload in those appends. 0: no limit. Bounds the bandwidth-delay product: throughput to a follower can't exceed
    this much per round trip. At least `max_message_bytes`."""

    check_quorum: bool = False
    """A leader that has not heard from a quorum for an election timeout steps down. A node that has heard from a leader
    within one grants no votes (thesis, 6.2 and 4.2.3)."""

    pre_vote: bool = False
    """Ask whether an election could be won before starting one (thesis, 9.6).

    So a node that comes back from a partition does not depose a leader that works. Needs `check_quorum`. Without it a
    leader whose followers can't reach it leads on: they hear its heartbeats and do not campaign, and nothing is
    committed any more. And a node that hears from its leader promises its vote all the same. So pre-vote alone does not
    keep a leader that works.
    """

    pre_vote_alone: bool = False
    """Take `pre_vote` without `check_quorum` all the same. For a comparison with other implementations."""

    read_only: ReadOnlyOption = ReadOnlyOption.SAFE

    disable_proposal_forwarding: bool = False
    """Followers drop proposals instead of passing them on to the leader."""

    disable_membership_validation: bool = False
    """Take membership changes into the log without comparing them with the current membership. For a runtime that
    serialises and checks them itself: the check can only be a guess, because a membership becomes current when it is
    applied, not when it is appended."""

    step_down_on_removal: bool = False
    """A leader that applies its own removal, or its demotion, steps down at once (thesis, 4.2.2)."""

    lazy_commit: bool = False
    """A leader sends no message only for a new commit index: it travels with the next entries or the next
    heartbeat, or when the runtime calls `RawNode.tell_commit`. That halves the messages of a leader in use.
    The commit of a membership change is sent at once, because a removed node gets no later message. So is the commit of
    entries by its smaller quorum."""

    commit_in_votes: bool = False
    """RequestVote, PreVote and their answers carry the sender's commit index and its term. A node whose log holds that
    entry commits up to it (see `election.learn_commit`). Off, they are those of etcd/raft."""

    probe_ticks: int = 0
    """An append in PROBE counts as lost after some ticks without an answer in which nothing was on its way (see
    `RawNode.still_sending`): first 2, then twice as many each time, up to so many. 0: when the next heartbeat is
    answered, as in etcd/raft, which on a slow line sends the same entries again and again."""

    first_room_bytes: int = NO_LIMIT
    """How much may be sent to a follower before the runtime has said how much its connection takes
    (`RawNode.set_room`). Without a limit the runtime need not say."""

    rng: random.Random = field(default_factory=random.Random)
    """Where election timeouts come from. Pass a seeded one to make a run repeatable."""

    trace: Trace | None = None

    def __post_init__(self) -> None:
        if not NONE < self.id < LOCAL_APPLY:
            raise ValueError(f"id {self.id} is not a node id: it must be positive and below {LOCAL_APPLY}")
        if self.heartbeat_ticks <= 0:
            raise ValueError(f"heartbeat_ticks is {self.heartbeat_ticks}: it must be positive")
        if self.election_ticks <= self.heartbeat_ticks:
            raise ValueError(
                f"election_ticks is {self.election_ticks}: it must exceed heartbeat_ticks ({self.heartbeat_ticks})"
            )
        if self.max_inflight_messages <= 0:
            raise ValueError(f"max_inflight_messages is {self.max_inflight_messages}: it must be positive")
        if self.probe_ticks < 0 or self.first_room_bytes <= 0:
            raise ValueError("probe_ticks is negative, or first_room_bytes is not positive: nothing could be sent")
        if min(self.max_message_bytes, self.max_committed_bytes_per_ready, self.max_uncommitted_bytes) < 0:
            raise ValueError("a limit in bytes is negative: 0 is the smallest")
        if 0 < self.max_inflight_bytes < self.max_message_bytes:
            raise ValueError(
                f"max_inflight_bytes is {self.max_inflight_bytes}: it must be at least max_message_bytes"
                f" ({self.max_message_bytes}), or no message could be sent"
            )
        if self.pre_vote and not (self.check_quorum or self.pre_vote_alone):
            raise ValueError("pre_vote needs check_quorum: a leader without a quorum has to step down. Set both")
        if self.read_only is ReadOnlyOption.LEASE_BASED and not self.check_quorum:
            raise ValueError("read_only=LEASE_BASED needs check_quorum: without it there is no lease")
