"""A process of the tests that kill: applies numbered commands, and notes each one that was acknowledged.

python -m tests.compat.engines.worker URL NAME FILE
"""

from __future__ import annotations

import asyncio
import os
import sys

import syncline
from tests.helpers.node_cluster import Listing

APPLY_S = 120.0


async def work(url: str, name: str, file: str) -> None:
    noted = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    async with syncline.open(url, Listing()) as node:
        count = 0
        while True:
            commands = [b"%s-%d" % (name.encode(), count + number) for number in range(4)]
            count += len(commands)
            for data, future in zip(commands, node.apply_many(commands, timeout=APPLY_S), strict=True):
                await future
                os.write(noted, data + b"\n")


if __name__ == "__main__":
    asyncio.run(work(*sys.argv[1:4]))
