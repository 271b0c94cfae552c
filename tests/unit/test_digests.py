"""The comparison of states on one node, with a double of its core: what it keeps, reports, proposes and decides."""

from __future__ import annotations

import logging
from typing import cast

import msgspec
import pytest

from syncline.consensus.membership import Configuration
from syncline.consensus.quorum import JointConfig
from syncline.consensus.rawnode import RawNode
from syncline.consensus.types import MembershipState, NodeId, ProposalDropped, StateType
from syncline.errors import DiskFull, NodeFailed
from syncline.node.digests import POINTS_KEPT, DigestCallbacks, Digests
from syncline.node.envelope import Kind, MemberRecord, decode_proposal
from syncline.node.member_registry import MemberRegistry
from syncline.node.state_digest import (
    Agreement,
    DigestEntry,
    DigestSource,
    decode_digest_entry,
    digest_version,
    point_digest,
)
from syncline.transport.messages import DigestReport
from tests.helpers.digests import Tally

ME, B, C, D, E = 1, 2, 3, 4, 5
ELECTION_S = 1.0
VERSION = digest_version(1)
RIGHT, WRONG, OTHER = b"right", b"wrong", b"other"


def made(machine: bytes, version: int = VERSION) -> bytes:
    return point_digest(version, registry=b"", machine=machine)


class Core:
    """What the comparison uses of `RawNode`."""

    def __init__(self) -> None:
        self.id = ME
        self.voters = JointConfig([ME, B, C])
        self.state = StateType.FOLLOWER
        self.leader = B
        self.last_index = 1000
        self.takes = True
        self.proposed: list[DigestEntry] = []

    @property
    def membership(self) -> MembershipState:
        return Configuration(voters=self.voters).state()

    def propose_batch(self, batch: list[bytes]) -> tuple[int, int]:
        if not self.takes:
            raise ProposalDropped
        proposal = decode_proposal(batch[0])
        assert (proposal.kind, proposal.origin, len(batch)) == (Kind.DIGEST, ME, 1)
        entry = decode_digest_entry(proposal.data)
        assert entry is not None
        self.proposed.append(entry)
        self.last_index += 1
        return self.last_index, 1


class Node:
    """One node under test, and what came of it."""

    def __init__(self, *, leads: bool = False, voters: JointConfig | None = None, registry: bool = False) -> None:
        self.core = Core()
        self.book = MemberRegistry()
        self.sent: list[tuple[NodeId, DigestReport]] = []
        self.failures: list[NodeFailed] = []
        self.linked = self.room = True
        self.alive = {B, C, D, E}
        self.now_s = 0.0
        if voters is not None:
            self.core.voters = voters
        if leads:
            self.core.state, self.core.leader = StateType.LEADER, ME
        doors = DigestCallbacks(self._send, self._check_space, self.alive.__contains__, self.failures.append, self._now)
        self.digests = Digests(
            cast("RawNode", self.core), self.book, doors, DigestSource(Tally(), 8), "a", ELECTION_S,
            covers_registry=registry,
        )  # fmt: skip

    def _send(self, to: NodeId, report: DigestReport) -> bool:
        if self.linked:
            self.sent.append((to, report))
        return self.linked

    def _check_space(self, size_bytes: int) -> None:
        assert size_bytes > 0
        if not self.room:
            raise DiskFull("full")

    def _now(self) -> float:
        return self.now_s

    def report(self, sender: NodeId, point: int, machine: bytes = RIGHT) -> None:
        self.digests.on_report(sender, DigestReport(point, VERSION, made(machine)))

    def compare(self, index: int, point: int, version: int = VERSION, **members: bytes) -> None:
        """The entry at `index` is applied: digests by name of member."""
        names = {"me": ME, "b": B, "c": C, "d": D, "e": E}
        digests = tuple((names[name], made(machine, version)) for name, machine in members.items())
        self.digests.applied(index, msgspec.msgpack.encode(DigestEntry(point, version, digests)))

    def lead(self) -> None:
        self.core.state, self.core.leader = StateType.LEADER, ME
        self.digests.leader_changed()


class TestFollower:
    def test_follower_reports_each_point_to_the_leader(self) -> None:
        node = Node()
        node.digests.passed(8, RIGHT)
        assert node.sent == [(B, DigestReport(8, VERSION, made(RIGHT)))]

    def test_follower_without_a_link_reports_with_a_later_tick(self) -> None:
        node = Node()
        node.linked = False
        node.digests.passed(8, RIGHT)
        node.digests.passed(16, RIGHT)
        node.digests.tick()
        node.linked = True
        node.digests.tick()
        node.digests.tick()
        assert [report.point for _, report in node.sent] == [8, 16]

    def test_follower_reports_again_to_a_new_leader_what_is_not_settled(self) -> None:
        node = Node()
        for point in (8, 16, 24):
            node.digests.passed(point, RIGHT)
        node.compare(25, 8, b=RIGHT, c=RIGHT)
        node.sent.clear()
        node.core.leader = C
        node.digests.leader_changed()
        assert [(to, report.point) for to, report in node.sent] == [(C, 16), (C, 24)]

    def test_follower_without_a_leader_keeps_its_reports(self) -> None:
        node = Node()
        node.core.leader = 0
        node.digests.leader_changed()
        node.digests.passed(8, RIGHT)
        assert node.sent == []
        node.core.leader = C
        node.digests.leader_changed()
        assert [to for to, _ in node.sent] == [C]

    def test_follower_keeps_a_bounded_number_of_points(self) -> None:
        node = Node()
        node.linked = False
        for number in range(1, 3 * POINTS_KEPT):
            node.digests.passed(8 * number, RIGHT)
        node.linked = True
        node.digests.tick()
        assert [report.point for _, report in node.sent] == [8 * n for n in range(2 * POINTS_KEPT, 3 * POINTS_KEPT)]

    def test_follower_with_an_unusable_digest_reports_nothing(self) -> None:
        node = Node()
        node.digests.passed(8, None)
        node.digests.passed(16, b"")
        assert node.sent == []

    def test_follower_that_covers_the_registry_always_reports(self) -> None:
        node = Node(registry=True)
        node.digests.passed(8, b"")
        node.book.members[ME] = MemberRecord(ME, "a", "h:1")
        node.digests.passed(16, b"")
        assert len({report.digest for _, report in node.sent}) == 2


class TestComparison:
    def test_node_that_differs_from_the_majority_stops(self) -> None:
        node = Node()
        node.digests.passed(8, WRONG)
        node.compare(9, 8, b=RIGHT, c=RIGHT)
        [failure] = node.failures
        assert "node a (0000000000000001) has stopped" in str(failure)
        assert "log index 8" in str(failure)

    def test_leader_that_differs_from_the_majority_stops(self) -> None:
        node = Node(leads=True)
        node.digests.passed(8, WRONG)
        node.compare(9, 8, me=WRONG, b=RIGHT, c=RIGHT)
        assert len(node.failures) == 1

    def test_sound_follower_of_a_wrong_leader_goes_on(self) -> None:
        node = Node()
        node.digests.passed(8, RIGHT)
        node.compare(9, 8, b=WRONG, me=RIGHT, c=RIGHT)
        assert node.failures == []
        assert node.digests.status.agreement is Agreement.AGREED

    def test_node_goes_by_its_own_digest_whatever_the_entry_says(self) -> None:
        """A leader that names another digest for this node can neither stop it nor save it."""
        node = Node()
        node.digests.passed(8, RIGHT)
        node.compare(9, 8, me=WRONG, b=RIGHT, c=RIGHT)
        assert node.failures == []
        node.digests.passed(16, WRONG)
        node.compare(17, 16, me=RIGHT, b=RIGHT, c=RIGHT)
        assert len(node.failures) == 1

    def test_restarted_node_goes_by_the_digest_that_it_reported(self) -> None:
        node = Node()
        node.compare(9, 8, me=RIGHT, b=RIGHT, c=RIGHT)
        node.compare(17, 16, b=RIGHT, c=RIGHT)
        assert node.failures == []
        node.compare(25, 24, me=WRONG, b=RIGHT, c=RIGHT)
        assert len(node.failures) == 1

    def test_installed_snapshot_voids_the_points_up_to_it(self) -> None:
        """The wrong state is gone: neither a kept digest nor a reported one says anything about the new one."""
        node = Node()
        node.digests.passed(8, WRONG)
        node.digests.restored(9)
        node.compare(10, 8, me=WRONG, b=RIGHT, c=RIGHT)
        assert node.failures == []
        node.digests.passed(16, WRONG)
        node.compare(17, 16, b=RIGHT, c=RIGHT)
        assert len(node.failures) == 1

    def test_digests_of_another_point_are_not_compared(self) -> None:
        node = Node()
        node.digests.passed(8, RIGHT)
        node.digests.passed(16, OTHER)
        node.compare(17, 8, b=RIGHT, c=RIGHT)
        assert node.failures == []

    def test_digests_of_another_version_are_not_compared(self) -> None:
        node = Node()
        node.digests.passed(8, WRONG)
        node.compare(9, 8, VERSION + 1, b=RIGHT, c=RIGHT)
        assert node.failures == []
        assert node.digests.status.agreement is Agreement.NONE

    def test_joint_membership_needs_a_majority_of_both_halves(self) -> None:
        node = Node(voters=JointConfig([ME, B, C], [ME, D, E]))
        node.digests.passed(8, WRONG)
        node.compare(9, 8, me=WRONG, b=RIGHT, c=RIGHT, d=OTHER, e=WRONG)
        assert node.failures == []
        assert node.digests.alarm
        node.digests.passed(16, WRONG)
        node.compare(17, 16, me=WRONG, b=RIGHT, c=RIGHT, d=RIGHT, e=RIGHT)
        assert len(node.failures) == 1

    def test_learners_are_no_majority(self) -> None:
        node = Node()
        node.digests.passed(8, RIGHT)
        node.compare(9, 8, me=RIGHT, b=RIGHT, d=WRONG, e=WRONG)
        node.compare(10, 8, me=RIGHT, d=WRONG, e=WRONG)
        assert node.failures == []
        assert not node.digests.alarm


class TestAlarm:
    def test_alarm_begins_without_a_majority_and_ends_with_one(self, caplog: pytest.LogCaptureFixture) -> None:
        node = Node()
        node.digests.passed(8, RIGHT)
        node.compare(9, 8, me=RIGHT, b=WRONG, c=OTHER)
        assert "log index 8" in node.digests.alarm
        assert node.failures == []
        node.compare(17, 16, me=RIGHT, c=RIGHT)
        assert node.digests.alarm == ""
        assert [record.levelno for record in caplog.records if record.levelno >= logging.WARNING] == [logging.CRITICAL]

    def test_alarm_ends_with_a_majority_at_the_same_point(self) -> None:
        node = Node()
        node.compare(9, 8, me=RIGHT, b=WRONG)
        assert node.digests.alarm
        node.compare(10, 8, me=RIGHT, b=WRONG, c=RIGHT)
        assert not node.digests.alarm

    def test_alarm_is_not_ended_by_an_older_point(self) -> None:
        node = Node()
        node.compare(17, 16, me=RIGHT, b=WRONG, c=OTHER)
        node.compare(18, 8, me=RIGHT, b=RIGHT)
        assert node.digests.alarm

    def test_alarm_is_not_begun_by_a_point_that_is_settled(self) -> None:
        node = Node()
        node.compare(9, 8, me=RIGHT, b=RIGHT)
        node.compare(10, 8, me=RIGHT, c=WRONG)
        assert not node.digests.alarm

    def test_alarm_is_logged_again_after_a_minute(self, caplog: pytest.LogCaptureFixture) -> None:
        node = Node()
        for number in range(1, 13):
            node.now_s = 10.0 * number
            node.compare(8 * number + 1, 8 * number, me=RIGHT, b=WRONG)
        assert len(caplog.records) == 2


class TestLeader:
    def test_leader_proposes_as_soon_as_a_majority_agrees(self) -> None:
        node = Node(leads=True)
        node.digests.passed(8, RIGHT)
        assert node.core.proposed == []
        node.report(B, 8)
        [entry] = node.core.proposed
        assert (entry.point, entry.by_member()) == (8, {ME: made(RIGHT), B: made(RIGHT)})

    def test_leader_that_is_behind_takes_the_word_of_a_majority(self) -> None:
        node = Node(leads=True)
        node.report(B, 8)
        node.report(C, 8)
        assert [entry.point for entry in node.core.proposed] == [8]

    def test_leader_has_one_entry_in_flight(self) -> None:
        node = Node(leads=True)
        for point in (8, 16):
            node.digests.passed(point, RIGHT)
            node.report(B, point)
        assert [entry.point for entry in node.core.proposed] == [8]
        node.compare(node.core.last_index, 8, me=RIGHT, b=RIGHT)
        assert [entry.point for entry in node.core.proposed] == [8, 16]

    def test_leader_proposes_no_point_twice(self) -> None:
        node = Node(leads=True)
        node.digests.passed(8, RIGHT)
        node.report(B, 8)
        node.compare(node.core.last_index, 8, me=RIGHT, b=RIGHT)
        node.report(C, 8)
        node.digests.tick()
        assert len(node.core.proposed) == 1

    def test_leader_with_two_that_differ_waits_for_the_third(self) -> None:
        node = Node(leads=True)
        node.digests.passed(8, RIGHT)
        node.report(B, 8, WRONG)
        assert node.core.proposed == []
        node.report(C, 8)
        assert len(node.core.proposed[0].digests) == 3

    def test_leader_with_two_that_differ_does_not_wait_for_a_dead_third(self) -> None:
        node = Node(leads=True)
        node.alive.discard(C)
        node.digests.passed(8, RIGHT)
        node.report(B, 8, WRONG)
        assert len(node.core.proposed) == 1

    def test_leader_with_two_that_differ_waits_a_bounded_time(self) -> None:
        node = Node(leads=True)
        node.digests.passed(8, RIGHT)
        node.report(B, 8, WRONG)
        node.now_s = 2 * ELECTION_S - 0.1
        node.digests.tick()
        assert node.core.proposed == []
        node.now_s = 2 * ELECTION_S
        node.digests.tick()
        assert len(node.core.proposed) == 1

    def test_leader_proposes_a_point_again_if_a_late_report_decides_it(self) -> None:
        node = Node(leads=True)
        node.digests.passed(8, RIGHT)
        node.report(B, 8, WRONG)
        node.now_s = 2 * ELECTION_S
        node.digests.tick()
        node.compare(node.core.last_index, 8, me=RIGHT, b=WRONG)
        node.digests.tick()
        assert len(node.core.proposed) == 1
        node.report(C, 8)
        assert len(node.core.proposed) == 2

    def test_leader_with_a_minority_of_equal_digests_proposes_nothing(self) -> None:
        node = Node(leads=True, voters=JointConfig([ME, B, C, D, E]))
        node.digests.passed(8, RIGHT)
        node.report(B, 8)
        node.now_s = 100.0
        node.digests.tick()
        assert node.core.proposed == []

    @pytest.mark.parametrize("obstacle", ["takes", "room"])
    def test_leader_that_takes_no_entries_proposes_with_a_later_tick(self, obstacle: str) -> None:
        node = Node(leads=True)
        setattr(node.core if obstacle == "takes" else node, obstacle, False)
        node.digests.passed(8, RIGHT)
        node.report(B, 8)
        assert node.core.proposed == []
        setattr(node.core if obstacle == "takes" else node, obstacle, True)
        node.digests.tick()
        assert len(node.core.proposed) == 1

    def test_leader_of_a_new_term_starts_from_its_own_points(self) -> None:
        node = Node()
        node.digests.passed(8, RIGHT)
        node.lead()
        node.report(C, 8)
        assert [entry.point for entry in node.core.proposed] == [8]

    def test_leader_forgets_the_entry_in_flight_with_its_leadership(self) -> None:
        node = Node(leads=True)
        node.digests.passed(8, RIGHT)
        node.report(B, 8)
        node.core.state, node.core.leader = StateType.FOLLOWER, C
        node.digests.leader_changed()
        node.report(B, 8)
        node.lead()
        node.report(B, 8)
        assert [entry.point for entry in node.core.proposed] == [8, 8]

    def test_leader_leaves_out_removed_members(self) -> None:
        node = Node(leads=True)
        node.report(C, 8, WRONG)
        node.core.voters = JointConfig([ME, B])
        node.digests.passed(8, RIGHT)
        node.report(B, 8)
        assert set(node.core.proposed[0].by_member()) == {ME, B}

    def test_leader_holds_a_bounded_number_of_points(self) -> None:
        node = Node(leads=True)
        for number in range(1, 3 * POINTS_KEPT):
            node.report(B, 8 * number, WRONG)
        assert len(node.digests._reports) == POINTS_KEPT

    @pytest.mark.parametrize("point", [0, -8, 9, 1008, 2**64])
    def test_leader_counts_reports_of_impossible_points(self, point: int) -> None:
        node = Node(leads=True)
        node.report(B, point)
        assert (node.digests.ignored, node.digests._reports) == (1, {})

    def test_leader_counts_reports_of_strangers_and_of_wrong_sizes(self) -> None:
        node = Node(leads=True)
        node.report(D, 8)
        node.digests.on_report(B, DigestReport(8, VERSION, bytes(17)))
        assert (node.digests.ignored, node.digests._reports) == (2, {})

    def test_leader_ignores_reports_of_another_version(self) -> None:
        node = Node(leads=True)
        node.digests.on_report(B, DigestReport(8, VERSION + 1, made(RIGHT)))
        assert (node.digests.ignored, node.digests._reports) == (0, {})

    def test_follower_ignores_reports(self) -> None:
        node = Node()
        node.report(C, 8)
        assert node.digests._reports == {}
