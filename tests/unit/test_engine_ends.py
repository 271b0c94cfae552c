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
