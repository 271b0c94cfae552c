"""Bugs that others published in 2025 and 2026, and those that escaped before: what must notice each of them."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import replace

from syncline.testing.sim.seeds import Options
from tests.conformance.settings import Settings
from tests.mutations import disks, nodes, published
from tests.mutations.catalogue import Hunt, Mutation, crash_hunt, simulator_hunt, test_hunt, trace_hunt
from tests.mutations.hunters import clusters, simulator

__all__ = ["NEWER", "default_seeds"]


def _cores(expects: str, limit: int, settings: Callable[[random.Random], Settings] = Settings.hostile) -> Hunt:
    """Random events on clusters of cores, under the conditions that this bug needs."""
    kind = settings.__name__.removeprefix("with_").replace("_", " ")
    return Hunt("hostile cores" if kind == "hostile" else f"cores with {kind}", clusters(settings), expects, limit)


def default_seeds(expects: str, limit: int = 40) -> Hunt:
    """What `python -m syncline.testing.simulate --seeds 1-40 --sim-seconds 2` runs."""
    return Hunt("default seeds", simulator(Options(sim_seconds=2.0)), expects, limit, slow=True)


NEWER: tuple[Mutation, ...] = (
    Mutation(
        "vote cleared at TimeoutNow",
        "NATS f4aca78",
        published.vote_cleared_at_timeout_now,
        (
            trace_hunt("a_node_that_may_not_campaign_keeps_its_vote_when_told_to"),
            replace(simulator_hunt("changed its vote", "transfer-at-change"), slow=True),
        ),
    ),
    Mutation(
        "a candidate ignores a snapshot of its term",
        "Ra 3b90473",
        published.candidate_ignores_a_snapshot_of_its_term,
        (trace_hunt("a_candidate_takes_a_snapshot_from_the_leader_of_its_term"),),
    ),
    Mutation(
        "contacts do not count during a snapshot, so check-quorum deposes the leader",
        "dragonboat",
        published.snapshot_contacts_do_not_count,
        (simulator_hunt("a leader with a live quorum stays", "long-snapshot"),),
    ),
    Mutation(
        "leaves the snapshot state only at the very index",
        "etcd/raft #124",
        published.leaves_the_snapshot_state_only_at_its_index,
        (trace_hunt("a_follower_that_holds_more_than_the_snapshot_under_way_is_sent_the_rest"),),
    ),
    Mutation(
        "members listed wrongly while joint",
        "braft #498",
        nodes.members_listed_wrongly_while_joint,
        (
            simulator_hunt("members are listed", "joint"),
            test_hunt("unit.test_node_member_registry", "test_membership_while_joint_lists_both_halves", "both halves"),
        ),
    ),
    Mutation(
        "a granted pre-vote restarts the election clock",
        "Ra bbd0010",
        published.granted_pre_vote_restarts_the_clock,
        (
            trace_hunt("a_promised_vote_does_not_restart_the_election_clock"),
            simulator_hunt("a pre-vote changes nothing", "isolate-leader"),
        ),
    ),
    Mutation(
        "a leader leads on without a quorum",
        "hashicorp/raft #666",
        published.leads_without_a_quorum,
        (
            trace_hunt("check_quorum_does_not_count_learners"),
            simulator_hunt("a leader without a quorum steps down", "isolate-leader"),
        ),
    ),
    Mutation(
        "a change of the membership answered when it is appended",
        "NATS #7561",
        nodes.change_answered_when_appended,
        (simulator_hunt("an answered change is committed", "joint", "demote", "promote"),),
    ),
    Mutation(
        "a snapshot holds an uncommitted membership",
        "NATS 1fae611",
        nodes.snapshot_with_an_uncommitted_membership,
        (simulator_hunt("a snapshot has the membership of its index", "joint", "snapshot", "add", "slow-disk"),),
    ),
    Mutation(
        "joint votes counted over both halves together",
        "published of several",
        published.joint_votes_counted_together,
        (
            trace_hunt("check_quorum_needs_both_halves_of_a_joint_membership"),
            simulator_hunt(
                "a leader has the votes of a quorum|a leader without a quorum steps down", "joint-trouble", nodes=5
            ),
        ),
    ),
    Mutation(
        "auto-leave of a joint membership forgotten in a snapshot",
        "published of several",
        published.auto_leave_forgotten_in_a_snapshot,
        (
            Hunt("random cores", clusters(Settings.drawn), "a membership is in force that never was", 40),
            replace(simulator_hunt("memberships share a quorum", "joint-trouble", nodes=5), slow=True),
        ),
    ),
    Mutation(
        "only the leader that entered a joint membership leaves it",
        "published of several",
        published.only_the_one_that_entered_leaves,
        (
            trace_hunt("a_new_leader_leaves_the_joint_membership_that_it_inherits"),
            _cores("does not recover", 100, Settings.with_leavers),
            replace(simulator_hunt("a joint membership is left", "joint-trouble", nodes=5), slow=True),
        ),
    ),
    Mutation(
        "an exception of the machine stalls applying",
        "SOFAJRaft",
        nodes.raising_machine_stalls_applying,
        (simulator_hunt("all catch up after the faults", "raise-in-apply"),),
    ),
    Mutation(
        "a missing log is taken for a new one",
        "planted before, seen by one mix of faults",
        nodes.missing_log_taken_for_a_new_one,
        (
            simulator_hunt("nothing durable is forgotten", "lost-log"),
            default_seeds("nothing durable is forgotten"),
        ),
    ),
    Mutation(
        "votes of removed peers count",
        "published of several",
        published.votes_of_removed_peers_count,
        (_cores("leads without the votes of a quorum|election safety", 100, Settings.with_leavers),),
    ),
    Mutation(
        "a follower commits min(commit, last index)",
        "planted before, not seen",
        published.follower_commits_up_to_its_end,
        (
            trace_hunt("a_commit_index_counts_only_up_to_where_the_logs_agree"),
            _cores("two committed entries|before a leader does", 100, Settings.with_tails),
        ),
    ),
    Mutation(
        "a follower acknowledges its whole log",
        "published of several",
        published.acknowledges_the_whole_log,
        (
            trace_hunt("an_old_append_does_not_truncate_what_was_appended_since"),
            _cores("that the leader does not have|before they are durable", 50, Settings.with_tails),
        ),
    ),
    Mutation(
        "a node commits below what it installed",
        "published of several",
        published.commits_below_what_it_installed,
        (_cores("the commit index goes back", 60, Settings.with_snapshots),),
    ),
    Mutation(
        "storage answers of an older term count",
        "published of several",
        published.storage_answers_of_an_older_term_count,
        (
            trace_hunt("an_answer_of_storage_from_an_earlier_term_is_ignored"),
            _cores(
                "that the leader does not have|two committed entries|that is not committed",
                150,
                Settings.with_slow_disks,
            ),
        ),
    ),
    Mutation(
        "an answer to an old read attempt ends a new batch of reads",
        "planted before, not seen",
        nodes.old_read_attempt_ends_a_new_batch,
        (simulator_hunt("a read sees what was committed before it", "late-reads"),),
    ),
    Mutation(
        "a proposal over which a snapshot has gone is told `not_applied`",
        "planted before, seen by chance",
        nodes.jumped_proposal_told_not_applied,
        (
            simulator_hunt(
                "what a proposal was told is true|acknowledged writes are there once", "snapshot-over-forwards"
            ),
        ),
    ),
    Mutation(
        "a segment of the log dropped one too early",
        "planted before, not seen",
        disks.segment_dropped_one_too_early,
        (crash_hunt("compact_several_segments", "finds what no crash may leave"),),
    ),
    Mutation(
        "no directory sync between removals of segments",
        "planted before, not seen",
        disks.removals_without_a_directory_sync,
        (crash_hunt("compact_several_segments", "newest file is missing|finds what no crash may leave"),),
    ),
    Mutation(
        "a snapshot that does not raise the commit index",
        "planted before, seen by one test",
        disks.snapshot_does_not_raise_the_commit_index,
        (_cores("entries that can't exist|the commit index goes back", 60, Settings.with_snapshots),),
    ),
    Mutation(
        "campaigning with an unapplied change",
        "planted before, not seen",
        published.campaigns_with_an_unapplied_change,
        (
            trace_hunt("a_candidate_with_an_unapplied_change_does_not_campaign"),
            _cores("goes by a membership that is over", 60, Settings.with_leavers),
        ),
    ),
    Mutation(
        "phantom contacts: followers count as there that have not answered",
        "hashicorp/raft #666, PR #683",
        published.phantom_contacts,
        (simulator_hunt("a leader without a quorum steps down", "isolate-leader"),),
    ),
    Mutation(
        "a failed sync of a snapshot is swallowed",
        "dragonboat #409",
        disks.failed_sync_of_a_snapshot_swallowed,
        (simulator_hunt("a snapshot that counts is durable", "failed-snapshot"),),
    ),
    Mutation(
        "a failed rename of a snapshot is swallowed",
        "braft #462",
        disks.failed_rename_of_a_snapshot_swallowed,
        (simulator_hunt("a snapshot that counts is durable", "failed-snapshot"),),
    ),
    Mutation(
        "a failed directory sync of a snapshot is swallowed",
        "braft #462",
        disks.failed_directory_sync_of_a_snapshot_swallowed,
        (simulator_hunt("a snapshot that counts is durable", "failed-snapshot"),),
    ),
    Mutation(
        "a promise after a failed write",
        "planted before, seen by one test",
        nodes.promise_after_a_failed_write,
        (simulator_hunt("nothing is acknowledged before it is durable", "failed-write", "failed-sync"),),
    ),
    Mutation(
        "an emptied directory is let in",
        "planted before, not seen",
        nodes.empty_directory_let_in,
        (simulator_hunt("an emptied member takes no part", "wipe", "kill", "isolate-leader", nodes=3, limit=40),),
    ),
    Mutation(
        "proposal numbers from 1 at each start",
        "planted before, not seen",
        nodes.numbers_from_one_at_each_start,
        (simulator_hunt("one number, one proposal", "kill"),),
    ),
    Mutation(
        "the kernel's sync error is ignored",
        "planted before, not seen",
        disks.kernel_sync_error_ignored,
        (test_hunt("unit.test_real_syncs", "test_kernel_sync_error_stops_the_node", "DID NOT RAISE", error=errno.EIO),),
    ),
    Mutation(
        "a sync of a directory does nothing",
        "planted before, not seen",
        disks.directory_sync_does_nothing,
        (
            test_hunt(
                "unit.test_real_syncs",
                "test_directories_are_synced_before_anything_is_acknowledged",
                "no sync of the directory",
            ),
        ),
    ),
    Mutation(
        "settling keeps the vote of an older term in a newer one",
        "planted before, seen by one test",
        disks.settling_keeps_the_vote_of_a_newer_term,
        (crash_hunt("install", "finds what no crash may leave"),),
    ),
    Mutation(
        "chunks of the log in memory miscounted after a truncation",
        "planted before, seen by one test",
        disks.tail_chunks_miscounted_after_a_truncation,
        (
            test_hunt(
                "unit.test_stored_log", "test_tail_bytes_after_truncations_are_those_of_what_is_left", "begins at"
            ),
        ),
    ),
    Mutation(
        "a pre-vote request enters its term",
        "planted before, seen by one test",
        published.pre_vote_enters_its_term,
        (
            trace_hunt("a_promised_vote_does_not_restart_the_election_clock"),
            trace_hunt("a_request_for_a_promise_leaves_the_term_as_it_is"),
            simulator_hunt("a pre-vote changes nothing", "isolate-leader"),
        ),
    ),
    Mutation(
        "a candidate while a snapshot is written",
        "planted before, seen by chance",
        published.candidate_while_a_snapshot_is_written,
        (trace_hunt("a_node_does_not_campaign_while_a_snapshot_waits_for_the_disk"),),
    ),
)
