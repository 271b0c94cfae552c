"""`up --detach`: start a cluster that runs without the shell, and wait until it is ready."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from typing import Final

import msgspec

from syncline.cli.exits import EXIT_FAILED, Failure
from syncline.cli.output import print_line
from syncline.cli.streams import acknowledged
from syncline.cli.up.child import PROGRAM
from syncline.cli.up.plan import UpPlan, command_for, make_plan
from syncline.cli.up.supervisor import UpNode
from syncline.cli.up.view import JsonView, PlainView

__all__ = ["DetachedView", "start_detached"]

READY: Final = b"ready "
"""First word of the line on the pipe between both processes that has the nodes as JSON."""


LOG_BYTES: Final = 8 << 20
"""Size of `up.log` at which it is started again. It gets a line for each change: only a node that fails again and again
fills it."""


class DetachedView(PlainView):
    """Writes plain lines to `DATA-DIR/up.log`, which each start empties; the line with "ready" goes through a pipe.

    While the shell waits, the error output is that pipe: a start that fails reports its reason there.
    """

    def __init__(self, plan: UpPlan, ready_fd: int) -> None:
        super().__init__()
        self._ready_fd = ready_fd
        log = os.open(plan.own_log_path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        os.dup2(log, sys.stdout.fileno())
        os.close(log)

    def say(self, line: str) -> None:
        if os.fstat(sys.stdout.fileno()).st_size > LOG_BYTES:
            os.ftruncate(sys.stdout.fileno(), 0)
        super().say(line)

    def ready(self, plan: UpPlan, nodes: list[UpNode]) -> None:
        super().ready(plan, nodes)
        with contextlib.suppress(BrokenPipeError):  # the shell did not wait: the cluster runs all the same
            os.write(self._ready_fd, READY + msgspec.json.encode(nodes) + b"\n")
        os.close(self._ready_fd)
        os.dup2(sys.stdout.fileno(), sys.stderr.fileno())


def _program() -> tuple[str, ...]:
    """This program as the user called it, so that printed commands begin with the same word."""
    called = sys.argv[0]
    return (sys.executable, called) if os.path.basename(called) == "syncline" and os.path.exists(called) else PROGRAM


def start_detached(data_dir: str, *, nodes: int | None, port: int | None, options: list[str], as_json: bool) -> None:
    """Start `up` in a session of its own, and return when its cluster is ready. Raises `Failure` as `up` does."""
    arguments = ["--data-dir", data_dir, *options]
    for flag, number in (("--nodes", nodes), ("--port", port)):
        arguments += [] if number is None else [flag, str(number)]
    read_end, write_end = os.pipe()
    with open(read_end, "rb") as told:
        process = subprocess.Popen(  # noqa: S603 - this very program, with the user's own arguments
            [*_program(), "up", *arguments, "--ready-fd", str(write_end)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=write_end,
            pass_fds=[write_end],
            start_new_session=True,
        )
        os.close(write_end)
        try:
            lines = list(told)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    ready = [line for line in lines if line.startswith(READY)]
    if not ready:
        reason = lines[-1].decode(errors="replace").strip() if lines else "it ended without a message"
        status = process.wait()
        raise Failure(reason.removeprefix("syncline: "), status if status > 0 else EXIT_FAILED, as_json=as_json)
    views = msgspec.json.decode(ready[0].removeprefix(READY), type=list[UpNode])
    plan = make_plan(data_dir, nodes=None, port=None)
    with acknowledged():  # the cluster runs: a status other than 0 would make a script start it again, or give up
        (JsonView() if as_json else PlainView()).ready(plan, views)
        if not as_json:
            print_line(f"to see its logs:  {command_for('logs', data_dir)}")
            print_line(f"to stop it:       {command_for('down', data_dir)}")
