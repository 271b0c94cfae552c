"""A job queue on three nodes: SYNCLINE_NAME=a uvicorn examples.machines.job_queue:app (docs/machines.md)"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from syncline import Machine, command, query


class Jobs(Machine):
    queue: dict[str, str]  # job: worker, or "" while it waits

    @command
    def put(self, job: str) -> None:
        self.queue.setdefault(job, "")

    @command
    def take(self, worker: str) -> str | None:
        job = next((job for job, taken_by in self.queue.items() if not taken_by), None)
        if job is not None:
            self.queue[job] = worker
        return job

    @command
    def done(self, job: str) -> bool:
        return self.queue.pop(job, None) is not None

    @query
    def jobs(self) -> dict[str, str]:
        return self.queue


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with Jobs.open("cluster.toml") as jobs:
        app.post("/put")(jobs.put)
        app.post("/take")(jobs.take)
        app.post("/done")(jobs.done)
        app.get("/jobs")(jobs.jobs)
        yield


app = FastAPI(lifespan=lifespan)
