"""Processes of the measured systems and of the load generators, with what the kernel knows of their cost."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
STOP_S = 20.0
START_S = 60.0
ASK_AGAIN_S = 0.02


class BenchError(Exception):
    """A system or a generator did not do what a measurement needs."""


class Process:
    """One node of a measured system. Its output goes to a file; `asked` nodes answer orders with lines instead.

    `variables` are added to its environment.
    """

    def __init__(
        self, command: Sequence[str], log_path: str, *, asked: bool = False, variables: Mapping[str, str] | None = None
    ) -> None:
        self.command = list(command)
        self.log_path = log_path
        self._asked = asked
        self._environment = {**os.environ, **variables} if variables else None
        self._start()

    def _start(self) -> None:
        with open(self.log_path, "ab") as log:
            self._process = subprocess.Popen(
                self.command,
                stdin=subprocess.PIPE if self._asked else subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._asked else log,
                stderr=log,
                text=True,
                env=self._environment,
            )

    def ask(self, order: object) -> object:
        """Send a line of JSON to an `asked` node, and read its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self._process.wait(STOP_S)
            self.check()
        return json.loads(answer)

    @property
    def pid(self) -> int:
        return self._process.pid

    def cpu_s(self) -> float:
        """Processor time since its start."""
        with open(f"/proc/{self.pid}/stat", "rb") as file:
            fields = file.read().rsplit(b")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_PER_S

    def resident_bytes(self) -> int:
        with open(f"/proc/{self.pid}/status", encoding="ascii", errors="replace") as file:
            return next(int(line.split()[1]) for line in file if line.startswith("VmRSS:")) * 1024

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(STOP_S)

    def restart(self) -> None:
        """The same command again, after it has ended."""
        assert self._process.poll() is not None, "it still runs"
        self._start()

    def stop(self) -> None:
        if self._process.poll() is not None:
            return
        self._process.terminate()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def check(self) -> None:
        """Raise `BenchError` if it has ended."""
        if (status := self._process.poll()) is not None:
            with open(self.log_path, encoding="utf-8", errors="replace") as file:
                shown = "".join(file.readlines()[-10:])
            raise BenchError(f"ended with {status}: {' '.join(self.command)}\n{shown}")


def stop_all(processes: Sequence[Process]) -> None:
    for process in processes:
        process.stop()


def wait_for(
    what: str, check: Callable[[], bool], *, deadline_s: float = START_S, again_s: float = ASK_AGAIN_S
) -> None:
    """Ask again and again; `OSError` counts as not yet."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            if check():
                return
        except OSError:
            pass
        if time.monotonic() > end:
            raise BenchError(f"not within {deadline_s:g} s: {what}")
        time.sleep(again_s)


@dataclass(frozen=True, slots=True)
class Ran:
    """A generator that has ended."""

    output: str
    cpu_s: float


def run(command: Sequence[str], *, timeout_s: float) -> Ran:
    """Run to the end. The processor time is of the children that were waited for meanwhile, which is this one."""
    before = _children_cpu_s()
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    if done.returncode:
        raise BenchError(f"{command[0]} ended with {done.returncode}: {done.stderr[-500:]}{done.stdout[-500:]}")
    return Ran(done.stdout, _children_cpu_s() - before)


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
