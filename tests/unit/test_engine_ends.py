"""How a node on a log backend ends: by itself, by its program, with a backend that is silent. On memory."""

from __future__ import annotations

import asyncio
import random

import pytest

from syncline.engines.memory import MemoryBackend, MemoryLog
from syncline.engines.replica import open_log
from syncline.errors import NodeFailed
from tests.helpers.node_cluster import LoopListing


async def test_engine_close_ends_after_a_machine_on_the_loop_failed() -> None:
    """It fails in the task that reads the log, and that task has to end as well."""
    node = await open_log(MemoryBackend(MemoryLog(random.Random(1))), LoopListing())
    with pytest.raises(NodeFailed):
        await node.apply(b"break")
    await asyncio.wait_for(node.close(), 10)


async def test_engine_leadership_of_a_next_block_survives_the_end_of_the_last() -> None:
    """A block begins while the one before it ends: it has the same leadership, and that is not given back."""
    async with open_log(MemoryBackend(MemoryLog(random.Random(1))), LoopListing()) as node:

        async def next_block() -> object:
            async with node.leadership() as term:
                for _ in range(20):
                    await asyncio.sleep(0)
                return await term.apply(b"two")

        async with node.leadership() as term:
            await term.apply(b"one")
            ending = asyncio.get_running_loop().create_task(next_block())
        assert await ending == 2
