"""Proposals across a change of leader: which attempts are dead, what is proposed again, and in which order."""

from __future__ import annotations

import asyncio
import random

import pytest

from syncline.errors import DeadlineExceeded, Outcome, Rejected, Superseded, SynclineError
from syncline.node.envelope import DATA
from syncline.node.futures import ApplyFuture, Queued
from syncline.node.proposals import Proposals

PAYLOAD = b"payload"


class Table:
    """The proposals of one node in term 1, and its queue."""

    def __init__(self) -> None:
        self.held = Proposals(random.Random(1), max_bytes=1 << 20)
        assert self.held.open(1)

    def new(self, *, again: bool = True, fence: int = 0) -> ApplyFuture[object]:
        future = self.held.new(asyncio.get_running_loop(), 1, 5.0)
        future.payload, future.fence = (PAYLOAD if again else b""), fence
        return future

    def sent(self, term: int = 1, *, again: bool = True) -> ApplyFuture[object]:
        future = self.new(again=again)
        future.attempt = term
        return future


def numbers(queue: list[Queued]) -> list[int]:
    assert all((kind, payload) == (DATA, PAYLOAD) for _, kind, payload in queue)
    return [waiter.number for waiter, _, _ in queue]


def error_of(future: ApplyFuture[object]) -> SynclineError:
    error = future.exception()
    assert isinstance(error, SynclineError)
    return error


async def test_proposal_unanswered_in_an_older_term_is_proposed_again() -> None:
    table = Table()
    first, second, queued = table.sent(), table.sent(), table.new()
    table.held.placed(second.number, 9, 1)
    assert numbers(table.held.term_applied(2)) == [first.number, second.number]
    assert (second.index, second.attempt, queued.attempt) == (0, 0, 0)
    assert not any(future.done() for future in (first, second, queued))


async def test_proposal_of_the_applied_term_is_not_proposed_again() -> None:
    table = Table()
    table.held.term_applied(1)
    table.sent(2)
    assert table.held.term_applied(2) == []
    assert table.held.term_applied(1) == []


async def test_proposal_met_in_the_batch_of_the_later_term_has_its_answer() -> None:
    """The answers of a batch come before its last term decides."""
    table = Table()
    future = table.sent()
    table.held.resolved(future.number, 7, 1, "answer")
    assert table.held.term_applied(2) == []
    assert await future == "answer"


async def test_proposal_that_is_not_repeated_ends_as_superseded() -> None:
    table = Table()
    future = table.sent(again=False)
    assert table.held.term_applied(2) == []
    error = error_of(future)
    assert isinstance(error, Superseded)
    assert error.outcome is Outcome.NOT_APPLIED
    assert len(table.held) == 0


async def test_proposal_given_up_by_its_caller_is_not_proposed_again() -> None:
    table = Table()
    table.sent().cancel()
    assert table.held.term_applied(2) == []
    assert len(table.held) == 0


async def test_answers_to_an_older_attempt_change_nothing() -> None:
    table = Table()
    future = table.sent(1)
    table.held.term_applied(2)
    for attempt in (1, 0):  # in the queue again
        table.held.placed(future.number, 5, attempt)
        assert table.held.returned(future.number, attempt) is None
        assert table.held.awaiting(future.number, attempt) is None
    future.attempt = 3
    table.held.placed(future.number, 5, 1)
    assert table.held.returned(future.number, 1) is None
    assert (future.index, future.attempt) == (0, 3)
    table.held.placed(future.number, 8, 3)
    assert (future.index, future.term) == (8, 3)


async def test_snapshot_makes_what_was_sent_before_it_unknown() -> None:
    """With a position or without; a position above the snapshot is not in it."""
    table = Table()
    unplaced, below, above, queued = table.sent(), table.sent(), table.sent(), table.new()
    table.held.placed(below.number, 10, 1)
    table.held.placed(above.number, 11, 1)
    table.held.jumped(10)
    for future in (unplaced, below):
        error = error_of(future)
        assert isinstance(error, DeadlineExceeded)
        assert error.outcome is Outcome.UNKNOWN
    assert not above.done()
    assert not queued.done()
    assert numbers(table.held.term_applied(2)) == [above.number]


async def test_queue_waits_until_attempts_of_older_terms_are_decided() -> None:
    table = Table()
    table.sent()
    table.new()
    assert table.held.open(1)
    assert not table.held.open(2)
    assert table.held.open_term == 1
    table.held.term_applied(2)
    assert table.held.open(2)
    assert table.held.open_term == 2


async def test_queue_does_not_wait_for_what_is_never_proposed_again() -> None:
    table = Table()
    table.sent(again=False)
    assert table.held.open(2)


async def test_refused_proposal_waits_for_those_that_were_sent_behind_it() -> None:
    """The leader that refused it may go on leading, and may have taken the later one."""
    table = Table()
    first, second = table.sent(), table.sent()
    returned = table.held.returned(first.number, 1)
    assert returned is not None
    assert numbers([returned]) == [first.number]
    assert table.held.open_term == 0
    assert not table.held.open(1)
    table.held.returned(second.number, 1)
    assert table.held.open(1)
    assert not first.done()


async def test_refused_proposal_waits_for_a_fenced_one_that_was_sent_behind_it() -> None:
    """Else it would come behind what this node proposed later."""
    table = Table()
    first, fenced = table.sent(), table.sent(again=False)
    table.held.returned(first.number, 1)
    assert not table.held.open(1)
    table.held.resolved(fenced.number, 7, 1, None)
    assert table.held.open(1)
    error = error_of(first)
    assert isinstance(error, Superseded)
    assert "in its turn" in str(error)


async def test_refused_proposal_that_was_overtaken_ends_as_superseded() -> None:
    table = Table()
    first, second = table.sent(), table.sent()
    table.held.returned(first.number, 1)
    table.held.resolved(second.number, 7, 1, None)
    assert table.held.open(1)
    assert isinstance(error_of(first), Superseded)


@pytest.mark.parametrize("end", ["snapshot", "deadline"])
async def test_refused_proposal_does_not_follow_an_unknown_one(end: str) -> None:
    """The later one may stand in the log already, although nothing waits for it any more."""
    table = Table()
    first, second, third = table.sent(), table.held.new(asyncio.get_running_loop(), 1, 1.0), table.new()
    second.payload, second.attempt = PAYLOAD, 1
    table.held.returned(first.number, 1)
    assert not table.held.open(1)
    if end == "snapshot":
        table.held.jumped(10)
    else:
        table.held.expire(2.0, 1)
    assert isinstance(error_of(second), DeadlineExceeded)
    assert table.held.open(1)
    assert isinstance(error_of(first), Superseded)
    assert not third.done()


async def test_lost_proposal_that_was_overtaken_ends_as_superseded() -> None:
    """A link that was lost took one message with it, and the next one arrived."""
    table = Table()
    lost, later = table.sent(), table.sent()
    table.held.resolved(later.number, 7, 1, None)
    assert numbers(table.held.term_applied(2)) == [lost.number]
    assert table.held.open(2)
    assert isinstance(error_of(lost), Superseded)


@pytest.mark.parametrize("number", [1, 2**63 - 1])
async def test_entries_of_an_earlier_life_do_not_count_as_later_ones(number: int) -> None:
    table = Table()
    future = table.sent()
    table.held.resolved(number, 7, 1, None)
    table.held.term_applied(2)
    assert table.held.open(2)
    assert not future.done()


async def test_fenced_proposal_is_superseded_in_any_other_term() -> None:
    table = Table()
    current, over, plain = table.new(again=False, fence=2), table.new(again=False, fence=1), table.new()
    table.held.fenced = True
    queue: list[Queued] = [(current, DATA, PAYLOAD), (over, DATA, PAYLOAD), (plain, DATA, PAYLOAD)]
    assert numbers(table.held.within_fence(queue, 2)) == [current.number, plain.number]
    error = error_of(over)
    assert isinstance(error, Superseded)
    assert error.outcome is Outcome.NOT_APPLIED
    assert not table.held.fenced


async def test_refusal_by_the_state_machine_ends_a_proposal_for_good() -> None:
    table = Table()
    future = table.sent()
    table.held.resolved(future.number, 3, 1, Rejected("no"))
    assert table.held.term_applied(2) == []
    assert isinstance(error_of(future), Rejected)
