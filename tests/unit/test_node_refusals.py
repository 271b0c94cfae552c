"""What refusals of peers prove: a quorum of the voters must say it."""

from __future__ import annotations

import pytest

from syncline.consensus.types import MembershipState
from syncline.node.refusals import is_believed, refusing, removal_confirmed
from syncline.transport.messages import PeerStats, Refusal, RefusalCode


def peer(refusal: Refusal | None) -> PeerStats:
    return PeerStats(
        connected=refusal is None,
        connected_since_s=None,
        last_contact_s=None,
        address="h:1",
        sent_bytes=0,
        received_bytes=0,
        sent_messages=0,
        received_messages=0,
        dropped_messages=0,
        reconnects=0,
        rtt_s=None,
        last_error=None,
        last_refusal=refusal,
    )


def removed(index: int, *voters: int) -> PeerStats:
    return peer(Refusal("removed", RefusalCode.REMOVED, index, voters))


OTHER = peer(Refusal("directory", RefusalCode.DIRECTORY))
NONE = peer(None)


def test_refusals_are_told_apart_by_code() -> None:
    """Each code means something else, and an unknown one means nothing."""
    stats = {1: OTHER, 2: removed(5, 1, 2, 3), 3: NONE, 4: peer(Refusal("no", "a later code"))}
    assert set(refusing(stats, RefusalCode.REMOVED)) == {2}
    assert set(refusing(stats, RefusalCode.DIRECTORY)) == {1}
    assert refusing(stats, RefusalCode.OLDER_START) == {}


@pytest.mark.parametrize(
    ("voters", "outgoing", "voices", "believed"),
    [
        ((1, 2, 3), (), {2}, False),
        ((1, 2, 3), (), {2, 3}, True),
        ((1, 2, 3), (), {2, 9}, False),
        ((1, 2, 3, 4, 5), (), {2, 3}, False),
        ((1, 2, 3, 4, 5), (), {2, 3, 4}, True),
        ((1, 2), (), {2}, True),
        ((1,), (), {2, 3, 4}, False),
        ((2, 3), (), {2}, False),
        ((2, 3), (), {2, 3}, True),
        ((1, 2, 3), (1, 4, 5), {2, 3}, False),
        ((1, 2, 3), (1, 4, 5), {2, 3, 4, 5}, True),
        ((1,), (1, 2, 3), {2, 3}, False),
        ((2, 3, 4), (), {2, 3}, True),
        ((1, 2), (), {3}, False),
        ((), (), {9}, False),
    ],
)
def test_refusal_is_believed_of_a_quorum(
    voters: tuple[int, ...], outgoing: tuple[int, ...], voices: set[int], believed: bool
) -> None:
    """This node is 1. Words of nodes that are no voters never count."""
    membership = MembershipState(voters=voters, voters_outgoing=outgoing)
    assert is_believed(voices, membership, 1) is believed
    assert is_believed(voices, membership, 1, nothing_to_lose=True)
    assert not is_believed((), membership, 1, nothing_to_lose=True)


def test_removal_is_confirmed_by_a_quorum_of_the_new_voters() -> None:
    """{1,2,3,4,5} became {1,4,5}: 2 must not leave on the word of 1 alone."""
    told = removed(9, 1, 4, 5)
    assert not removal_confirmed({1: told, 3: NONE, 4: NONE, 5: NONE})
    assert removal_confirmed({1: told, 3: NONE, 4: told, 5: NONE})


def test_removal_is_confirmed_against_the_newest_membership() -> None:
    """A peer that is behind tells an older one."""
    stats = {1: removed(7, 1, 2), 3: removed(9, 3, 4, 5)}
    assert not removal_confirmed(stats)
    assert removal_confirmed(stats | {4: removed(7, 1, 2)})


def test_removal_known_to_be_settled_is_confirmed_at_once() -> None:
    """The node may have no address of most of the new voters."""
    assert removal_confirmed({1: removed(9), 2: removed(10, 3, 4, 5)})


def test_removal_is_not_confirmed_by_other_refusals() -> None:
    assert not removal_confirmed({})
    assert not removal_confirmed({1: OTHER, 2: NONE})
