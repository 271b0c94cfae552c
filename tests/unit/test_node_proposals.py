"""What waits on a node for its answer: proposals, reads, and their deadlines."""

from __future__ import annotations

import asyncio
import pydoc
import random

import pytest

from syncline.consensus.types import ReadState
from syncline.errors import Closed, DeadlineExceeded, Dropped, NoLeader, Outcome, Rejected, Superseded
from syncline.node.futures import ApplyFuture, ReadFuture
from syncline.node.proposals import Proposals
from syncline.node.read_batches import ReadBatches

STEP_S = 0.1


def proposals(max_bytes: int = 1 << 20) -> Proposals:
    return Proposals(random.Random(1), max_bytes=max_bytes)


def new(held: Proposals, deadline_s: float = 1.0, size_bytes: int = 10) -> ApplyFuture[object]:
    return held.new(asyncio.get_running_loop(), size_bytes, deadline_s)


def outcome_of(future: asyncio.Future[object]) -> Outcome:
    error = future.exception()
    assert isinstance(error, Closed | DeadlineExceeded | Dropped | NoLeader | Superseded), error
    return error.outcome


def test_help_of_apply_future_names_index_and_term() -> None:
    text = pydoc.plain(pydoc.render_doc(ApplyFuture))
    for attribute in ("index", "term"):
        assert f"`{attribute}` is" in text


async def test_proposals_end_at_their_deadlines_in_order_and_not_early() -> None:
    held = proposals()
    ended: list[float] = []

    def propose(deadline_s: float) -> None:
        new(held, deadline_s).add_done_callback(lambda _: ended.append(deadline_s))

    for deadline_s in (2.0, 1.0, 3.0, 1.5):
        propose(deadline_s)
    for now_s, expected in ((0.99, []), (1.0, [1.0]), (2.5, [1.0, 1.5, 2.0]), (9.0, [1.0, 1.5, 2.0, 3.0])):
        held.expire(now_s, leader=1)
        await asyncio.sleep(0)
        assert ended == expected
    assert len(held) == 0


async def test_a_later_proposal_with_a_shorter_deadline_ends_in_time() -> None:
    held = proposals()
    long = new(held, 100.0)
    held.expire(5.0, leader=1)
    short = new(held, 6.0)
    held.expire(6.0, leader=1)
    assert short.done()
    assert not long.done()
    short = new(held, 7.0)
    held.expire(7.0, leader=1)
    assert short.done()


async def test_reads_end_at_their_deadlines_in_order_and_not_early() -> None:
    asked = Asked()
    loop = asyncio.get_running_loop()
    ended: list[str] = []

    def read(name: str, deadline_s: float) -> None:
        asked.reads.new(loop, deadline_s, STEP_S).add_done_callback(lambda _: ended.append(name))

    read("asked", 3.05)
    asked.reads.ask(0.0)
    read("late", 2.05)
    read("early", 1.05)
    for now_s, expected in ((1.05, []), (1.11, ["early"]), (9.0, ["early", "late", "asked"])):
        asked.reads.expire(now_s, leader=1)
        await asyncio.sleep(0)
        assert ended == expected
    assert len(asked.reads) == 0


async def test_an_answer_resolves_its_proposal_and_frees_its_share() -> None:
    held = proposals(max_bytes=600)
    future = new(held, deadline_s=3000.0)
    with pytest.raises(Dropped):
        new(held)
    future.attempt = 2
    held.placed(future.number, 7, 2)
    held.resolved(future.number, 7, 2, "answer")
    assert (await future, future.index, future.term, future.response) == ("answer", 7, 2, "answer")
    assert len(held) == 0
    assert not held._placed
    new(held)


async def test_a_refusal_by_the_state_machine_is_raised() -> None:
    held = proposals()
    future = new(held)
    held.resolved(future.number, 1, 1, Rejected("no", code="because"))
    with pytest.raises(Rejected, match="no"):
        await future


async def test_another_entry_in_its_place_means_not_applied() -> None:
    held = proposals()
    future, other = new(held), new(held)
    future.attempt = other.attempt = 1
    held.placed(future.number, 5, 1)
    held.placed(other.number, 6, 1)
    held.passed([5])
    assert isinstance(future.exception(), Superseded)
    assert outcome_of(future) is Outcome.NOT_APPLIED
    assert not other.done()


async def test_proposals_at_one_index_end_each_by_itself() -> None:
    """Leaders of two terms may give two proposals one index: the answer of one must not end the wait of the other."""
    held = proposals()
    older, own, gone = new(held), new(held), new(held)
    older.attempt = gone.attempt = 1
    held.placed(older.number, 5, 1)
    held.placed(gone.number, 5, 1)
    held.appended([own], 5, 2)
    held.refused(gone.number, Dropped("no"))
    held.resolved(own.number, 5, 2, "answer")
    assert await own == "answer"
    assert not older.done()
    held.passed([5])
    assert isinstance(older.exception(), Superseded)
    assert not held._placed
    assert len(held) == 0


async def test_a_snapshot_in_its_place_means_unknown_whichever_word_comes_first() -> None:
    held = proposals()
    before, after = new(held), new(held)
    before.attempt = after.attempt = 1
    held.placed(before.number, 5, 1)
    held.jumped(10)
    held.placed(after.number, 6, 1)
    held.passed([6])
    assert outcome_of(before) is outcome_of(after) is Outcome.UNKNOWN
    assert len(held) == 0


async def test_a_snapshot_leaves_a_cancelled_proposal_alone() -> None:
    held = proposals()
    future = new(held)
    future.attempt = 1
    held.placed(future.number, 5, 1)
    future.cancel()
    held.expire(100.0, 0)
    held.jumped(10)
    assert len(held) == 0


@pytest.mark.parametrize(
    ("sent", "leader", "error", "outcome"),
    [
        (True, 3, DeadlineExceeded, Outcome.UNKNOWN),
        (True, 0, DeadlineExceeded, Outcome.UNKNOWN),
        (False, 3, DeadlineExceeded, Outcome.NOT_APPLIED),
        (False, 0, NoLeader, Outcome.NOT_APPLIED),
    ],
)
async def test_the_deadline_says_what_is_known(
    sent: bool, leader: int, error: type[Exception], outcome: Outcome
) -> None:
    held = proposals()
    future = new(held, deadline_s=1.0)
    future.attempt = 3 if sent else 0
    held.expire(0.9, leader)
    assert not future.done()
    held.expire(1.2, leader)
    assert type(future.exception()) is error
    assert outcome_of(future) is outcome


async def test_a_cancelled_proposal_is_forgotten_at_its_deadline() -> None:
    held = proposals(max_bytes=600)
    new(held, deadline_s=1.0).cancel()
    with pytest.raises(Dropped):
        new(held)
    held.expire(1.2, 0)
    assert len(held) == 0
    new(held)


async def test_fail_all_tells_the_sent_from_the_unsent() -> None:
    held = proposals()
    sent, unsent = new(held), new(held)
    sent.attempt = 3
    held.fail_all(Closed("x"), Closed("x", outcome=Outcome.NOT_APPLIED))
    assert outcome_of(sent) is Outcome.UNKNOWN
    assert outcome_of(unsent) is Outcome.NOT_APPLIED


async def test_numbers_differ_between_runs() -> None:
    first, second = (Proposals(random.Random(seed), max_bytes=9999) for seed in (1, 2))
    assert new(first).number != new(second).number


class Asked:
    """Reads whose questions are recorded."""

    def __init__(self) -> None:
        self.contexts: list[bytes] = []
        self.reads = ReadBatches(random.Random(1), retry_s=0.5, ask=self.contexts.append)

    def new(self, deadline_s: float = 5.0) -> ReadFuture:
        return self.reads.new(asyncio.get_running_loop(), deadline_s, STEP_S)


async def test_reads_that_come_together_share_one_question() -> None:
    asked = Asked()
    first, second = asked.new(), asked.new()
    assert first is second
    asked.reads.ask(0.0)
    late = asked.new()
    asked.reads.ask(0.1)
    assert len(asked.contexts) == 1, "one question at a time"
    asked.reads.confirmed(ReadState(8, asked.contexts[0]))
    asked.reads.applied(7)
    assert not first.done(), "not applied here yet"
    asked.reads.applied(8)
    assert await first == 8
    assert not late.done(), "it came after the question: that answer is not for it"
    asked.reads.ask(0.2)
    asked.reads.confirmed(ReadState(8, asked.contexts[1]))
    asked.reads.applied(8)
    assert await late == 8
    assert len(asked.reads) == 0


async def test_a_late_answer_to_an_earlier_attempt_is_ignored() -> None:
    asked = Asked()
    future = asked.new()
    asked.reads.ask(0.0)
    asked.reads.ask(0.4)
    assert len(asked.contexts) == 1
    asked.reads.ask(0.5)
    first, second = asked.contexts
    assert first != second
    asked.reads.confirmed(ReadState(1, first))
    asked.reads.applied(9)
    assert not future.done()
    asked.reads.confirmed(ReadState(2, second))
    asked.reads.applied(9)
    assert future.done()


async def test_a_change_of_leader_asks_again_at_once() -> None:
    asked = Asked()
    asked.new()
    asked.reads.ask(0.0)
    asked.reads.leader_changed()
    asked.reads.ask(0.01)
    assert len(asked.contexts) == 2


async def test_overdue_reads_fail_and_leave_nothing() -> None:
    asked = Asked()
    future = asked.new(1.0)
    asked.reads.ask(0.0)
    gathering = asked.new(1.0)
    asked.reads.expire(2.0, 0)
    assert isinstance(future.exception(), NoLeader)
    assert isinstance(gathering.exception(), NoLeader)
    assert len(asked.reads) == 0
    late = asked.new(3.0)
    asked.reads.expire(4.0, 9)
    assert isinstance(late.exception(), DeadlineExceeded)
    assert outcome_of(late) is Outcome.NOT_APPLIED


async def test_a_reader_that_gives_up_does_not_end_the_others() -> None:
    asked = Asked()

    async def read() -> object:
        return await asked.new()

    impatient, patient = asyncio.ensure_future(read()), asyncio.ensure_future(read())
    await asyncio.sleep(0)
    asked.reads.ask(0.0)
    impatient.cancel()
    await asyncio.wait([impatient])
    assert impatient.cancelled()
    asked.reads.confirmed(ReadState(3, asked.contexts[0]))
    asked.reads.applied(3)
    assert await patient == 3


async def test_fail_all_ends_every_stage() -> None:
    asked = Asked()
    confirmed = asked.new()
    asked.reads.ask(0.0)
    asked.reads.confirmed(ReadState(99, asked.contexts[0]))
    being_asked = asked.new()
    asked.reads.ask(0.1)
    gathering = asked.new()
    asked.reads.fail_all(Closed("closed"))
    for future in (confirmed, being_asked, gathering):
        assert isinstance(future.exception(), Closed)
