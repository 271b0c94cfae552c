"""One node process of `up`: start it, read its output, stop it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from typing import Final

from syncline.cli.up.cutting import CONNECT_ORDER, CUT_ORDER
from syncline.cli.up.drain import DRAIN_SIGNAL, DRAINED_LINE
from syncline.cli.up.plan import NodePlan
from syncline.errors import StorageError
from syncline.platform.disk import OsDisk
from syncline.storage.datadir import REPLACEMENT_NAME, Identity, read_identity

__all__ = ["PROGRAM", "Child", "next_line"]

PROGRAM: Final = (sys.executable, "-m", "syncline")
"""The program of the nodes: this one, whatever is on the PATH."""

STOP_LIMIT_S: Final = 15.0
"""Time for one node to stop in order; then it is killed: its data can bear it."""

LAST_LINES: Final = 20
LINE_BYTES: Final = 64 * 1024
"""Lines of a node's error output that are kept, to report why it ended."""

STARTED_LINE: Final = "syncline: node "
"""The first words of the line that a node prints when it serves clients: no reason for its end."""


class Child:
    """One node's process, or what is left of it."""

    def __init__(self, plan: NodePlan) -> None:
        self.plan = plan
        self.process: asyncio.subprocess.Process | None = None
        self.starts: int = 0
        self.ended: str = ""
        self.reported: bool = False
        """The process ended by itself, and that was reported."""
        self.served: bool = False
        """Some process of this node has served clients."""
        self.damaged: bool = False
        """It ended because its data needs a repair: until then starting it again does not help."""
        self.cut_off: bool = False
        """The lab has cut its process off from the other nodes."""
        self._orders = -1
        """The end of the pipe to its process; -1: it has none."""
        self._lines: deque[str] = deque(maxlen=LAST_LINES)
        self._drained = asyncio.Event()
        self._serves = False
        self._damaged_id = 0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def command(self) -> list[str]:
        """The command that starts this node, as arguments of `syncline`."""
        return ["serve", "--config", self.plan.config_path]

    async def start(self, program: tuple[str, ...], watched_fd: int) -> asyncio.subprocess.Process:
        """Start its process, which ends by itself when the other end of `watched_fd` is closed."""
        self.starts += 1
        self.ended = ""
        self.reported = False
        self._serves = False
        self._drained.clear()
        self.close()
        orders, self._orders = os.pipe()
        os.set_blocking(self._orders, False)
        arguments = [*self.command(), "--log-file", self.plan.log_path]
        arguments += ["--parent-fd", str(watched_fd), "--lab-fd", str(orders)]
        try:
            self.process = await asyncio.create_subprocess_exec(
                *program,
                *arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=[watched_fd, orders],
                start_new_session=True,  # Ctrl-C is for `up` alone: it stops the nodes in order
                limit=LINE_BYTES,
            )
        finally:
            os.close(orders)
        return self.process

    def cut(self, *, off: bool) -> bool:
        """Cut its process off from the other nodes, or connect it again. False if it has ended, or takes no orders."""
        if not self.running:
            return False
        try:
            os.write(self._orders, CUT_ORDER if off else CONNECT_ORDER)
        except (BrokenPipeError, BlockingIOError):  # it ends just now; or it is paused, and thousands of orders wait
            return False
        self.cut_off = off
        return True

    def close(self) -> None:
        """Close the pipe to its process."""
        self.cut_off = False
        if self._orders >= 0:
            os.close(self._orders)
            self._orders = -1

    async def follow(self, process: asyncio.subprocess.Process) -> int:
        """Read its error output to the end of the process. Returns the process's status."""
        assert process.stderr is not None
        while line := await next_line(process.stderr):
            if line == DRAINED_LINE:
                self._drained.set()
            elif line.startswith(STARTED_LINE):
                self._serves = self.served = True
            else:
                self._lines.append(line)
        status = await process.wait()
        self._drained.set()
        self.ended = f"{_describe_end(status, self._lines)} (log: {self.plan.log_path})"
        return status

    async def drain(self) -> None:
        """Have the node answer its clients' requests and take no more from them. It goes on for its peers."""
        if self._serves and self.process is not None and self.running:
            self.process.send_signal(DRAIN_SIGNAL)
            self.process.send_signal(signal.SIGCONT)  # a stopped process would not see the other one
            await self._drained.wait()

    async def stop(self) -> bool:
        """Stop it in order. False if it had to be killed."""
        if self.process is None or not self.running:
            return True
        self.process.send_signal(signal.SIGTERM)
        self.process.send_signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await self.process.wait()
        except TimeoutError:
            self.process.kill()
            await self.process.wait()
            return False
        return True

    def note_damage(self) -> None:
        self.damaged = True
        identity = self.identity()
        self._damaged_id = identity.node_id if identity is not None else 0

    @property
    def repaired(self) -> bool:
        """Whether its directory has become that of a new member since it was found damaged."""
        identity = self.identity() if self.damaged else None
        return identity is not None and not identity.started and identity.node_id != self._damaged_id

    def identity(self) -> Identity | None:
        """The identity in its directory; None if that can't be read, or while a repair is under way."""
        path, disk = self.plan.data_dir, OsDisk()
        try:
            return None if disk.exists(f"{path}/{REPLACEMENT_NAME}") else read_identity(disk, path)
        except StorageError:
            return None


async def next_line(stream: asyncio.StreamReader) -> str:
    """The next line with text; empty at the end. An overlong line is cut."""
    while True:
        try:
            raw = await stream.readline()
        except ValueError:  # longer than the limit: what was read is dropped, the rest comes as the next line
            continue
        text = raw.decode("utf-8", "backslashreplace").rstrip()
        if text or not raw:
            return text


def _describe_end(status: int, lines: deque[str]) -> str:
    if status < 0:
        try:
            how = f"killed by {signal.Signals(-status).name}"
        except ValueError:
            how = f"killed by signal {-status}"
    else:
        how = f"ended with status {status}"
    return f"{how}: {lines[-1].removeprefix('syncline: ')}" if lines else how
