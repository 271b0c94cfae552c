"""What a leader knows of a follower: the states, the limits on what is under way, and the steps back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from syncline.consensus.progress import Inflights, Progress, ProgressState


def progress(match: int, next_index: int, state: ProgressState, *, window: int = 2, window_bytes: int = 0) -> Progress:
    one = Progress(
        match_index=match, next_index=next_index, inflights=Inflights(window, window_bytes), recent_active=True
    )
    one.state = state
    return one


@pytest.mark.parametrize(
    ("messages", "limit", "full"),
    [([], 0, False), ([10], 0, False), ([10, 10], 0, True), ([10], 10, True), ([9], 10, False), ([99], 10, True)],
)
def test_the_window_is_full_at_its_count_or_its_bytes(messages: list[int], limit: int, full: bool) -> None:
    window = Inflights(2, limit)
    for index, size in enumerate(messages):
        window.add(index, size)
    assert window.full is full


def test_an_acknowledgement_frees_every_append_that_it_covers() -> None:
    window = Inflights(5, 100)
    for index in (3, 6, 9):
        window.add(index, 10)
    window.free_up_to(2)
    assert (len(window), window.bytes) == (3, 30)
    window.free_up_to(7)
    assert (len(window), window.bytes) == (1, 10)
    window.free_up_to(100)
    assert (len(window), window.bytes) == (0, 0)


def test_window_with_other_limits_keeps_what_is_under_way() -> None:
    window = Inflights(4, 1000)
    for index in (1, 2):
        window.add(index, 100)
    full = []
    for messages, size_bytes in ((2, 1000), (4, 200), (4, 0)):
        window.limit(messages, size_bytes)
        full.append(window.full)
    assert full == [True, True, False], "0: no limit"
    assert (len(window), window.bytes) == (2, 200)


def test_adding_to_a_full_window_is_a_fault() -> None:
    window = Inflights(1)
    window.add(1, 0)
    with pytest.raises(AssertionError):
        window.add(2, 0)


@given(st.lists(st.one_of(st.tuples(st.just("add"), st.integers(0, 9)), st.tuples(st.just("free"), st.integers(0, 9)))))
def test_the_window_equals_a_list(steps: list[tuple[str, int]]) -> None:
    window, model, index = Inflights(4, 20), list[tuple[int, int]](), 0
    for what, number in steps:
        if what == "add" and not window.full:
            index += 1
            window.add(index, number)
            model.append((index, number))
        elif what == "free":
            window.free_up_to(index - number)
            model = [item for item in model if item[0] > index - number]
        assert len(window) == len(model)
        assert window.bytes == sum(size for _, size in model)
        assert window.full is (len(model) >= 4 or window.bytes >= 20)


def test_a_probe_with_entries_pauses_until_an_answer() -> None:
    one = progress(3, 4, ProgressState.PROBE)
    one.sent_entries(0, 0)
    assert str(one) == "StateProbe match=3 next=4"
    one.sent_entries(5, 50)  # a probe does not run ahead
    assert str(one) == "StateProbe match=3 next=4 paused"
    assert one.maybe_update(8)
    assert str(one) == "StateProbe match=8 next=9"


def test_a_pipelined_append_runs_ahead_and_pauses_where_the_window_is_full() -> None:
    one = progress(3, 4, ProgressState.REPLICATE)
    one.sent_entries(2, 0)
    assert (one.next_index, one.paused) == (6, False)
    one.sent_entries(1, 0)
    assert (one.next_index, one.paused) == (7, True)
    one.paused_by_flow = False  # a heartbeat was answered
    one.sent_entries(0, 0)
    assert one.paused


def test_after_a_snapshot_a_probe_starts_behind_it() -> None:
    one = progress(3, 4, ProgressState.PROBE)
    one.become_snapshot(20)
    assert one.paused
    assert (one.next_index, one.pending_snapshot, one.sent_commit) == (21, 20, 20)
    one.become_probe()
    assert (one.next_index, one.pending_snapshot, one.paused) == (21, 0, False)


def test_replication_starts_behind_the_match_and_drops_inflights() -> None:
    one = progress(3, 4, ProgressState.REPLICATE)
    one.sent_entries(3, 10)
    one.sent_commit = 6
    one.become_probe()
    assert (one.next_index, len(one.inflights), one.sent_commit) == (4, 0, 3)


@pytest.mark.parametrize(
    ("index", "news", "match", "next_index"), [(2, False, 3, 5), (3, False, 3, 5), (4, True, 4, 5), (6, True, 6, 7)]
)
def test_only_a_higher_acknowledgement_is_news(index: int, news: bool, match: int, next_index: int) -> None:
    one = progress(3, 5, ProgressState.REPLICATE)
    assert one.maybe_update(index) is news
    assert (one.match_index, one.next_index) == (match, next_index)


@pytest.mark.parametrize(
    ("state", "match", "next_index", "rejected", "hint", "accepted", "expected"),
    [
        (ProgressState.REPLICATE, 5, 10, 5, 5, False, 10),  # old
        (ProgressState.REPLICATE, 5, 10, 4, 4, False, 10),
        (ProgressState.REPLICATE, 5, 10, 9, 9, True, 6),  # back to what is known, whatever the hint
        (ProgressState.PROBE, 0, 10, 11, 11, False, 10),  # not the probe that is out
        (ProgressState.PROBE, 0, 10, 9, 9, True, 9),
        (ProgressState.PROBE, 0, 10, 9, 2, True, 3),
        (ProgressState.PROBE, 0, 2, 1, 0, True, 1),
        (ProgressState.PROBE, 4, 10, 9, 1, True, 5),  # never below what matches
        (ProgressState.PROBE, 0, 10, 9, 99, True, 9),
    ],
)
def test_a_rejection_steps_back(
    state: ProgressState, match: int, next_index: int, rejected: int, hint: int, accepted: bool, expected: int
) -> None:
    one = progress(match, next_index, state)
    assert one.maybe_decrease(rejected, hint) is accepted
    assert one.next_index == expected
    assert one.next_index > one.match_index


@pytest.mark.parametrize(
    ("sent", "next_index", "commit", "bump"),
    [(5, 10, 6, True), (5, 10, 5, False), (9, 10, 12, False), (8, 10, 12, True), (5, 10, 4, False)],
)
def test_a_commit_index_is_worth_sending_where_the_follower_could_use_it(
    sent: int, next_index: int, commit: int, bump: bool
) -> None:
    one = progress(3, next_index, ProgressState.REPLICATE)
    one.sent_commit = sent
    assert one.can_bump_commit(commit) is bump


def test_a_copy_changes_on_its_own() -> None:
    one = progress(3, 4, ProgressState.REPLICATE)
    one.sent_entries(1, 7)
    twin = one.copy()
    twin.sent_entries(1, 7)
    twin.learner = True
    assert str(one) == "StateReplicate match=3 next=5 inflight=1"
    assert str(twin) == "StateReplicate match=3 next=6 learner paused inflight=2[full]"


def test_how_a_progress_is_written() -> None:
    one = Progress(match_index=3, next_index=4)
    assert str(one) == "StateProbe match=3 next=4 inactive"
    one.recent_active = True
    one.become_snapshot(9)
    assert str(one) == "StateSnapshot match=3 next=10 paused pendingSnap=9"
