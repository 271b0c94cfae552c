"""The ledger of what processes hold: each of its findings, reported by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from syncline.client import AsyncClient
from syncline.errors import LeaseLost
from syncline.testing.coordination.ledger import FENCED, KEYS, LEARNS, LIVE, ONE, TOKENS
from syncline.testing.coordination.programs import lock_place
from syncline.testing.coordination.works import ITEMS, ONCE, Runs
from syncline.testing.sim.process import ClientProcess
from tests.helpers.lock_trial import Broken, LockTrial, lock_trial

PLACE = lock_place("printer")


def _sure() -> None:
    """A holder that believes that it holds it."""


def _lost() -> None:
    raise LeaseLost("it is lost")


async def _idle(_kv: AsyncClient, _process: ClientProcess) -> None:
    await asyncio.sleep(60.0)


async def _two_hold_it(at: LockTrial) -> None:
    for name in ("one", "two"):
        at.ledger.entered(PLACE, at.start(name, _idle), len(name) + ord(name[0]), _sure)


async def _token_is_given_twice(at: LockTrial) -> None:
    one, two = at.start("one", _idle), at.start("two", _idle)
    at.ledger.left(at.ledger.entered(PLACE, one, 7, _sure))
    at.ledger.entered(PLACE, two, 7, _sure)


async def _token_is_older(at: LockTrial) -> None:
    one, two = at.start("one", _idle), at.start("two", _idle)
    at.ledger.left(at.ledger.entered(PLACE, one, 7, _sure))
    at.ledger.entered(PLACE, two, 6, _sure)


async def _key_is_not_there(at: LockTrial) -> None:
    at.ledger.entered(PLACE, at.start("one", _idle), 7, _sure)


async def _entered_too_late(at: LockTrial) -> None:
    at.ledger.entered(PLACE, at.start("one", _idle), 7, _lost)


async def _holder_does_not_leave(at: LockTrial) -> None:
    lost = False

    def check() -> None:
        if lost:
            _lost()

    at.ledger.entered(PLACE, at.start("one", _idle), 7, check)
    lost = True
    for _ in range(100):
        await asyncio.sleep(0.01)
        at.ledger.look()


async def _writer_is_refused(at: LockTrial) -> None:
    one, two = at.start("one", _idle), at.start("two", _idle)
    old = at.ledger.entered(PLACE, one, 7, _sure)
    at.ledger.write(at.ledger.entered(PLACE, two, 8, _sure))
    at.ledger.write(old)


async def _item_is_finished_twice(at: LockTrial) -> None:
    claims = [at.items.claimed("item", at.start(name, _idle), _lost) for name in ("one", "two")]
    for claim in claims:
        at.items.left(claim)
        at.items.done(claim)


async def _item_is_claimed_by_two(at: LockTrial) -> None:
    for name in ("one", "two"):
        at.items.claimed("item", at.start(name, _idle), _sure)


async def _function_begins_twice(at: LockTrial) -> None:
    runs = Runs(at.verdict)
    for name in ("one", "two"):
        runs.start("nightly", at.start(name, _idle), most=1)


async def _function_is_not_completed(at: LockTrial) -> None:
    Runs(at.verdict).elsewhere("nightly", at.start("one", _idle))


@pytest.mark.parametrize(
    ("invariant", "course"),
    [
        (ONE, _two_hold_it),
        (TOKENS, _token_is_given_twice),
        (TOKENS, _token_is_older),
        (KEYS, _key_is_not_there),
        (LIVE, _entered_too_late),
        (LEARNS, _holder_does_not_leave),
        (FENCED, _writer_is_refused),
        (ITEMS, _item_is_finished_twice),
        (ITEMS, _item_is_claimed_by_two),
        (ONCE, _function_begins_twice),
        (ONCE, _function_is_not_completed),
    ],
)
def test_ledger_reports(invariant: str, course: Callable[[LockTrial], Awaitable[None]]) -> None:
    found: list[str] = []

    async def scenario(at: LockTrial) -> None:
        await course(at)
        found.extend(at.verdict.found)

    with pytest.raises(Broken):  # what was found
        lock_trial(scenario, nodes=1)
    assert any(text.startswith(f"{invariant}: ") for text in found), found
