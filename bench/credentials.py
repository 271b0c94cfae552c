"""What a credential costs: requests with a token beside those of the same cluster that needs none.

    python -m bench.credentials --seconds 2 --turns 8

Turns alternate: the cluster requires credentials and each request has a token, or neither. So a machine that is busy
for a while is busy for both. A line has the ratio of the rates by pairs: the median, and the quartiles.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import tempfile
from collections.abc import Sequence
from typing import Final

from bench.generators import closedloop, http1
from bench.load import KEYS, VALUE_BYTES, Load, Workload, key
from bench.peers.syncline import STALE_QUERY, SynclineCluster
from bench.processes import Process
from syncline.client import AsyncClient, PutOp

WARM_UP_S: Final = 0.5
CELLS: Final = ((Workload.WRITES, 64), (Workload.WRITES, 1), (Workload.READS, 64), (Workload.READS, 1))
PASSWORD: Final = "a password of the bench"


async def make_token(url: str) -> str:
    """A user with a role for the bench's keys beside others, and its token."""
    async with AsyncClient(url, timeout=30) as kv:
        for first in range(0, KEYS, 1000):
            await kv.batch([PutOp(key(number).encode(), bytes(VALUE_BYTES)) for number in range(first, first + 1000)])
        await kv.add_user("root", PASSWORD, admin=True)
        await kv.add_role("bench")
        for number in range(20):
            await kv.allow("bench", "readwrite", prefix=f"{number}/")
        await kv.allow("bench", "readwrite", prefix="")
        await kv.add_user("bench", roles=["bench"])
        return (await kv.new_token("bench", ttl=3600)).token


async def switch(url: str, required: bool) -> None:
    """Require credentials, or not. A member that lags a moment changes nothing of the leader's rate."""
    async with AsyncClient(url, user="root", password=PASSWORD) as kv:
        await (kv.enable_auth() if required else kv.disable_auth())


def with_token(requests: Sequence[bytes], token: str) -> list[bytes]:
    """The same requests with the field."""
    field = f"\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    return [request.replace(b"\r\n\r\n", field, 1) for request in requests]


def take(process: Process, address: str, requests: Sequence[bytes], load: Load) -> tuple[float, float]:
    """Answers a second, and the leader's processor time for each in microseconds. An error ends it all."""
    host, port = address.split(":")
    before_s = process.cpu_s()
    outcome = closedloop.generate(host, int(port), requests, http1.answer, load)
    if outcome.errors:
        raise SystemExit(f"{outcome.errors} requests failed")
    return outcome.per_s, (process.cpu_s() - before_s) * 1e6 / outcome.latencies_us.count


def measure(cluster: SynclineCluster, options: argparse.Namespace) -> None:
    """Print one line for each cell."""
    leader = cluster.leader()
    address, process = cluster.addresses[leader], cluster.processes[leader]
    url = f"http://{address}"
    token = asyncio.run(make_token(url))
    for workload, clients in CELLS:
        load = Load(workload, clients, options.seconds, VALUE_BYTES)
        plain = http1.requests(load, stale_query=STALE_QUERY, keys=KEYS)
        shown = with_token(plain, token)
        ratios: list[float] = []
        pairs: list[tuple[float, float]] = []
        costs: list[tuple[float, float]] = []
        for number in range(-1, options.turns):
            taken: dict[bool, tuple[float, float]] = {}
            for required in (False, True) if number % 2 else (True, False):
                asyncio.run(switch(url, required))
                length_s = options.seconds if number >= 0 else WARM_UP_S
                one = Load(workload, clients, length_s, VALUE_BYTES)
                taken[required] = take(process, address, shown if required else plain, one)
            if number >= 0:
                pairs.append((taken[False][0], taken[True][0]))
                costs.append((taken[False][1], taken[True][1]))
                ratios.append(taken[True][0] / taken[False][0])
        asyncio.run(switch(url, False))
        low, middle, high = statistics.quantiles(ratios, n=4)
        without, having = (statistics.median(side) for side in zip(*pairs, strict=True))
        cpu, cpu_having = (statistics.median(side) for side in zip(*costs, strict=True))
        print(
            f"{workload}, {clients} clients: {without:,.0f}/s without, {having:,.0f}/s with a token:"
            f" {middle:.3f} ({low:.3f}-{high:.3f});"
            f" processor of the leader {cpu:.1f} and {cpu_having:.1f} us",
            flush=True,
        )
    if cluster.leader() != leader:
        raise SystemExit("another node leads: take it again")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.credentials", description="What a credential costs.")
    parser.add_argument("--seconds", type=float, default=2.0, help="of one turn (2)")
    parser.add_argument("--turns", type=int, default=8, help="pairs of turns for each cell (8)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        place = os.path.join(directory, "now")
        os.mkdir(place)
        cluster = SynclineCluster.started(place)
        try:
            measure(cluster, options)
        finally:
            cluster.stop()


if __name__ == "__main__":
    main()
