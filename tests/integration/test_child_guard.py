"""The guard of a child process: it ends the child though its parent is stopped, or could not name the child to it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

from tests.helpers.programs import is_alive

DEADLINE_S = 30.0

PARENT = """
import os, signal, subprocess, sys
from syncline.platform.child_guard import ChildGuard, steady_s
guard = ChildGuard()
command = [sys.executable, "-c", "import signal; print(0, flush=True); signal.pause()"]
child = subprocess.Popen(command, start_new_session=True, preexec_fn=guard.before_program(steady_s() + 0.2))
print(child.pid, flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
"""
"""It is stopped as soon as it has started the child, which lives until it is killed."""


def test_child_is_killed_in_time_if_its_parent_was_stopped_at_once() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        try:
            assert parent.stdout is not None
            child = max(int(parent.stdout.readline()), int(parent.stdout.readline()))
            end_s = time.monotonic() + DEADLINE_S
            while is_alive(child):
                assert time.monotonic() < end_s, "the child of a stopped process has outlasted its time"
                time.sleep(0.01)  # a poll of a process of another parent
            assert parent.poll() is None
        finally:
            parent.send_signal(signal.SIGKILL)
            parent.send_signal(signal.SIGCONT)
