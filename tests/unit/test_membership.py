"""Changes of the membership: what follows from what, what is refused, and that quorums never part."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.consensus.membership import (
    Changer,
    Configuration,
    MembershipRefused,
    ProgressMap,
    decode_change,
    encode_change,
    enters_joint,
    leaves_joint,
    restore,
)
from syncline.consensus.quorum import JointConfig, VoteResult
from syncline.consensus.types import (
    LOCAL_APPEND,
    LOCAL_APPLY,
    ChangeType,
    EntryType,
    LogEntry,
    MembershipChange,
    MembershipState,
    SingleChange,
    Transition,
)

ADD, REMOVE, LEARN, UPDATE = (
    ChangeType.ADD_NODE,
    ChangeType.REMOVE_NODE,
    ChangeType.ADD_LEARNER_NODE,
    ChangeType.UPDATE_NODE,
)


def change(*singles: tuple[ChangeType, int], transition: Transition = Transition.AUTO) -> MembershipChange:
    return MembershipChange(transition, tuple(SingleChange(kind, node_id) for kind, node_id in singles))


def after(state: MembershipState, *changes: MembershipChange) -> Configuration:
    configuration, progress = restore(state, 5)
    for one in changes:
        configuration, progress = Changer(configuration, progress, 5).change(one)
    return configuration


THREE = MembershipState(voters=(1, 2, 3))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ([change((ADD, 4))], "voters=(1 2 3 4)"),
        ([change((REMOVE, 3))], "voters=(1 2)"),
        ([change((LEARN, 4))], "voters=(1 2 3) learners=(4)"),
        ([change((LEARN, 4)), change((ADD, 4))], "voters=(1 2 3 4)"),
        ([change((LEARN, 3))], "voters=(1 2) learners=(3)"),
        ([change((UPDATE, 3))], "voters=(1 2 3)"),
        ([change((REMOVE, 9))], "voters=(1 2 3)"),
        ([change((ADD, 0))], "voters=(1 2 3)"),
        ([change((ADD, 4), (REMOVE, 1))], "voters=(2 3 4)&&(1 2 3) autoleave"),
        ([change((ADD, 4), transition=Transition.JOINT_IMPLICIT)], "voters=(1 2 3 4)&&(1 2 3) autoleave"),
        ([change((ADD, 4), transition=Transition.JOINT_EXPLICIT)], "voters=(1 2 3 4)&&(1 2 3)"),
        ([change((ADD, 4), (LEARN, 1))], "voters=(2 3 4)&&(1 2 3) learners_next=(1) autoleave"),
        ([change((ADD, 4), (LEARN, 1)), change()], "voters=(2 3 4) learners=(1)"),
        ([change((ADD, 4), (REMOVE, 1)), change()], "voters=(2 3 4)"),
    ],
)
def test_what_follows_from_three_voters(changes: list[MembershipChange], text: str) -> None:
    assert str(after(THREE, *changes)) == text


@pytest.mark.parametrize(
    ("state", "changes", "reason"),
    [
        (MembershipState(voters=(1,)), [change((REMOVE, 1))], "removed all voters"),
        (THREE, [change()], "can't leave a non-joint config"),
        (
            THREE,
            [change((ADD, 4), (ADD, 5)), change((ADD, 6))],
            "can't apply simple config change in joint config",
        ),
        (THREE, [change((ADD, 4), (ADD, 5)), change((ADD, 6), (ADD, 7))], "config is already joint"),
        (MembershipState(), [change((ADD, 1), (ADD, 2))], "can't make a zero-voter config joint"),
    ],
)
def test_what_is_refused_and_why(state: MembershipState, changes: list[MembershipChange], reason: str) -> None:
    with pytest.raises(MembershipRefused, match=reason):
        after(state, *changes)


@pytest.mark.parametrize("node_id", [-1, 2**63, LOCAL_APPLY, LOCAL_APPEND])
def test_membership_with_an_id_that_no_node_has_is_refused(node_id: int) -> None:
    """It would be sent what is addressed to the node's own storage: a hard state without a vote, for one."""
    for kind in (ADD, LEARN, REMOVE):
        for transition in (Transition.AUTO, Transition.JOINT_IMPLICIT):
            with pytest.raises(MembershipRefused, match="not the id of a node"):
                after(THREE, change((kind, node_id), transition=transition))
    for state in (MembershipState(voters=(node_id,)), MembershipState(voters=(1,), learners=(node_id,))):
        with pytest.raises(MembershipRefused, match="not the id of a node"):
            restore(state, 5)


def test_a_simple_change_of_two_voters_is_refused() -> None:
    configuration, progress = restore(THREE, 5)
    with pytest.raises(MembershipRefused, match="more than one voter changed without entering joint config"):
        Changer(configuration, progress, 5).simple(change((ADD, 4), (REMOVE, 1)).changes)


def test_a_refused_change_changes_nothing() -> None:
    configuration, progress = restore(MembershipState(voters=(1,), learners=(2,)), 5)
    with pytest.raises(MembershipRefused):
        Changer(configuration, progress, 5).simple(change((ADD, 2), (REMOVE, 1), (REMOVE, 2)).changes)
    assert str(configuration) == "voters=(1) learners=(2)"
    assert progress.keys() == {1, 2}
    assert progress[2].learner


def test_promoted_learner_keeps_progress_and_new_voter_starts_late() -> None:
    configuration, progress = restore(MembershipState(voters=(1,), learners=(2,)), 5)
    progress[2].maybe_update(4)
    _, progress = Changer(configuration, progress, 9).enter_joint(True, change((ADD, 2), (ADD, 3)).changes)
    assert (progress[2].match_index, progress[2].next_index, progress[2].learner) == (4, 5, False)
    assert (progress[3].match_index, progress[3].next_index) == (0, 9)


def test_a_member_of_the_outgoing_half_keeps_its_progress_until_the_end() -> None:
    configuration, progress = restore(THREE, 5)
    configuration, progress = Changer(configuration, progress, 5).enter_joint(False, change((REMOVE, 3)).changes)
    assert 3 in progress
    _, progress = Changer(configuration, progress, 5).leave_joint()
    assert 3 not in progress


def test_member_removed_and_added_again_gets_new_progress() -> None:
    configuration, progress = restore(THREE, 5)
    progress[3].maybe_update(5)
    configuration, progress = Changer(configuration, progress, 5).simple(change((REMOVE, 3)).changes)
    _, progress = Changer(configuration, progress, 5).simple(change((ADD, 3)).changes)
    assert progress[3].match_index == 0


# -- properties ---------------------------------------------------------------------------------------------------

singles = st.builds(SingleChange, st.sampled_from(ChangeType), st.integers(1, 6))
changes = st.builds(
    MembershipChange, st.sampled_from(Transition), st.lists(singles, max_size=4).map(tuple), st.just(b"")
)


def walk(steps: list[MembershipChange]) -> list[tuple[Configuration, ProgressMap]]:
    """The memberships that `steps` lead through, from a single voter on; what is refused is left out."""
    places = [restore(MembershipState(voters=(1,)), 5)]
    for step in steps:
        try:
            places.append(Changer(*places[-1], 5).change(step))
        except MembershipRefused:
            continue
    return places


@given(st.lists(changes, max_size=12))
def test_two_successive_memberships_never_have_disjoint_quorums(steps: list[MembershipChange]) -> None:
    places = walk(steps)
    for (before, _), (now, _) in pairwise(places):
        everybody = sorted(before.voters.voters | now.voters.voters)
        for bits in range(1 << len(everybody)):
            yes = {voter: bool(bits >> i & 1) for i, voter in enumerate(everybody)}
            no = {voter: not vote for voter, vote in yes.items()}
            both = before.voters.vote_result(yes) is now.voters.vote_result(no) is VoteResult.WON
            assert not both, f"{before} and {now} could decide apart"


@given(st.lists(changes, max_size=12))
def test_every_membership_can_be_restored_from_its_state(steps: list[MembershipChange]) -> None:
    for configuration, progress in walk(steps):
        again, tracked = restore(configuration.state(), 5)
        assert again == configuration
        assert tracked.keys() == progress.keys()
        assert {i for i, one in tracked.items() if one.learner} == {i for i, one in progress.items() if one.learner}


def test_a_state_is_restored_whatever_its_order() -> None:
    configuration, _ = restore(MembershipState(voters=(3, 1), learners=(5, 4)), 5)
    assert configuration.state() == MembershipState(voters=(1, 3), learners=(4, 5))


@pytest.mark.parametrize(
    "state",
    [
        MembershipState(learners=(1,)),
        MembershipState(voters=(1,), learners=(1,)),
        MembershipState(voters=(1, 1)),
        MembershipState(voters=(1,), learners_next=(2,)),
        MembershipState(voters=(1,), auto_leave=True),
        MembershipState(voters=(1,), voters_outgoing=(2,), learners_next=(3,)),
        MembershipState(voters=(1,), voters_outgoing=(2,), learners=(2,)),
        MembershipState(voters_outgoing=(1,)),
        MembershipState(voters=(1, 0)),
    ],
)
def test_a_state_that_no_changes_lead_to_is_refused(state: MembershipState) -> None:
    with pytest.raises(MembershipRefused):
        restore(state, 5)


# -- as the data of entries ---------------------------------------------------------------------------------------


@given(changes)
def test_a_change_survives_its_encoding(one: MembershipChange) -> None:
    assert decode_change(LogEntry(1, 1, EntryType.CONF_CHANGE_V2, encode_change(one))) == one


def test_leaving_a_joint_membership_is_empty_data_unless_it_has_a_context() -> None:
    assert encode_change(MembershipChange()) == b""
    with_context = MembershipChange(context=b"why")
    assert decode_change(LogEntry(1, 1, EntryType.CONF_CHANGE_V2, encode_change(with_context))) == with_context
    assert leaves_joint(with_context)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (EntryType.CONF_CHANGE_V2, b"nonsense"),
        (EntryType.CONF_CHANGE, b""),
        (EntryType.CONF_CHANGE, encode_change(change((ADD, 1), (ADD, 2)))),
        (EntryType.CONF_CHANGE, encode_change(change((ADD, 1), transition=Transition.JOINT_EXPLICIT))),
        (EntryType.CONF_CHANGE_V2, encode_change(change((ADD, -1)))),
    ],
)
def test_data_that_is_not_a_change_is_a_value_error(kind: EntryType, data: bytes) -> None:
    with pytest.raises(ValueError, match="membership change"):
        decode_change(LogEntry(1, 1, kind, data))


def test_joint_membership_is_for_several_changes_or_on_request() -> None:
    assert not enters_joint(change((ADD, 1)))
    assert enters_joint(change((ADD, 1), (ADD, 2)))
    assert enters_joint(change((ADD, 1), transition=Transition.JOINT_IMPLICIT))
    assert not enters_joint(change())


def test_the_empty_membership_has_no_joint_half() -> None:
    configuration, progress = restore(MembershipState(), 0)
    assert configuration == Configuration(JointConfig())
    assert progress == {}
