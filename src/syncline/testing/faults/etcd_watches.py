"""Watchers of etcd's JSON gateway: no fault, but clients that compare what they are told with what was applied."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from syncline.testing.faults.base import Trouble
from syncline.testing.sim.etcd_watcher import EtcdWatcher

__all__ = ["etcd_watches"]

WATCHERS: Final = 3


async def etcd_watches(trouble: Trouble) -> None:
    """Some clients have streams of watches from any revision on, at one server after the other. They go on after the
    faults.
    """
    record = trouble.changes
    assert record is not None, "a scenario records what is applied"
    seeds = [trouble.rng.getrandbits(64) for _ in range(WATCHERS)]
    watchers = [EtcdWatcher(trouble.cluster, record, random.Random(seed), trouble.verdict) for seed in seeds]
    trouble.watchers += watchers
    await asyncio.gather(*(watcher.run() for watcher in watchers))
