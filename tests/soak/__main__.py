"""`python -m tests.soak --minutes 60`: a cluster under a mixed load. Status 1 if something grows or is lost."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import sys
import tempfile
from dataclasses import dataclass
from typing import Final

from tests.helpers.process_cluster import Cluster, running_cluster
from tests.soak.events import Events
from tests.soak.load import Mixed
from tests.soak.samples import Sampler

SETTINGS: Final = {
    # Small limits are reached within minutes: what still grows then grows without a limit.
    "snapshot_entries": "5000",
    "trailing_entries": "1000",
    "segment_bytes": str(4 << 20),
    "history_revisions": "5000",
    "history_bytes": str(2 << 20),
    "session_idle_s": "60",
    "election_s": "1.0",
    "heartbeat_s": "0.1",
}
TELL_S: Final = 60.0


@dataclass(frozen=True)
class Options:
    minutes: float
    rate: float
    every_s: float
    sample_s: float
    seed: int
    directory: str


def options() -> Options:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="A cluster under a mixed load.")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long (60)")
    parser.add_argument("--rate", type=float, default=100.0, help="rounds of work a second (100)")
    parser.add_argument("--every", type=float, default=20.0, dest="every_s", help="seconds between two events (20)")
    parser.add_argument("--sample", type=float, default=3.0, dest="sample_s", help="seconds between samples (3)")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="of the load and the events")
    parser.add_argument("--directory", default="", help="for data and logs; kept (a temporary one, removed)")
    return Options(**vars(parser.parse_args()))


async def soak(chosen: Options, cluster: Cluster) -> int:
    """Run, report, and return the status."""
    rng = random.Random(chosen.seed)
    load = Mixed([node.url for node in cluster.nodes], rng, chosen.rate)
    events = Events(cluster, rng, chosen.every_s)
    sampler = Sampler(cluster, chosen.sample_s)
    beside = [asyncio.create_task(sampler.run()), asyncio.create_task(events.run())]
    loop = asyncio.get_running_loop()
    end_s = loop.time() + chosen.minutes * 60
    try:
        while (left_s := end_s - loop.time()) > 0:
            await asyncio.wait(beside, timeout=min(TELL_S, left_s), return_when=asyncio.FIRST_COMPLETED)
            for task in beside:
                if task.done():
                    task.result()  # it only ends by an error
            print(f"{left_s / 60:5.1f} min left: {dict(load.done)} {dict(events.done)}", flush=True)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    await load.stop()
    return await report(load, events, sampler, cluster)


async def report(load: Mixed, events: Events, sampler: Sampler, cluster: Cluster) -> int:
    for node in cluster.nodes[:3]:
        if not node.running:
            node.start()
    await cluster.wait_ready(cluster.nodes[:3])
    lost = await load.check()
    print(f"work: {dict(load.done)}\nfailed: {dict(load.failed)}\nevents: {dict(events.done)}")
    lines = sampler.growth()
    for line in lines:
        print(line)
    grows = [line for line in lines if line.is_fault]
    tracebacks = [node.name for node in cluster.nodes if "Traceback" in node.log()]
    if lost:
        print(f"LOST {len(lost)} acknowledged writes, such as {lost[:5]}")
    if tracebacks:
        print(f"TRACEBACKS in the logs of {tracebacks}")
    if not lines:
        print("no process lived long enough for a line: run it for longer")
    print("FAILED" if grows or lost or tracebacks else "ok")
    return 1 if grows or lost or tracebacks else 0


async def main() -> int:
    chosen = options()
    print(f"seed {chosen.seed}, {chosen.minutes:g} min", flush=True)
    with contextlib.ExitStack() as stack:
        directory = chosen.directory or stack.enter_context(tempfile.TemporaryDirectory(prefix="syncline-soak-"))
        os.makedirs(directory, exist_ok=True)
        async with running_cluster(directory, 3, **SETTINGS) as cluster:
            return await soak(chosen, cluster)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
