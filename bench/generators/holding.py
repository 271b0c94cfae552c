"""Programs that hold leases: clients as programs use them, each with some leases that it keeps alive.

python -m bench.generators.holding --addresses HOST:PORT,… --clients 100 --leases 100 --ttl 30

It prints a line of JSON when all leases are held, and holds them until its input ends.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack

from syncline.client import AsyncClient

__all__ = ["command"]

TIMEOUT_S = 30.0
APART_S = 0.05
"""Between two leases of one client: programs don't take all that they have at once."""


def command(addresses: Sequence[str], *, clients: int, leases: int, ttl_s: float) -> list[str]:
    """The command of such a process."""
    program = [sys.executable, "-m", "bench.generators.holding", "--addresses", ",".join(addresses)]
    return [*program, "--clients", str(clients), "--leases", str(leases), "--ttl", str(ttl_s)]


async def hold(addresses: Sequence[str], clients: int, leases: int, ttl_s: float) -> None:
    """Hold the leases until the input ends, and end them. A process that is killed leaves them to run out."""
    urls = [f"http://{address}" for address in addresses]
    async with AsyncExitStack() as stack:
        held = [await stack.enter_async_context(AsyncClient(urls, timeout=TIMEOUT_S)) for _ in range(clients)]
        for _ in range(leases):
            await asyncio.gather(*(stack.enter_async_context(client.lease(ttl_s)) for client in held))
            await asyncio.sleep(APART_S)
        print('"held"', flush=True)
        await asyncio.to_thread(sys.stdin.read)


def main() -> None:
    """Run as a command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--addresses", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--leases", type=int, required=True)
    parser.add_argument("--ttl", type=float, required=True)
    given = parser.parse_args()
    asyncio.run(hold(given.addresses.split(","), given.clients, given.leases, given.ttl))


if __name__ == "__main__":
    main()
