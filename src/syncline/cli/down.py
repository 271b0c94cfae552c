"""`down`: stop the cluster that `up` keeps running, detached or in another shell."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Final

import click

from syncline.cli.common import Duration
from syncline.cli.exits import EXIT_UNAVAILABLE, Failure, failure_of
from syncline.cli.output import print_json, print_line
from syncline.cli.streams import acknowledged
from syncline.cli.up.plan import DEFAULT_DATA_DIR, UpPlan, command_for, make_plan
from syncline.errors import ConfigError, DirectoryLocked, SynclineError
from syncline.platform.disk import OsDisk
from syncline.storage.datadir import LOCK_NAME

__all__ = ["down"]

POLL_S: Final = 0.05
"""Between two checks whether the process has ended."""

STOP_TIMEOUT_S: Final = 30.0
"""More than `up` gives its nodes before it kills them."""


@click.command("down", short_help="Stop the cluster that 'up' keeps running.")
@click.option(
    "--data-dir", type=click.Path(file_okay=False), default=DEFAULT_DATA_DIR, show_default=True, help="As with 'up'."
)
@click.option("--timeout", "timeout_s", type=Duration(), metavar="TIME", help="How long to wait.  [default: 30s]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def down(data_dir: str, timeout_s: float | None, as_json: bool) -> None:
    """Stop all nodes of the 'syncline up' that runs on --data-dir, in order. The data stay.

    It is no error if none runs.
    """
    try:
        plan = made_plan(data_dir)
        pid = _running(plan)
        if pid is not None:
            _stop(plan, pid, STOP_TIMEOUT_S if timeout_s is None else timeout_s)
    except SynclineError as error:
        raise failure_of(error, as_json=as_json) from error
    left = _left_running(plan)
    with acknowledged():
        _tell(plan, data_dir, left, stopped=pid is not None, as_json=as_json)


def _tell(plan: UpPlan, data_dir: str, left: list[tuple[str, int]], *, stopped: bool, as_json: bool) -> None:
    if as_json:
        running = [{"name": name, "pid": holder or None} for name, holder in left]
        print_json({"stopped": stopped, "data_dir": plan.absolute_dir, "still_running": running})
        return
    done = "no 'syncline up' runs there"
    if stopped:
        done = "the nodes of 'syncline up' are stopped" if left else "all nodes are stopped"
    print_line(f"{done}; the data are in {plan.absolute_dir}")
    for name, holder in left:
        print_line(f"{name} (pid {holder or 'unknown'}) was started by hand and still runs")
    print_line(f"to start it again: {command_for('up', data_dir)}")


def made_plan(data_dir: str) -> UpPlan:
    """The plan of a directory that `up` was started on. Raises `ConfigError` if it was not."""
    plan = make_plan(data_dir, nodes=None, port=None)
    if not os.path.exists(plan.plan_path):
        raise ConfigError(f"no cluster was started in {data_dir}: name its directory with --data-dir")
    return plan


def _running(plan: UpPlan) -> int | None:
    """The process of the `up` that runs on the directory, as `_holder` returns it."""
    return _holder(plan.lock_path)


def _left_running(plan: UpPlan) -> list[tuple[str, int]]:
    """Name and process of each node that runs without `up`: it was started by hand, with `serve`."""
    holders = [(node.name, _holder(f"{node.data_dir}/{LOCK_NAME}")) for node in plan.nodes]
    return [(name, holder) for name, holder in holders if holder is not None]


def _holder(lock_path: str) -> int | None:
    """The process that holds a lock; None if none does, 0 if its pid is not known."""
    if not os.path.exists(lock_path):
        return None
    try:
        OsDisk().lock(lock_path, b"%d\n" % os.getpid()).release()
    except DirectoryLocked as error:
        return error.pid or 0
    return None


def _stop(plan: UpPlan, pid: int, timeout_s: float) -> None:
    if not pid:
        raise Failure(f"{plan.lock_path} does not name the process that holds it", EXIT_UNAVAILABLE)
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return  # it has ended meanwhile
    deadline_s = time.monotonic() + timeout_s
    pause = threading.Event()
    while _running(plan) is not None:
        if time.monotonic() > deadline_s:
            raise Failure(f"'syncline up' (pid {pid}) has not stopped in time; it still tries", EXIT_UNAVAILABLE)
        pause.wait(POLL_S)
