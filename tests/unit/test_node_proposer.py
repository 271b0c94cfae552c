"""The queue of a node's proposals: its order, its size, and who may enter it."""

from __future__ import annotations

import asyncio
import random
from typing import Final, cast

import pytest

from syncline.errors import Closed, DiskFull, Dropped, TooLarge
from syncline.node.envelope import DATA, Kind
from syncline.node.futures import ApplyFuture, Queued
from syncline.node.intake import Intake
from syncline.node.proposals import Proposals
from syncline.node.proposer import Proposer
from syncline.node.running import Running

COMMAND: Final = int(Kind.COMMAND)


class OpenIntake:
    """Takes everything."""

    is_full = False


class Trial:
    """A proposer of a node that has nothing else. `turns`: how often it has asked for one."""

    def __init__(self) -> None:
        self.turns = 0
        self.free_bytes = 1 << 20
        self.running = Running()
        self.proposals = Proposals(random.Random(1), max_bytes=10_000)
        self.proposer = Proposer(
            7,
            self.running,
            self.proposals,
            cast("Intake", OpenIntake()),
            check_space=self._check_space,
            check=None,
            schedule=self._schedule,
            max_entry_bytes=1000,
        )

    def _schedule(self) -> None:
        self.turns += 1

    def _check_space(self, size_bytes: int, *, frees_space: bool = False) -> None:
        if size_bytes > self.free_bytes and not frees_space:
            raise DiskFull("no room")

    def propose(self, data: bytes, *, fence: int = 0) -> ApplyFuture[object]:
        future: ApplyFuture[object] = ApplyFuture(loop=self.running.loop)
        future.fence = fence
        self.proposer.propose(future, COMMAND, data, 5.0, b"", True)
        return future

    def check(self, *futures: ApplyFuture[object]) -> None:
        """These wait, in this order, and their size is known."""
        queue = self.proposer.queue
        assert [waiter for waiter, _, _ in queue] == list(futures)
        assert self.proposer.queued_bytes == sum(len(payload) for _, _, payload in queue)


async def test_proposer_takes_all_that_wait_and_keeps_none() -> None:
    trial = Trial()
    first, second = trial.propose(b"1"), trial.propose(b"22")
    trial.check(first, second)
    assert trial.turns == 2
    assert [waiter for waiter, _, _ in trial.proposer.take()] == [first, second]
    trial.check()


async def test_proposer_puts_back_before_those_that_came_meanwhile() -> None:
    trial = Trial()
    first, second = trial.propose(b"1"), trial.propose(b"22", fence=3)
    taken = trial.proposer.take()
    trial.proposals.fenced = False
    third = trial.propose(b"333")
    trial.proposer.put_back(taken[1:])
    trial.check(second, third)
    assert trial.proposals.fenced, "one that is fenced waits again"
    assert not first.done()


async def test_proposer_adds_again_in_the_order_of_the_numbers() -> None:
    trial = Trial()
    first, second, third = trial.propose(b"1"), trial.propose(b"22"), trial.propose(b"333")
    taken: list[Queued] = trial.proposer.take()
    fourth = trial.propose(b"4444")
    turns = trial.turns
    trial.proposer.add_again([taken[2], taken[0]])
    trial.check(first, third, fourth)
    assert trial.turns == turns + 1
    assert not second.done()


async def test_proposer_forgets_those_that_have_ended() -> None:
    trial = Trial()
    first, second, third = trial.propose(b"1"), trial.propose(b"22"), trial.propose(b"333")
    second.cancel()
    trial.proposer.drop_ended()
    trial.check(first, third)
    trial.proposer.clear()
    trial.check()


async def test_proposer_queues_nothing_that_it_refuses() -> None:
    trial = Trial()
    trial.proposer.max_entry_bytes = 3
    with pytest.raises(TooLarge, match="the limit is 3"):
        trial.propose(b"4444")
    trial.free_bytes = 2
    with pytest.raises(DiskFull):
        trial.propose(b"333")
    trial.proposals.max_bytes = 1
    with pytest.raises(Dropped):
        trial.propose(b"22")
    trial.running.end(Closed("midway"), Closed("the node is closed"))
    with pytest.raises(Closed, match="the node is closed"):
        trial.propose(b"1")
    trial.check()
    assert (trial.turns, len(trial.proposals), trial.proposals.size_bytes) == (0, 0, 0)


async def test_proposer_adds_what_has_its_number_behind_the_others() -> None:
    trial = Trial()
    first = trial.propose(b"1")
    own = trial.proposals.new(asyncio.get_running_loop(), 5, 1e9)
    trial.proposer.add(own, DATA, b"55555")
    trial.check(first, own)
