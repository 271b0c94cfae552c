"""A job queue with Flask: SYNCLINE_NAME=a gunicorn --threads 8 examples.machines.flask_jobs:app (docs/blocking.md)"""

import atexit

from flask import Flask

from syncline import blocking, command, query
from syncline.errors import OperationError


class Jobs(blocking.Machine):
    queue: dict[str, str]  # job: worker, or "" while it waits

    @command
    def put(self, job: str) -> bool:
        return self.queue.setdefault(job, "") == ""

    @command
    def take(self, worker: str) -> str | None:
        job = next((job for job, taken_by in self.queue.items() if not taken_by), None)
        if job is not None:
            self.queue[job] = worker
        return job

    @query
    def jobs(self) -> dict[str, str]:
        return self.queue


jobs = Jobs.open("cluster.toml")  # gunicorn imports this file in its worker: one worker, and no --preload
atexit.register(jobs.close)  # transfers the leadership before the process ends
app = Flask(__name__)


@app.post("/put/<job>")
def put(job: str) -> dict[str, bool]:
    return {"waits": jobs.put(job)}


@app.post("/take/<worker>")
def take(worker: str) -> dict[str, str | None]:
    return {"job": jobs.take(worker)}


@app.get("/jobs")
def show() -> dict[str, str]:
    return jobs.jobs()


@app.errorhandler(OperationError)
def unavailable(error: OperationError) -> tuple[dict[str, str], int]:
    return {"error": str(error), "outcome": error.outcome}, 503
