"""Quorum arithmetic, against a naive version and against the thesis."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.consensus.quorum import INFINITE_INDEX, JointConfig, MajorityConfig, VoteResult

ids = st.integers(1, 9)
voters = st.frozensets(ids, max_size=7)
acknowledged = st.dictionaries(ids, st.integers(1, 20))
ballots = st.dictionaries(ids, st.booleans())


def naive_committed_index(config: MajorityConfig, acked: dict[int, int]) -> int:
    """The highest index that some majority, found by trying all of them, holds."""
    size = len(config) // 2 + 1
    return max(min(acked.get(voter, 0) for voter in majority) for majority in combinations(config, size))


@given(voters.filter(bool), acknowledged)
def test_committed_index_equals_the_naive_version(members: frozenset[int], acked: dict[int, int]) -> None:
    config = MajorityConfig(members)
    assert config.committed_index(acked) == naive_committed_index(config, acked)


@given(voters, voters, acknowledged)
def test_a_joint_quorum_commits_what_both_halves_commit(
    incoming: frozenset[int], outgoing: frozenset[int], acked: dict[int, int]
) -> None:
    halves = MajorityConfig(incoming), MajorityConfig(outgoing)
    assert JointConfig(*halves).committed_index(acked) == min(half.committed_index(acked) for half in halves)


@given(voters, ballots)
def test_vote_is_decided_when_missing_votes_can_not_change_it(members: frozenset[int], votes: dict[int, bool]) -> None:
    config = MajorityConfig(members)
    best = sum(votes.get(voter, True) for voter in members)
    worst = sum(votes.get(voter, False) for voter in members)
    need = len(members) // 2 + 1 if members else 0
    expected = VoteResult.WON if worst >= need else VoteResult.LOST if best < need else VoteResult.PENDING
    assert config.vote_result(votes) is expected


@given(voters, voters, ballots)
def test_the_halves_of_a_joint_quorum_can_be_swapped(
    incoming: frozenset[int], outgoing: frozenset[int], votes: dict[int, bool]
) -> None:
    one = JointConfig(incoming, outgoing).vote_result(votes)
    other = JointConfig(outgoing, incoming).vote_result(votes)
    assert one is other


@given(voters.filter(bool), voters, ballots)
def test_no_two_disjoint_sets_of_voters_win(
    incoming: frozenset[int], outgoing: frozenset[int], votes: dict[int, bool]
) -> None:
    config = JointConfig(incoming, outgoing)
    yes = {voter: True for voter, vote in votes.items() if vote}
    no = {voter: True for voter, vote in votes.items() if not vote}
    assert not (config.vote_result(yes) is VoteResult.WON and config.vote_result(no) is VoteResult.WON)


def test_an_empty_quorum_commits_everything_and_wins_every_vote() -> None:
    assert MajorityConfig().committed_index({}) == INFINITE_INDEX
    assert MajorityConfig().vote_result({}) is VoteResult.WON
    assert JointConfig().vote_result({}) is VoteResult.WON


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (JointConfig(), "()"),
        (JointConfig([3, 1, 2]), "(1 2 3)"),
        (JointConfig([10, 9], [1]), "(9 10)&&(1)"),
    ],
)
def test_quorums_are_written_in_order(config: JointConfig, text: str) -> None:
    assert str(config) == text


def test_only_one_voter_without_another_half_decides_alone() -> None:
    assert JointConfig([1]).singleton
    assert not JointConfig([1], [1]).singleton
    assert not JointConfig([1, 2]).singleton


def test_quorums_are_compared_by_value() -> None:
    assert JointConfig([1, 2], [3]) == JointConfig([2, 1], [3])
    assert JointConfig([1, 2], [3]) != JointConfig([1, 2])
    assert len({MajorityConfig([1]), MajorityConfig([1]), MajorityConfig([2])}) == 2


def test_the_drawing_gives_voters_at_one_index_bars_of_one_length() -> None:
    drawing = MajorityConfig([1, 2, 3, 4]).describe({1: 5, 2: 7, 3: 5})
    assert drawing.splitlines() == [
        "        idx",
        "x>        5    (id=1)",
        "xxx>      7    (id=2)",
        "x>        5    (id=3)",
        "?         0    (id=4)",
    ]
