"""Each of these scenarios fails if the bug of its issue is planted: so it plays the issue, and not another one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import pytest

from syncline.consensus import election
from syncline.consensus.state import RaftState
from syncline.consensus.types import NONE, SnapshotMeta
from syncline.errors import SynclineError
from syncline.node.membership import Reconfiguration
from syncline.node.runtime import Driver
from syncline.storage.snapshots.write import SnapshotWriter
from syncline.storage.stored_log import StoredLog
from syncline.testing.plugin import MakeCluster
from tests.mutations import core, published, runtime
from tests.simulation import test_published_issues as scenarios

Plant = Callable[[pytest.MonkeyPatch], None]


def hanging_disk_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Driver, "_yield_if_disk_stalls", lambda _driver, _stalled_s: None)


def leader_removed_without_a_transfer(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Reconfiguration, "best_successor", lambda *_: NONE)


def learners_campaign(patch: pytest.MonkeyPatch) -> None:
    def promotable(raft: RaftState) -> bool:
        return raft.tracker.progress.get(raft.id) is not None

    patch.setattr(election, "promotable", promotable)


def campaigns_without_a_pre_vote(patch: pytest.MonkeyPatch) -> None:
    original = election.campaign_if_allowed

    def campaign(raft: RaftState, *, pre_vote: bool, transfer: bool = False) -> None:
        original(raft, pre_vote=False, transfer=transfer)

    patch.setattr(election, "campaign_if_allowed", campaign)


def snapshot_keeps_the_written_suffix(patch: pytest.MonkeyPatch) -> None:
    original = StoredLog._restart

    def restart(log: StoredLog, snapshot: SnapshotMeta) -> None:
        if snapshot.index < log.last_index():
            log.installed(snapshot)
        else:
            original(log, snapshot)

    patch.setattr(StoredLog, "_restart", restart)


def failed_snapshot_left_behind(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SnapshotWriter, "_discard", lambda _writer: None)


def crash_cases_without_clusters(_: MakeCluster) -> None:
    scenarios.test_term_and_vote_survive_a_crash_as_a_pair()


PLANTED: Final[dict[str, tuple[Plant, Callable[[MakeCluster], None]]]] = {
    "#503": (hanging_disk_ignored, scenarios.test_leader_whose_disk_hangs_loses_its_leadership),
    "#666": (published.leads_without_a_quorum, scenarios.test_leader_without_a_quorum_steps_down),
    "#696": (core.transfer_outlives_its_term, scenarios.test_transfer_that_is_cut_short_blocks_no_later_write),
    "#697": (snapshot_keeps_the_written_suffix, scenarios.test_follower_with_a_conflicting_suffix_takes_one_snapshot),
    "#661": (runtime.vote_and_term_apart, crash_cases_without_clusters),
    "VerifyLeader": (core.learners_confirm_reads, scenarios.test_verify_leader_does_not_count_learners),
    "#524": (
        campaigns_without_a_pre_vote,
        lambda make: scenarios.test_member_changed_while_it_is_cut_off_disturbs_no_leader(make, "demote"),
    ),
    "#483": (learners_campaign, scenarios.test_learner_without_a_leader_does_not_campaign),
    "#62": (leader_removed_without_a_transfer, scenarios.test_leader_that_is_removed_is_replaced_at_once),
    "#714": (
        failed_snapshot_left_behind,
        lambda make: scenarios.test_snapshot_that_fails_leaves_no_file(make, "sync"),
    ),
}


@pytest.mark.parametrize("issue", PLANTED)
def test_scenario_of_an_issue_fails_with_its_bug(
    issue: str, monkeypatch: pytest.MonkeyPatch, raft_cluster: MakeCluster
) -> None:
    plant, scenario = PLANTED[issue]
    plant(monkeypatch)
    with pytest.raises((AssertionError, TimeoutError, SynclineError, pytest.fail.Exception)):
        scenario(raft_cluster)
