"""Bugs that others published in 2025 and 2026, and those that escaped before: what must notice each of them."""

from __future__ import annotations

from syncline.testing.seeds import Options
from tests.conformance.cluster import Settings
from tests.mutations import disks, nodes, published
from tests.mutations.catalogue import Hunt, Mutation, crash_hunt, simulator_hunt, trace_hunt
from tests.mutations.hunters import clusters, simulator

__all__ = ["NEWER"]


def _hostile(expects: str, limit: int, first: int = 0) -> Hunt:
    return Hunt("hostile cores", clusters(Settings.hostile, first), expects, limit)


def _default_seeds(expects: str, limit: int = 40) -> Hunt:
    """What `python -m syncline.testing.simulate --seeds 1-40 --sim-seconds 2` runs."""
    return Hunt("default seeds", simulator(Options(sim_seconds=2.0)), expects, limit)


NEWER: tuple[Mutation, ...] = (
    Mutation(
        "vote cleared at TimeoutNow",
        "NATS f4aca78",
        published.vote_cleared_at_timeout_now,
        (
            trace_hunt("a_node_that_may_not_campaign_keeps_its_vote_when_told_to"),
            simulator_hunt("changed its vote", "transfer", "joint", "slow-threads", "demote"),
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
        (simulator_hunt("members are listed", "joint"),),
    ),
    Mutation(
        "a granted pre-vote restarts the election clock",
        "Ra bbd0010",
        published.granted_pre_vote_restarts_the_clock,
        (trace_hunt("a_promised_vote_does_not_restart_the_election_clock"),),
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
                "a leader without a quorum steps down|election safety|leader completeness",
                *("joint", "isolate-leader", "slow-threads", "add", "cut"),
                nodes=5,
                first=60,
                limit=30,
            ),
        ),
    ),
    Mutation(
        "auto-leave of a joint membership forgotten in a snapshot",
        "published of several",
        published.auto_leave_forgotten_in_a_snapshot,
        (
            Hunt("random cores", clusters(Settings.drawn), "a membership is in force that never was", 40),
            simulator_hunt(
                "memberships share a quorum",
                *("joint", "snapshot", "slow-line", "delay", "kill"),
                nodes=5,
                first=78,
            ),
        ),
    ),
    Mutation(
        "only the leader that entered a joint membership leaves it",
        "published of several",
        published.only_the_one_that_entered_leaves,
        (
            trace_hunt("a_new_leader_leaves_the_joint_membership_that_it_inherits"),
            _hostile("does not recover", 60),
            simulator_hunt(
                "a joint membership is left", "joint", "transfer", "slow-threads", nodes=5, first=36, limit=10
            ),
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
            _default_seeds("nothing durable is forgotten"),
        ),
    ),
    Mutation(
        "votes of removed peers count",
        "published of several",
        published.votes_of_removed_peers_count,
        (_hostile("leader completeness|election safety", 100),),
    ),
    Mutation(
        "a follower commits min(commit, last index)",
        "planted before, not seen",
        published.follower_commits_up_to_its_end,
        (
            trace_hunt("a_commit_index_counts_only_up_to_where_the_logs_agree"),
            _hostile("two committed entries|before a leader does", 60, first=200),
        ),
    ),
    Mutation(
        "a follower acknowledges its whole log",
        "published of several",
        published.acknowledges_the_whole_log,
        (
            trace_hunt("an_old_append_does_not_truncate_what_was_appended_since"),
            _hostile("that the leader does not have|before they are durable", 200),
        ),
    ),
    Mutation(
        "a node commits below what it installed",
        "published of several",
        published.commits_below_what_it_installed,
        (_hostile("the commit index goes back", 100),),
    ),
    Mutation(
        "storage answers of an older term count",
        "published of several",
        published.storage_answers_of_an_older_term_count,
        (
            trace_hunt("an_answer_of_storage_from_an_earlier_term_is_ignored"),
            _hostile("that the leader does not have|two committed entries|not on a quorum's disks", 100),
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
        (simulator_hunt("refused ones never", "long-snapshot"),),
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
        (_hostile("entries that can't exist|the commit index goes back", 60),),
    ),
    Mutation(
        "campaigning with an unapplied change",
        "planted before, not seen",
        published.campaigns_with_an_unapplied_change,
        (trace_hunt("a_candidate_with_an_unapplied_change_does_not_campaign"),),
    ),
)
