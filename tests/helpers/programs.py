"""Programs of users in processes of their own, against a real cluster: what they print, and signals to them.

A program has `kv`, a blocking client of the cluster, and `say(**fields)`, which prints a line with the moment at which
it was said. The monotonic clock is the machine's: moments of several processes can be compared.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

__all__ = [
    "ASYNC_PRELUDE",
    "DEADLINE_S",
    "PRELUDE",
    "RunningProgram",
    "is_alive",
    "running_command",
    "running_program",
]

DEADLINE_S: Final = 20.0
PATH: Final = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"

PRELUDE: Final = """
import json, os, time
from syncline.client import Client

def say(**fields):
    print(json.dumps({"at": time.monotonic(), **fields}), flush=True)

kv = Client(os.environ["SYNCLINE_ENDPOINTS"], timeout=10.0)
"""

ASYNC_PRELUDE: Final = """
import asyncio, json, os, time
from syncline.client import AsyncClient

def say(**fields):
    print(json.dumps({"at": time.monotonic(), **fields}), flush=True)

kv = AsyncClient(os.environ["SYNCLINE_ENDPOINTS"], timeout=10.0)
"""

Said = dict[str, Any]


class RunningProgram:
    """A process, and what it has printed so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.said: list[Said] = []
        """What it said, in order. A line that `say` did not print has the field `line`."""
        self.errors = ""
        """Its standard error output."""
        self._changed = asyncio.Condition()
        self._readers = [asyncio.ensure_future(self._read()), asyncio.ensure_future(self._read_errors())]

    async def _read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            async with self._changed:
                self.said.append(_parsed(line))
                self._changed.notify_all()
        async with self._changed:
            self._changed.notify_all()

    async def _read_errors(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.errors += line.decode("utf-8", "backslashreplace")

    async def until(self, what: str, *, deadline_s: float = DEADLINE_S, after: int = 0) -> Said:
        """Wait until it has said something with the field `what`, the `after`-th time before not counted."""

        def found() -> list[Said]:
            return [said for said in self.said if what in said][after:]

        try:
            async with asyncio.timeout(deadline_s), self._changed:
                await self._changed.wait_for(lambda: bool(found()) or self._readers[0].done())
        except TimeoutError:
            pass
        if not (said := found()):
            raise AssertionError(f"not within {deadline_s:g} s: {what!r}; said: {self.said}; errors:\n{self.errors}")
        return said[0]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.send(signal.SIGKILL)

    async def pause(self) -> float:
        """Stop it where it is; the moment from which on it surely does not run."""
        self.send(signal.SIGSTOP)
        async with asyncio.timeout(DEADLINE_S):
            while _state_of(self.process.pid) != "T":  # noqa: ASYNC110 - the kernel tells nobody but a waiting parent
                await asyncio.sleep(0.001)
        return time.monotonic()

    async def ended(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait for its end; its exit status."""
        async with asyncio.timeout(deadline_s):
            await asyncio.gather(*self._readers)
            return await self.process.wait()


def is_alive(pid: int) -> bool:
    """Whether a process, of any parent, has not ended."""
    return _state_of(pid) not in "ZX"


def _state_of(pid: int) -> str:
    """The kernel's letter for it; X for one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rsplit(b")", 1)[1].split()[0].decode()
    except (FileNotFoundError, ProcessLookupError):
        return "X"


def _parsed(line: bytes) -> Said:
    text = line.decode("utf-8", "backslashreplace").rstrip("\n")
    try:
        said = json.loads(text)
    except ValueError:
        return {"line": text}
    return said if isinstance(said, dict) else {"line": text}


@asynccontextmanager
async def running_command(
    arguments: Sequence[str],
    endpoints: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> AsyncIterator[RunningProgram]:
    """A command in a process of its own, with the cluster's endpoints in its environment; it is killed at the end.

    Its programs `python` and `syncline` are those of this environment. `folder`: its working directory.
    """
    process = await asyncio.create_subprocess_exec(
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=folder,
        env={**os.environ, "PATH": PATH, "SYNCLINE_ENDPOINTS": ",".join(endpoints), **(environment or {})},
    )
    program = RunningProgram(process)
    try:
        yield program
    finally:
        if process.returncode is None:
            process.kill()
        await program.ended()


def running_program(
    text: str, endpoints: Sequence[str], *, prelude: str = PRELUDE, **environment: str
) -> AbstractAsyncContextManager[RunningProgram]:
    """A Python program in a process of its own, as a context manager."""
    return running_command([sys.executable, "-c", prelude + text], endpoints, environment=environment)
