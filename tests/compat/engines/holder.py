"""A process of the tests that pause: leads, and applies commands with its token until it has lost the leadership.

python -m tests.compat.engines.holder URL LEASE-SECONDS

It prints a line for each command that was acknowledged, and the code of the error at the end.
"""

from __future__ import annotations

import asyncio
import sys

import syncline
from syncline.engines import leases
from syncline.errors import OperationError
from tests.helpers.node_cluster import Listing

APPLY_S = 30.0


async def lead(url: str) -> None:
    async with syncline.open(url, Listing()) as node:
        count = 0
        try:
            async with node.leadership(timeout=APPLY_S) as term:
                while True:
                    count += 1
                    await node.apply(b"old %d" % count, term=term.number, timeout=APPLY_S)
                    print(count, flush=True)
        except OperationError as error:
            print(error.code, flush=True)


if __name__ == "__main__":
    leases.LEASE_S = float(sys.argv[2])  # type: ignore[misc]  # a test has no time for the real one
    leases.RENEW_S = leases.LEASE_S / 4  # type: ignore[misc]
    asyncio.run(lead(sys.argv[1]))
