"""The command that `run` starts: its processes, the signals that reach them, and their end in time.

The command has a session and process group of its own. All processes of the group get the signals, and all have ended
before the hold is given back or can be over.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final, Protocol, cast

import msgspec

from syncline.cli.exits import EXIT_CANT_RUN, EXIT_NO_COMMAND, Failure
from syncline.platform.child_guard import ChildGuard, steady_s

__all__ = ["CommandHold", "Ended", "GuardedCommand", "StopTimes", "check_command"]

FORWARDED: Final = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
)
ENDING: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT})
"""Before the command has begun they end the wait for it."""


class CommandHold(Protocol):
    """What the command needs while it runs: a lock, or a term of leadership."""

    @property
    def lost(self) -> asyncio.Event: ...

    @property
    def rest_s(self) -> float: ...


class StopTimes(msgspec.Struct, frozen=True):
    """When the command is stopped, by the time that the hold surely lasts.

    TERM is sent `grace_s` before KILL; KILL is sent `kill_s` before the hold can be over; the guard kills at half of
    that, if this process did not.
    """

    grace_s: float
    kill_s: float

    @classmethod
    def of(cls, ttl_s: float, grace_s: float | None) -> StopTimes:
        """For a hold of `ttl_s`; by default a quarter of it is for the command's own end."""
        return cls(grace_s=ttl_s / 4 if grace_s is None else grace_s, kill_s=max(0.2, min(1.0, ttl_s / 10)))


class Ended(msgspec.Struct, frozen=True):
    """How the command has ended: its exit status as a shell has it, and whether it was stopped for a lost hold."""

    status: int
    lost: bool = False


def check_command(name: str, *, as_json: bool) -> None:
    """Make sure that a command can be run, before anything is held for it, or counts as done. Raises `Failure`."""
    if shutil.which(name) is None:
        if os.path.exists(name):
            raise Failure(f"can't run {name}: it is no program, or may not be run", EXIT_CANT_RUN, as_json=as_json)
        raise Failure(f"{name}: command not found", EXIT_NO_COMMAND, as_json=as_json)


class GuardedCommand:
    """Runs the command, one time after the other. Signals of this process reach it from `listen` on."""

    def __init__(self, command: tuple[str, ...], guard: ChildGuard, *, as_json: bool) -> None:
        self._command = command
        self._guard = guard
        self._as_json = as_json
        self._group = 0
        self._hold: CommandHold | None = None
        self._times = StopTimes(0.0, 0.0)
        self._waiter: asyncio.Task[object] | None = None
        self.signal: int | None = None
        """The signal that ended the wait for the command."""

    def listen(self) -> None:
        """Pass on signals from now on. Without a command, those that end a program cancel the current task."""
        loop = asyncio.get_running_loop()
        self._waiter = asyncio.current_task()
        for number in FORWARDED:
            loop.add_signal_handler(number, self._on_signal, number)
        loop.add_signal_handler(signal.SIGTSTP, self._on_stop)

    async def run(self, environment: Mapping[str, str], hold: CommandHold | None, times: StopTimes) -> Ended:
        """Run the command to its end, or until the hold is nearly over. Then all its processes have ended.

        Raises:
            Failure: the command can't be started.
        """
        process = await self._start(environment, _guard_until_s(hold, times))
        self._group, self._hold, self._times = process.pid, hold, times
        ended = asyncio.ensure_future(process.wait())
        lost = False
        try:
            if hold is None:
                await asyncio.wait([ended])
            else:
                lost = await self._run_held(ended, hold)
        finally:
            self._send(signal.SIGKILL)  # what the command has left in its group, or all of it
            await asyncio.wait([ended])
            self._group, self._hold = 0, None
            self._guard.leave()
        status = ended.result()
        return Ended(128 - status if status < 0 else status, lost)

    async def _run_held(self, ended: asyncio.Future[int], hold: CommandHold) -> bool:
        """Wait for the end of the command, and stop it if the hold is nearly over. Whether that was so."""
        loop, times = asyncio.get_running_loop(), self._times
        kill_at_s = float("inf")
        losing = asyncio.ensure_future(hold.lost.wait())
        try:
            while not ended.done():
                left_s = min(hold.rest_s, kill_at_s - loop.time() + times.kill_s)
                if hold.lost.is_set() or left_s <= times.kill_s:
                    self._send(signal.SIGKILL)
                    await asyncio.wait([ended])
                    return True
                if left_s <= times.kill_s + times.grace_s and kill_at_s == float("inf"):
                    # It is stopped even if a keep-alive is answered from now on: it was told to end.
                    kill_at_s = loop.time() + left_s - times.kill_s
                    self._send(signal.SIGTERM)
                if kill_at_s == float("inf"):
                    left_s -= times.grace_s
                self._guard.watch(self._group, _guard_until_s(hold, times))
                waited: list[asyncio.Future[Any]] = [ended, losing]
                await asyncio.wait(waited, timeout=left_s - times.kill_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            losing.cancel()
        return kill_at_s < float("inf")

    async def _start(self, environment: Mapping[str, str], until_s: float) -> asyncio.subprocess.Process:
        name = self._command[0]
        try:
            return await asyncio.create_subprocess_exec(
                *self._command,
                env=cast("dict[str, str]", environment),
                start_new_session=True,
                preexec_fn=self._guard.before_program(until_s),
            )
        except FileNotFoundError as error:
            self._guard.leave()
            raise Failure(f"{name}: command not found", EXIT_NO_COMMAND, as_json=self._as_json) from error
        except OSError as error:
            self._guard.leave()
            text = f"can't run {name}: {error.strerror or error}"
            raise Failure(text, EXIT_CANT_RUN, as_json=self._as_json) from error

    def _send(self, number: int) -> None:
        with suppress(ProcessLookupError):  # all have ended
            os.killpg(self._group, number)

    def _on_signal(self, number: int) -> None:
        if self._group:
            self._send(number)
        elif number in ENDING and self._waiter is not None:
            self.signal = number
            self._waiter.cancel()

    def _on_stop(self) -> None:
        """Ctrl-Z: the command stops with this process, and goes on with it only if the hold still lasts."""
        if self._group:
            self._send(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        if self._group:
            over = self._hold is not None and self._hold.rest_s <= self._times.kill_s
            self._send(signal.SIGKILL if over else signal.SIGCONT)


def _guard_until_s(hold: CommandHold | None, times: StopTimes) -> float:
    """When the guard kills the command, by its clock."""
    return float("inf") if hold is None else steady_s() + hold.rest_s - times.kill_s / 2
