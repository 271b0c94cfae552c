"""Watchers: no fault, but clients that compare what they are told with what was applied."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from syncline.testing.faults.base import Trouble
from syncline.testing.sim.watcher import Watcher

__all__ = ["watches"]

WATCHERS: Final = 4


async def watches(trouble: Trouble) -> None:
    """Some clients watch keys from any revision on, and go from server to server. They go on after the faults."""
    record = trouble.changes
    assert record is not None, "a scenario records what is applied"
    seeds = [trouble.rng.getrandbits(64) for _ in range(WATCHERS)]
    watchers = [Watcher(trouble.cluster, record, random.Random(seed), trouble.verdict) for seed in seeds]
    trouble.watchers += watchers
    await asyncio.gather(*(watcher.run() for watcher in watchers))
