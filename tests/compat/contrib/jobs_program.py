"""A scheduler of APScheduler in a process of its own: one job each second, whose runs are written down."""

from __future__ import annotations

import os
import time

from apscheduler.schedulers.blocking import BlockingScheduler

from syncline.contrib.apscheduler import JobStore

FOLDER = os.environ["JOBS_FOLDER"]


def tick() -> None:
    """Write down this run, and which process carried it out."""
    with open(f"{FOLDER}/runs", "a", encoding="utf-8") as file:
        file.write(f"{os.getpid()} {time.time():.3f}\n")


if __name__ == "__main__":
    scheduler = BlockingScheduler(job_defaults={"misfire_grace_time": 60, "coalesce": False})
    scheduler.add_jobstore(JobStore(ttl=3, look_every=0.5))
    scheduler.add_job("jobs_program:tick", "interval", seconds=1, id="tick", replace_existing=True)
    print("starts", flush=True)
    scheduler.start()
