"""The invariants of every run, whatever the state machine."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from syncline.testing.invariants.base import Facts, Invariant, Verdict
from syncline.testing.invariants.contacts import LeaderHasAQuorum, LeaderStays
from syncline.testing.invariants.durability import (
    AcknowledgedIsDurable,
    CommittedIsDurable,
    EmptiedTakesNoPart,
    LeaderIsDurable,
    NothingForgotten,
    SnapshotIsDurable,
)
from syncline.testing.invariants.elections import (
    AskingChangesNothing,
    CampaignsByTheNewest,
    ElectedByAQuorum,
    ElectionSafety,
    LeaderCompleteness,
    VoteOnce,
)
from syncline.testing.invariants.logs import (
    CommitAgreement,
    CommitsByItsOwnTerm,
    LeaderAppendOnly,
    LogMatching,
    NeverBack,
)
from syncline.testing.invariants.machines import Digest, EqualStates, NoAlarm, TimesOfEntries
from syncline.testing.invariants.memberships import (
    AnsweredChangeIsCommitted,
    AnsweredChangeIsDurable,
    EqualRegistries,
    MembersAreListed,
    MembershipsOverlap,
    OneChangeAtATime,
    SnapshotMembership,
)
from syncline.testing.invariants.proposals import OneNumberOneProposal, ProposalsInTheLog
from syncline.testing.invariants.reads import ReadsAreConfirmed
from syncline.testing.invariants.sessions import OnceForItsKey

__all__ = ["PENDING", "all_invariants"]

PENDING: Final[frozenset[str]] = frozenset()
"""Invariants that the product does not keep yet: no run judges by them, but for those that `--pending` names."""


def all_invariants(facts: Facts, verdict: Verdict, digest: Digest, pending: Collection[str] = ()) -> list[Invariant]:
    """One of each; those of `PENDING` only if they are named in `pending`.

    `LogMatching` is the first: the others look up the entries that it takes down.
    """
    kinds = (
        LogMatching,
        LeaderAppendOnly,
        CommitAgreement,
        CommitsByItsOwnTerm,
        NeverBack,
        ElectionSafety,
        VoteOnce,
        LeaderCompleteness,
        ElectedByAQuorum,
        AskingChangesNothing,
        CampaignsByTheNewest,
        AcknowledgedIsDurable,
        EmptiedTakesNoPart,
        LeaderIsDurable,
        CommittedIsDurable,
        NothingForgotten,
        SnapshotIsDurable,
        OneNumberOneProposal,
        ReadsAreConfirmed,
        OneChangeAtATime,
        MembershipsOverlap,
        NoAlarm,
        SnapshotMembership,
        AnsweredChangeIsCommitted,
        AnsweredChangeIsDurable,
        MembersAreListed,
        EqualRegistries,
        LeaderHasAQuorum,
        LeaderStays,
        ProposalsInTheLog,
        OnceForItsKey,
        TimesOfEntries,
    )
    chosen = [kind for kind in kinds if kind.name not in PENDING or kind.name in pending]
    return [*(kind(facts, verdict) for kind in chosen), EqualStates(facts, verdict, digest)]
