"""All invariants that hold in every run, whatever the state machine."""

from __future__ import annotations

from syncline.testing.invariants.base import Facts, Invariant, Verdict
from syncline.testing.invariants.durability import (
    AcknowledgedIsDurable,
    CommittedIsDurable,
    LeaderIsDurable,
    NothingForgotten,
)
from syncline.testing.invariants.elections import ElectionSafety, LeaderCompleteness, VoteOnce
from syncline.testing.invariants.logs import CommitAgreement, LeaderAppendOnly, LogMatching, NeverBack
from syncline.testing.invariants.machines import Digest, EqualRegistries, EqualStates, NoAlarm
from syncline.testing.invariants.memberships import MembershipsOverlap, OneChangeAtATime

__all__ = ["all_invariants"]


def all_invariants(facts: Facts, verdict: Verdict, digest: Digest) -> list[Invariant]:
    """One of each. `LogMatching` is the first: the others look up the entries that it takes down."""
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
        NoAlarm,
        EqualRegistries,
    )
    return [*(kind(facts, verdict) for kind in kinds), EqualStates(facts, verdict, digest)]
