"""From which moment on a confirmed read shows that the state is current."""

from __future__ import annotations

import asyncio
import math
import random

from syncline.consensus.types import ReadState
from syncline.errors import DeadlineExceeded
from syncline.node.read_batches import ReadBatches


async def test_state_age_counts_from_the_last_confirmed_and_applied_read() -> None:
    asked: list[bytes] = []
    reads = ReadBatches(random.Random(1), retry_s=1.0, ask=asked.append)
    loop = asyncio.get_running_loop()
    future = reads.new(loop, 60.0, 0.1)
    reads.ask(5.0)
    reads.ask(7.0)
    reads.confirmed(ReadState(index=3, context=asked[0]))
    reads.applied(3)
    assert reads.current_as_of_s == -math.inf, "an answer to an attempt that was given up says nothing"
    reads.confirmed(ReadState(index=3, context=asked[1]))
    reads.applied(2)
    assert reads.current_as_of_s == -math.inf, "what was committed then is not applied yet"
    reads.applied(3)
    assert reads.current_as_of_s == 7.0
    assert await future == 3


async def test_it_never_becomes_less_current() -> None:
    asked: list[bytes] = []
    reads = ReadBatches(random.Random(1), retry_s=1.0, ask=asked.append)
    loop = asyncio.get_running_loop()
    reads.new(loop, 60.0, 0.1)
    reads.ask(5.0)
    reads.confirmed(ReadState(index=3, context=asked[0]))
    reads.applied(3)
    reads.new(loop, 60.0, 0.1)
    reads.ask(6.0)
    reads.leader_changed()  # the same attempt may be confirmed all the same: nobody knows of which moment it speaks
    reads.confirmed(ReadState(index=4, context=asked[1]))
    reads.applied(4)
    assert reads.current_as_of_s == 5.0


async def test_reads_index_that_never_comes_blocks_no_other_read() -> None:
    """A read whose index is not applied ends at its deadline; one behind it that can be answered is."""
    asked: list[bytes] = []
    reads = ReadBatches(random.Random(1), retry_s=1.0, ask=asked.append)
    loop = asyncio.get_running_loop()
    never = reads.new(loop, 6.0, 0.1)
    reads.ask(5.0)
    reads.confirmed(ReadState(index=1_000, context=asked[0]))
    later = reads.new(loop, 60.0, 0.1)
    reads.ask(5.1)
    reads.confirmed(ReadState(index=4, context=asked[1]))
    reads.applied(4)
    assert await later == 4
    reads.expire(7.0, 1)
    error = never.exception()
    assert isinstance(error, DeadlineExceeded)
    assert "the state machine had not applied" in str(error), "the leader has confirmed it: it is not to blame"
    assert len(reads) == 0


async def test_reads_age_counts_the_time_that_the_machine_slept() -> None:
    asked: list[bytes] = []
    slept_s = 100.0
    reads = ReadBatches(random.Random(1), retry_s=1.0, ask=asked.append, asleep_s=lambda: slept_s)
    assert reads.age_s(5.0) is None
    reads.new(asyncio.get_running_loop(), 60.0, 0.1)
    reads.ask(5.0)
    reads.confirmed(ReadState(index=3, context=asked[0]))
    reads.applied(3)
    assert reads.age_s(7.0) == 2.0
    slept_s += 3600.0
    assert reads.age_s(7.0) == 3602.0
