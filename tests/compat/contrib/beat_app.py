"""The Celery application of the tests: one task each second. Its processes end where a test wants them to end.

If there is a file `die-before` (or `die-after`) in its folder, the beat that publishes next kills itself: after the run
was written down and before its message is with the broker, or after that and before the run is known as sent.
"""

from __future__ import annotations

import os
import signal
from typing import Any

from celery import Celery, Task
from celery.signals import after_task_publish, before_task_publish

FOLDER = os.environ["BEAT_FOLDER"]

app = Celery("beat_app", broker="filesystem://", task_cls="syncline.contrib.celery:OnceTask")
app.conf.broker_transport_options = {
    "data_folder_in": f"{FOLDER}/queue",
    "data_folder_out": f"{FOLDER}/queue",
    "control_folder": f"{FOLDER}/control",
    "store_processed": False,
}
app.conf.beat_scheduler = "syncline.contrib.celery:Scheduler"
app.conf.syncline_beat_ttl = 3
app.conf.beat_schedule = {"tick": {"task": "tick", "schedule": 1.0}}


@app.task(name="tick", bind=True)
def tick(self: Task) -> None:
    """Write down which run this is."""
    with open(f"{FOLDER}/runs", "a", encoding="utf-8") as file:
        file.write(f"{self.request.id}\n")


def die(name: str) -> None:
    """Kill this process, if a test wants it here: once."""
    try:
        os.unlink(f"{FOLDER}/{name}")
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.SIGKILL)


@before_task_publish.connect
def before(**_: Any) -> None:
    """The run is written down; its message is not with the broker."""
    die("die-before")


@after_task_publish.connect
def after(**_: Any) -> None:
    """The message is with the broker; nothing says so yet."""
    die("die-after")
