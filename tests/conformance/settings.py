"""What runs of random cores vary beside their seed: any conditions, hostile ones, and those of one kind."""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass

from syncline.consensus.types import NO_LIMIT

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What a run varies beside its seed."""

    founders: int = 3
    spares: int = 2
    """Nodes without a membership, which wait to be added."""

    asynchronous: bool = False
    pre_vote: bool = False
    check_quorum: bool = False
    step_down_on_removal: bool = False
    lazy_commit: bool = False
    """With a runtime that tells a commit index now and then."""

    max_message_bytes: int = NO_LIMIT
    max_inflight_messages: int = 256
    max_uncommitted_bytes: int = NO_LIMIT
    max_committed_bytes_per_ready: int = 0
    loss: float = 0.1
    duplication: float = 0.05
    crashes: float = 0.005
    changes: float = 0.02
    tails: float = 0.0
    """How often a leader is cut off, and takes proposals that nobody else hears of."""

    slow_applies: float = 0.0
    """How often a state machine does nothing when it is its turn (with asynchronous storage)."""

    slow_appends: float = 0.0
    """The same of a disk."""

    compactions: float = 0.0
    """How often a node takes a snapshot, beside the times that are there anyway."""

    old_messages: float = 0.0
    """How often a copy of a message is kept, to arrive long after: from peers that were removed, of earlier terms."""

    any_appends: float = 0.0
    """How often a leader sends an append that it may send and does not need: from any place, with a few entries."""

    joint: bool = False
    """Change several members at once, always."""

    @classmethod
    def drawn(cls, rng: random.Random) -> Settings:
        """Any, by chance."""
        return cls(
            founders=rng.choice([1, 2, 3, 3, 3, 5]),
            asynchronous=rng.random() < 0.5,
            pre_vote=rng.random() < 0.5,
            check_quorum=rng.random() < 0.5,
            step_down_on_removal=rng.random() < 0.5,
            max_message_bytes=rng.choice([0, 30, NO_LIMIT]),
            max_inflight_messages=rng.choice([1, 2, 256]),
            max_uncommitted_bytes=rng.choice([8, NO_LIMIT]),
            max_committed_bytes_per_ready=rng.choice([0, 1, 40]),
            loss=rng.choice([0, 0.02, 0.1, 0.3]),
            duplication=rng.choice([0, 0.05, 0.3]),
            crashes=rng.choice([0, 0.002, 0.01]),
            changes=rng.choice([0, 0.01, 0.03]),
            lazy_commit=rng.random() < 0.5,
        )

    @classmethod
    def hostile(cls, rng: random.Random) -> Settings:
        """Any, with long diverging tails, slow applies, very old messages and joint memberships."""
        return dataclasses.replace(
            cls.drawn(rng),
            founders=rng.choice([3, 3, 5]),
            asynchronous=rng.random() < 0.8,
            max_message_bytes=rng.choice([0, 0, 30, NO_LIMIT]),
            tails=rng.choice([0.0, 0.005, 0.02]),
            slow_applies=rng.choice([0.0, 0.5, 0.95]),
            old_messages=rng.choice([0.0, 0.05, 0.2]),
            any_appends=rng.choice([0.0, 0.02, 0.1]),
            changes=rng.choice([0, 0.01, 0.03, 0.08]),
            joint=rng.random() < 0.5,
        )

    @classmethod
    def with_tails(cls, rng: random.Random) -> Settings:
        """Logs that have drifted far apart, small messages, and leaders that look for where they meet."""
        return dataclasses.replace(
            cls.hostile(rng), tails=0.02, any_appends=0.1, max_message_bytes=0, changes=0, slow_applies=0.0
        )

    @classmethod
    def with_slow_disks(cls, rng: random.Random) -> Settings:
        """What one leader had written is not durable when the next one replaces it."""
        return dataclasses.replace(
            cls.hostile(rng),
            asynchronous=True,
            slow_appends=0.6,
            tails=0.02,
            any_appends=0.0,
            changes=0,
            crashes=0,
            slow_applies=0.0,
            pre_vote=False,
            check_quorum=False,
        )

    @classmethod
    def with_snapshots(cls, rng: random.Random) -> Settings:
        """Members that fall behind and are sent snapshots, while old messages are still on their way."""
        return dataclasses.replace(
            cls.hostile(rng),
            asynchronous=True,
            slow_appends=0.6,
            compactions=0.05,
            old_messages=0.1,
            loss=0.3,
            duplication=0.3,
            tails=0.005,
            changes=0,
        )

    @classmethod
    def with_leavers(cls, rng: random.Random) -> Settings:
        """Joint memberships that are applied late, and members that still answer when they are gone."""
        return dataclasses.replace(
            cls.hostile(rng),
            asynchronous=True,
            changes=0.05,
            joint=True,
            slow_applies=0.95,
            old_messages=0.1,
            tails=0.0,
        )
