"""All invariants that hold in every run, whatever the state machine."""

from __future__ import annotations

from typing import Final

from syncline.testing.invariants.base import Facts, Invariant, Verdict
from syncline.testing.invariants.contacts import LeaderHasAQuorum, LeaderStays
from syncline.testing.invariants.durability import (
    AcknowledgedIsDurable,
    CommittedIsDurable,
    LeaderIsDurable,
    NothingForgotten,
)
from syncline.testing.invariants.elections import ElectionSafety, LeaderCompleteness, VoteOnce
from syncline.testing.invariants.logs import CommitAgreement, LeaderAppendOnly, LogMatching, NeverBack
from syncline.testing.invariants.machines import Digest, EqualStates
from syncline.testing.invariants.memberships import (
    AnsweredChangeIsCommitted,
    AnsweredChangeIsDurable,
    EqualRegistries,
    MembersAreListed,
    MembershipsOverlap,
    OneChangeAtATime,
    SnapshotMembership,
)

__all__ = ["PENDING", "all_invariants"]

PENDING: Final = frozenset({"an answered change is durable", "equal member registries"})
"""Invariants that the product does not keep yet: no run judges by them, but for those with `--pending`."""


def all_invariants(facts: Facts, verdict: Verdict, digest: Digest, *, pending: bool = False) -> list[Invariant]:
    """One of each; those of `PENDING` only if that is asked for.

    `LogMatching` is the first: the others look up the entries that it takes down.
    """
    kinds = (
        LogMatching,
        LeaderAppendOnly,
        CommitAgreement,
        NeverBack,
        ElectionSafety,
        VoteOnce,
        LeaderCompleteness,
        AcknowledgedIsDurable,
        LeaderIsDurable,
        CommittedIsDurable,
        NothingForgotten,
        OneChangeAtATime,
        MembershipsOverlap,
        SnapshotMembership,
        AnsweredChangeIsCommitted,
        AnsweredChangeIsDurable,
        MembersAreListed,
        EqualRegistries,
        LeaderHasAQuorum,
        LeaderStays,
    )
    chosen = [kind for kind in kinds if pending or kind.name not in PENDING]
    return [*(kind(facts, verdict) for kind in chosen), EqualStates(facts, verdict, digest)]
