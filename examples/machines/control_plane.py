"""The memory of a control plane, on three machines that share cluster.toml:

SYNCLINE_NAME=a SYNCLINE_DATA_DIR=data SYNCLINE_PEER_LISTEN=10.0.0.1:7100 python -m examples.machines.control_plane
"""

from __future__ import annotations

import asyncio

from syncline import Machine, command, query


class Jobs(Machine):
    workers: dict[str, str]  # by job

    @command
    def assign(self, job: str, to: str) -> bool:
        """Give a job to a worker, once. Returns whether it has this worker."""
        return self.workers.setdefault(job, to) == to

    @query
    def worker(self, job: str) -> str | None:
        return self.workers.get(job)


async def main() -> None:
    async with Jobs.open("cluster.toml") as jobs:
        await jobs.assign("t1", "w3")
        print(f"t1 is with {await jobs.worker('t1')}", flush=True)
        await jobs.raft.until_stopped()


if __name__ == "__main__":
    asyncio.run(main())
