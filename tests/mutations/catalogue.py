"""The known bugs of others, in the order of the list that they come from, and what must notice each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from syncline.testing.sim.seeds import Options
from tests.conformance.settings import Settings
from tests.mutations import core, runtime, watch_bugs
from tests.mutations.hunters import Hunter, clusters, crashes, simulator, test, trace

__all__ = ["MUTATIONS", "WAITING", "Hunt", "Mutation", "crash_hunt", "simulator_hunt", "test_hunt", "trace_hunt"]


@dataclass(frozen=True, slots=True)
class Hunt:
    """A way in which a bug must be noticed: within `limit` attempts, and as what `expects` (a regular expression) says.

    A planted bug that stops the harness itself would be noticed, too, and would prove nothing.
    """

    by: str
    hunter: Hunter
    expects: str
    limit: int = 1
    slow: bool = False
    """Left to `make soak`: another hunt of the same bug is quick."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """A bug: whose it was, how it is planted here, and what must notice it."""

    bug: str
    where: str
    plant: Callable[[pytest.MonkeyPatch], None]
    hunts: tuple[Hunt, ...]

    @property
    def name(self) -> str:
        return self.plant.__name__


def trace_hunt(name: str) -> Hunt:
    """Look for it in one recorded trace."""
    return Hunt("trace", trace(name), "comes out differently")


def _clusters(expects: str, limit: int) -> Hunt:
    return Hunt("random cores", clusters(Settings.drawn), expects, limit)


def crash_hunt(workload: str, expects: str, limit: int = 5) -> Hunt:
    """Look for it in a workload of the storage, crashed before each operation."""
    return Hunt("crash at every step", crashes(workload), expects, limit)


def simulator_hunt(expects: str, *faults: str, limit: int = 20, nodes: int | None = None) -> Hunt:
    """Look for it in seeds from 1 on, of 3 seconds, with these faults or with those that each seed chooses.

    A hunt that begins at a later seed would notice the bug by the chance of today: instead there are faults that bring
    about the state that the bug needs.
    """
    options = Options(nodes=nodes, faults=faults or None, sim_seconds=3.0)
    return Hunt("simulator", simulator(options), expects, limit)


def test_hunt(module: str, name: str, expects: str, **arguments: object) -> Hunt:
    """Look for it with a test of the project."""
    return Hunt(f"test `{name}`", test(module, name, **arguments), expects)


test_hunt.__test__ = False  # type: ignore[attr-defined]  # pytest would take it for one


MUTATIONS: tuple[Mutation, ...] = (
    Mutation(
        "term or vote not durable before the answer",
        "PySyncObj #84, #201, #202",
        core.vote_before_it_is_durable,
        (
            trace_hunt("a_vote_is_sent_only_once_it_is_durable"),
            _clusters("a vote is sent before it is durable", 20),
            simulator_hunt("nothing is acknowledged before it is durable"),
        ),
    ),
    Mutation(
        "truncating the log although the entries match",
        "PySyncObj (any overlapping append)",
        core.truncate_what_matches,
        (
            trace_hunt("an_old_append_does_not_truncate_what_was_appended_since"),
            _clusters("acknowledged before they are durable|not on a quorum's disks", 20),
        ),
    ),
    Mutation(
        "counting votes by message instead of by voter",
        "PySyncObj",
        core.votes_by_message,
        (_clusters("leads without the votes of a quorum|election safety", 60),),
    ),
    Mutation(
        "commit index counted without a real quorum of voters",
        "openraft #1802",
        core.learners_commit,
        (
            _clusters("committed but not on a quorum's disks", 20),
            simulator_hunt("committed is durable on a quorum", "add", "demote", "isolate-leader"),
        ),
    ),
    Mutation(
        "membership in force taken from a stale place after a snapshot install: disjoint quorums",
        "openraft #1808",
        core.stale_membership_after_a_snapshot,
        (
            trace_hunt("a_change_from_before_a_snapshot_is_not_made_again"),
            _clusters("a membership is in force that never was", 20),
            simulator_hunt("memberships share a quorum|a snapshot has the membership", "add", "remove", "cut"),
        ),
    ),
    Mutation(
        "acknowledging before the sync",
        "hiqlite #361",
        runtime.acknowledge_before_the_sync,
        (simulator_hunt("nothing is acknowledged before it is durable"),),
    ),
    Mutation(
        "new segment or directory entry not synced after rotation",
        "raft-log (2026-02)",
        runtime.new_segment_not_synced,
        (
            crash_hunt("rotate", "finds what no crash may leave|this node has had one: its files are missing"),
            simulator_hunt("a sound node starts|nothing durable is forgotten", "power", "kill-all"),
        ),
    ),
    Mutation(
        "a durable snapshot replaced by an older one",
        "tsoracle #426",
        runtime.older_snapshot_replaces_a_newer_one,
        (crash_hunt("a_snapshot_is_overtaken", "newest intact snapshot is at entry 10"),),
    ),
    Mutation(
        "a retried read index satisfied by an old heartbeat answer: stale linearizable read",
        "etcd #20418",
        core.any_answer_confirms_a_read,
        (
            trace_hunt("a_retried_read_is_not_confirmed_by_answers_to_the_first_attempt"),
            simulator_hunt("a read is confirmed by a quorum"),
        ),
    ),
    Mutation(
        "read index counting answers of learners, or answers to earlier messages",
        "hashicorp/raft VerifyLeader",
        core.learners_confirm_reads,
        (
            trace_hunt("answers_of_learners_do_not_confirm_a_read"),
            simulator_hunt("a read is confirmed by a quorum", "add", "demote"),
        ),
    ),
    Mutation(
        "committing entries of an earlier term by counting",
        "the Raft paper, figure 8",
        core.earlier_terms_by_counting,
        (
            trace_hunt("figure_8_an_entry_of_an_earlier_term_is_not_committed_by_counting"),
            replace(_clusters("stale read|leader completeness|two committed entries", 200), slow=True),
        ),
    ),
    Mutation(
        "membership change before an entry of the own term is committed",
        "Raft single-server bug of 2015",
        core.change_before_an_entry_of_the_own_term,
        (trace_hunt("a_leader_takes_no_change_before_the_log_of_its_predecessors_is_applied"),),
    ),
    Mutation(
        "stale append answer after the peer was removed and re-added in one term",
        "etcd, hashicorp, raft-rs, PySyncObj (survey of 2025)",
        core.old_sessions_count,
        (trace_hunt("a_peer_removed_and_added_again_is_not_credited_with_old_answers"),),
    ),
    Mutation(
        "applied index durable before the change it stands for",
        "etcd 3.5.0 - 3.5.2",
        runtime.snapshot_ahead_of_its_state,
        (simulator_hunt("equal states", "kill"),),
    ),
    Mutation(
        "leadership transfer flag outliving its term: leader refuses all later writes",
        "hashicorp/raft #696",
        core.transfer_outlives_its_term,
        (
            trace_hunt("a_transfer_ends_with_its_term"),
            replace(_clusters("does not come to rest|does not recover", 50), slow=True),
        ),
    ),
    Mutation(
        "snapshot install keeping a conflicting suffix",
        "hashicorp/raft #697",
        core.snapshot_keeps_the_suffix,
        (trace_hunt("a_snapshot_replaces_a_conflicting_suffix_that_is_not_written_yet"),),
    ),
    Mutation(
        "term and vote written separately",
        "hashicorp/raft #661",
        runtime.vote_and_term_apart,
        (
            crash_hunt("hard_state", "finds what no crash may leave"),
            simulator_hunt("a sound node starts|nothing durable is forgotten", "crash-in-write", "isolate-leader"),
        ),
    ),
    Mutation(
        "watch losing events around a compaction or a snapshot install",
        "etcd #15220 and others",
        watch_bugs.events_lost_at_a_snapshot_install,
        (test_hunt("unit.test_watch_hub", "test_watch_goes_on_after_an_installed_snapshot", "each revision once"),),
    ),
)

WAITING: tuple[tuple[str, str, str], ...] = ()
"""Bugs of features that are not there yet: the bug, where it happened, what it waits for."""
