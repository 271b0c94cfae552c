"""A scheduler of APScheduler in a process of its own: one job each second, whose runs are written down.

If there is a file `die-before` (or `die-after`) in its folder, the process that runs the job next kills itself: before
the job's function is called, or after it has returned.
"""

from __future__ import annotations

import importlib
import os
import signal
import time
from datetime import datetime

from apscheduler.executors.base import BaseExecutor
from apscheduler.job import Job
from apscheduler.schedulers.blocking import BlockingScheduler

from syncline.contrib.apscheduler import JobStore

FOLDER = os.environ["JOBS_FOLDER"]

scheduled: datetime | None = None
"""The time of the run that is under way: APScheduler does not tell it to a job."""


class OneByOne(BaseExecutor):
    """Runs the times of a job at once, one after the other, in the scheduler's thread; and says which it is."""

    def _do_submit_job(self, job: Job, run_times: list[datetime]) -> None:
        global scheduled  # noqa: PLW0603 - the job's function has no arguments
        for run_time in run_times:
            die("die-before")
            scheduled = run_time
            job.func()
            die("die-after")
        self._run_job_success(job.id, [])


def tick() -> None:
    """Write down this run: which process, when, and for which time."""
    assert scheduled is not None
    with open(f"{FOLDER}/runs", "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {time.time():.3f} {scheduled.timestamp():.3f}\n")


def die(name: str) -> None:
    """Kill this process, if a test wants it here: once."""
    try:
        os.unlink(f"{FOLDER}/{name}")
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    """Run the scheduler."""
    defaults = {"misfire_grace_time": 600, "coalesce": False, "max_instances": 1_000}
    scheduler = BlockingScheduler(job_defaults=defaults, executors={"default": OneByOne()})
    scheduler.add_jobstore(JobStore(ttl=3, look_every=0.5, on_crash=os.environ["JOBS_ON_CRASH"]))
    scheduler.add_job("jobs_program:tick", "cron", second="*", id="tick", replace_existing=True)
    print("starts", flush=True)
    scheduler.start()


if __name__ == "__main__":
    jobs_program = importlib.import_module("jobs_program")

    jobs_program.main()  # of the module whose function the job names
