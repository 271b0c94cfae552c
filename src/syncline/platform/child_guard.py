"""A second process that kills the children of this one when their time is over, or when this one has died.

A program that holds a lock for a child process must end the child before another program may hold the lock. It may be
killed, or stopped (SIGSTOP), and then can't. The guard can. It knows the process group, and the time by which it must
have ended. It sees the end of the program at once, by the end of a pipe.

The child itself tells the guard of its group before its program begins: the parent may be stopped at once.

On Linux the child is also arranged to die with its parent (`PR_SET_PDEATHSIG`). That covers the death of the parent and
the guard at once; it does not reach the child's own children.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import struct
import sys
import time
from collections.abc import Callable
from typing import Final

__all__ = ["ChildGuard", "steady_s"]

_MESSAGE: Final = struct.Struct("=qd")
"""A process group (0: none), and the time at which it must have ended."""

PR_SET_PDEATHSIG: Final = 1

LONGEST_S: Final = 3600.0
"""One wait of the guard."""

IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP)
"""They are for the program, and the guard ends after it."""


def steady_s() -> float:
    """Seconds on a clock that all processes share, that is never set, and that goes on while the machine sleeps."""
    return time.clock_gettime(_CLOCK)


_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class ChildGuard:
    """The guard of this process, and the pipe to it.

    Make it early: while it is made the process is forked, and must have no other thread.
    """

    def __init__(self) -> None:
        """Raises OSError if there can be no further process."""
        reading, self._writing = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            os.close(reading)
            os.close(self._writing)
            raise
        if not pid:
            _run_guard(reading)
        os.close(reading)
        self._pid = pid

    def before_program(self, until_s: float) -> Callable[[], None]:
        """What a new process, the first of its group, calls before its program begins (`preexec_fn`).

        The group is watched from then on, as by `watch`. If the program can't be started, call `leave`.
        """
        die_with_parent = _death_with_parent()

        def arrange() -> None:
            if die_with_parent is not None:
                die_with_parent()
            self.watch(os.getpid(), until_s)

        return arrange

    def watch(self, group: int, until_s: float) -> None:
        """Kill the process group at `until_s`, of `steady_s`, unless this is called again by then."""
        self._send(group, until_s)

    def leave(self) -> None:
        """Nothing is to be killed any more."""
        self._send(0, 0.0)

    def close(self) -> None:
        """End the guard. What it was to watch is killed: call `leave` before."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1
            os.waitpid(self._pid, 0)

    def _send(self, group: int, until_s: float) -> None:
        try:
            os.write(self._writing, _MESSAGE.pack(group, until_s))
        except BrokenPipeError:
            raise OSError("the process that guards the command has ended: was it killed?") from None


def _death_with_parent() -> Callable[[], None] | None:
    """What a new process calls before its program begins, to be killed as soon as this one dies. None: not offered."""
    if sys.platform != "linux":
        return None
    try:
        prctl = ctypes.CDLL(None, use_errno=True).prctl
    except (OSError, AttributeError):
        return None
    parent = os.getpid()

    def arrange() -> None:
        prctl(PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it died before it was arranged
            os._exit(128 + signal.SIGKILL)

    return arrange


def _run_guard(reading: int) -> None:
    """The guard's whole life. It never returns into the program."""
    try:
        os.setsid()  # a signal to the program's group is not for the guard
        for number in IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        null = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(null, standard)
        os.closerange(3, reading)
        os.closerange(reading + 1, os.sysconf("SC_OPEN_MAX") if os.sysconf("SC_OPEN_MAX") > 0 else 65_536)
        _guard(reading)
    finally:
        os._exit(0)


def _guard(reading: int) -> None:
    group, until_s = 0, 0.0
    while True:
        left_s = until_s - steady_s() if group else LONGEST_S
        ready, _, _ = select.select([reading], [], [], min(max(left_s, 0.0), LONGEST_S))
        if ready:
            message = os.read(reading, _MESSAGE.size)
            if len(message) < _MESSAGE.size:
                break  # the program has ended
            group, until_s = _MESSAGE.unpack(message)
        elif group and steady_s() >= until_s:
            _kill(group)
            group = 0
    if group:
        _kill(group)


def _kill(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # it has ended
