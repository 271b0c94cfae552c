"""When a start of a node may take part."""

from __future__ import annotations

import pytest

from syncline.consensus.types import MembershipState, NodeId
from syncline.node.starts.confirmation import Confirmation

PATIENCE_S = 1.0


class World:
    """Node 1, with a log, of the voters given."""

    def __init__(self, *voters: NodeId, outgoing: tuple[NodeId, ...] = (), has_log: bool = True) -> None:
        self.state = MembershipState(voters=voters, voters_outgoing=outgoing)
        self.refused_by: list[NodeId] = []
        self.caught_up = True
        self.start = Confirmation(
            1,
            lambda: self.state,
            lambda: self.refused_by,
            caught_up=lambda: self.caught_up,
            has_log=has_log,
            patience_s=PATIENCE_S,
        )

    def needed(self, *peers: NodeId) -> int:
        """How many of the peers, in this order, must welcome the start."""
        for count, peer in enumerate(peers, 1):
            before = self.start.withheld
            self.start.welcomed(peer)
            assert before
            assert self.start.withheld != self.start.confirmed
            if self.start.confirmed:
                return count
        raise AssertionError("never confirmed")


@pytest.mark.parametrize(("voters", "needed"), [((1, 2), 1), ((1, 2, 3), 2), ((1, 2, 3, 4), 3), ((1, 2, 3, 4, 5), 3)])
def test_start_is_confirmed_by_a_quorum_without_the_node(voters: tuple[NodeId, ...], needed: int) -> None:
    """So that no copy of it finds a quorum: the node's own word is no knowledge of others."""
    assert World(*voters).needed(*voters[1:]) == needed


def test_start_needs_a_quorum_of_both_halves_of_a_joint_membership() -> None:
    assert World(1, 2, 3, outgoing=(1, 4, 5)).needed(2, 3, 4, 5) == 4


def test_welcome_of_no_voter_confirms_nothing() -> None:
    world = World(1, 2, 3)
    for peer in (4, 5, 6, 2):
        world.start.welcomed(peer)
    assert not world.start.confirmed


def test_start_waits_for_an_election_timeout_and_no_longer() -> None:
    """Fewer members may be left: with this node they can be a quorum."""
    world = World(1, 2, 3)
    world.start.welcomed(2)
    assert world.start.look(10.0)
    assert world.start.look(10.0 + PATIENCE_S - 0.01)
    assert not world.start.look(10.0 + PATIENCE_S)
    assert not world.start.withheld
    assert not world.start.confirmed
    world.start.welcomed(3)
    assert world.start.confirmed


def test_start_that_a_member_refuses_waits_until_a_quorum_welcomes_it() -> None:
    """Also if it took part before: there is another copy, and no quorum has ruled that one out."""
    world = World(1, 2, 3, 4, 5)
    world.start.welcomed(2)
    assert world.start.look(0.0)
    assert not world.start.look(2 * PATIENCE_S)
    world.refused_by = [5]
    assert world.start.look(100.0)
    world.start.welcomed(3)
    assert world.start.look(200.0)
    world.start.welcomed(4)
    assert not world.start.look(300.0)


def test_node_that_needs_no_confirmation_takes_part_at_once() -> None:
    """The only voter, a node without a log, and one that is no voter."""
    alone = World(1)
    assert not alone.start.look(0.0)
    new = World(has_log=False)
    assert not new.start.withheld
    assert not new.start.look(0.0)
    learner = World(2, 3, 4)
    assert not learner.start.look(0.0)


@pytest.mark.parametrize("voters", [(), (1,), (1, 2), (2, 3)])
def test_older_membership_confirms_no_start(voters: tuple[NodeId, ...]) -> None:
    """A node that applies its log knows a membership of before, perhaps one in which it was no voter."""
    world = World(*voters)
    world.caught_up = False
    world.start.welcomed(2)
    assert world.start.look(0.0)
    world.caught_up, world.state = True, MembershipState(voters=(1, 2, 3, 4, 5))
    assert world.start.look(PATIENCE_S / 2)
    for peer in (3, 4):
        assert not world.start.confirmed
        world.start.welcomed(peer)
    assert world.start.confirmed


def test_start_that_applies_a_long_log_waits_no_longer_than_others() -> None:
    """The others may need its vote meanwhile."""
    world = World(1, 2, 3)
    world.caught_up = False
    assert world.start.look(0.0)
    assert not world.start.look(PATIENCE_S)
    assert not world.start.confirmed
