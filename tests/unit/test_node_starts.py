"""The rule on starts: what a history proves about a data directory."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.node.starts.guard import convicted_by
from syncline.node.starts.incarnations import (
    MAX_COUNT,
    MAX_HISTORY,
    RANDOM_BITS,
    Origin,
    judge,
    next_incarnation,
    start_count,
)
from syncline.storage.datadir import Identity


def start(count: int, random_bits: int) -> int:
    return count << RANDOM_BITS | random_bits


def test_incarnation_counts_and_keeps_the_newest() -> None:
    """The count goes up by one with each start, the oldest are dropped, and the number always fits in 63 bits."""
    history: tuple[int, ...] = ()
    for number in range(1, 2 * MAX_HISTORY):
        history = next_incarnation(history, number)
        assert history[0] == start(number, number)
        assert len(history) == min(number, MAX_HISTORY)
    assert next_incarnation((start(MAX_COUNT, 1),), 2**RANDOM_BITS - 1)[0] < 2**63


@pytest.mark.parametrize(
    ("known", "presented", "history", "origin"),
    [
        (0, start(1, 7), (), Origin.LEGITIMATE),
        (start(5, 1), start(5, 1), (), Origin.LEGITIMATE),
        (start(5, 1), start(6, 2), (start(5, 1), start(4, 9)), Origin.LEGITIMATE),
        (start(5, 1), start(4, 3), (start(3, 1),), Origin.OLDER),
        (start(5, 1), start(5, 2), (start(4, 9),), Origin.FORKED),
        (start(5, 1), start(7, 4), (start(6, 3), start(5, 2), start(4, 9)), Origin.FORKED),
        (start(1, 1), start(2, 2), (), Origin.FORKED),
        (start(1, 1), start(40, 2), tuple(start(count, 2) for count in range(39, 8, -1)), Origin.LEGITIMATE),
        (start(9, 1), start(40, 2), tuple(start(count, 2) for count in range(39, 8, -1)), Origin.FORKED),
    ],
)
def test_judge_compares_known_start_with_history(
    known: int, presented: int, history: tuple[int, ...], origin: Origin
) -> None:
    """The table in the head of `node.starts.incarnations`, and the end of what a history holds."""
    assert judge(known, presented, history) is origin


@st.composite
def courses(draw: st.DrawFn) -> list[tuple[str, int, int]]:
    """Starts of directories, copies and rollbacks among three, and greetings to two members."""
    steps = st.tuples(
        st.sampled_from(["start", "start", "start", "copy", "greet", "greet"]), st.integers(0, 2), st.integers(0, 2)
    )
    return draw(st.lists(steps, max_size=120))


@given(courses())
def test_judge_convicts_just_directories_that_lack_a_start(course: list[tuple[str, int, int]]) -> None:
    """A member refuses a directory if and only if the newest start that it knows is not in the directory's past, as far
    back as the history reaches. A chain of starts that was never put back is therefore never refused."""
    kept: list[tuple[int, ...]] = [(), (), ()]
    past: list[set[int]] = [set(), set(), set()]
    known = [0, 0, 0]
    number = 0
    for what, one, other in course:
        if what == "start":
            number += 1
            kept[one] = next_incarnation(kept[one], number * 2654435761 % 2**RANDOM_BITS)
            past[one].add(kept[one][0])
        elif what == "copy":  # `one` is put back to, or becomes, what `other` is now
            kept[one], past[one] = kept[other], set(past[other])
        elif kept[one]:
            presented, history = kept[one][0], kept[one][1:]
            sound = judge(known[other], presented, history) is Origin.LEGITIMATE
            forgotten = start_count(known[other]) < start_count(kept[one][-1])
            assert sound == (known[other] == 0 or known[other] in past[one] or forgotten)
            if sound:
                known[other] = max(known[other], presented)


def test_own_registry_entry_convicts_a_directory_that_lacks_it() -> None:
    """The log tells a node of its own later starts, and of one on a copy, too."""
    identity = Identity(1, 2, "a", directory_id=3, incarnations=(start(3, 50), start(2, 1), start(1, 1)))
    assert not convicted_by(0, identity)
    assert not convicted_by(start(2, 1), identity)
    assert not convicted_by(start(3, 50), identity)
    assert convicted_by(start(3, 49), identity)
    assert convicted_by(start(3, 51), identity)
    assert convicted_by(start(4, 1), identity)
    assert convicted_by(start(2, 2), identity)
