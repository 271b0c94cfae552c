"""Attempts of one command of a session: when it is tried again, and what is known of its outcome."""

from __future__ import annotations

import asyncio

import pytest

from syncline.errors import (
    AnswerNotKept,
    Closed,
    DeadlineExceeded,
    DiskFull,
    Dropped,
    IdempotencyMismatch,
    NodeFailed,
    NoLeader,
    Outcome,
    Rejected,
    SessionExpired,
    SynclineError,
    TooLarge,
)
from syncline.node.futures import ApplyFuture
from syncline.node.session import until_known

KNOWN, UNKNOWN = Outcome.NOT_APPLIED, Outcome.UNKNOWN
LOST = "lost"
"""An attempt without an answer in time."""


async def tried(*steps: SynclineError | str) -> tuple[object, list[float]]:
    """The answer or the error after these attempts, of 2 s each; and the time limits that they were given."""
    left, limits, now_s = list(steps), [], [0.0]

    def attempt(timeout_s: float) -> ApplyFuture[object]:
        limits.append(timeout_s)
        now_s[0] += timeout_s
        future: ApplyFuture[object] = ApplyFuture(loop=asyncio.get_running_loop())
        step = left.pop(0) if left else LOST
        if step == LOST:
            future.failed(DeadlineExceeded("no answer"))
        elif isinstance(step, SynclineError):
            future.failed(step)
        else:
            future.answered(step)
        return future

    try:
        return await until_known(attempt, 5.0, clock=lambda: now_s[0], attempt_s=2.0), limits
    except SynclineError as error:
        return error, limits


async def test_attempt_of_unknown_outcome_is_made_again_until_the_deadline() -> None:
    assert await tried(LOST, LOST, "answer") == ("answer", [2.0, 2.0, 1.0])
    error, limits = await tried()
    assert isinstance(error, DeadlineExceeded)
    assert (error.outcome, limits) == (UNKNOWN, [2.0, 2.0, 1.0])


async def test_attempt_without_a_leader_is_made_again() -> None:
    error, limits = await tried(*[NoLeader("none") for _ in range(3)])
    assert isinstance(error, NoLeader)
    assert (error.outcome, len(limits)) == (KNOWN, 3)


@pytest.mark.parametrize("kind", [Dropped, TooLarge, DiskFull, NodeFailed, Closed])
async def test_attempt_that_is_refused_does_not_undo_a_doubt(kind: type[SynclineError]) -> None:
    """The error object may be shared with other callers of the node: it is not changed."""
    refusal = kind("no")
    refusal.outcome = KNOWN
    error, limits = await tried(refusal)
    assert error is refusal
    assert len(limits) == 1
    error, limits = await tried(LOST, refusal)
    assert type(error) is kind
    assert isinstance(error, SynclineError)
    assert (error.outcome, refusal.outcome, len(limits)) == (UNKNOWN, KNOWN, 2)


@pytest.mark.parametrize("kind", [Rejected, IdempotencyMismatch, AnswerNotKept])
async def test_attempt_with_a_final_answer_ends_the_doubt(kind: type[SynclineError]) -> None:
    final = kind("told")
    before = final.outcome
    assert await tried(LOST, final) == (final, [2.0, 2.0])
    assert final.outcome is before


async def test_attempt_in_an_ended_session_is_not_applied_if_it_is_the_first() -> None:
    for steps, outcome in (((), KNOWN), ((NoLeader("none"),), KNOWN), ((LOST,), UNKNOWN)):
        error, _ = await tried(*steps, SessionExpired("ended"))
        assert isinstance(error, SessionExpired)
        assert error.outcome is outcome
