"""The node processes of `up`: starting them, noticing their end, asking for their state, stopping them in order."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections import deque
from collections.abc import Coroutine, Sequence
from typing import Final

import msgspec

from syncline.cli.exits import EXIT_DAMAGED
from syncline.cli.up_plan import NodePlan, Plan, command_line
from syncline.client import AsyncClient, NodeStatus
from syncline.errors import OperationError, StorageError, Unreachable
from syncline.platform.disk import OsDisk
from syncline.storage.datadir import REPLACEMENT_NAME, Identity, read_identity

__all__ = ["NodeView", "Supervisor"]

PROGRAM: Final = (sys.executable, "-m", "syncline")
"""What the nodes run: this very program, whatever is on the PATH."""

STATUS_TIMEOUT_S: Final = 0.5
"""For one node's answer on this machine, which waits for nothing."""

STOP_LIMIT_S: Final = 15.0
"""For one node to stop in order (it drains its clients for up to 10 s); then it is killed: its data can bear it."""

LAST_LINES: Final = 20
LINE_BYTES: Final = 64 * 1024
"""Of a node's error output that are kept, to tell why it ended."""

STARTED_LINE: Final = "syncline: node "
"""How the line begins that a node prints when it is up: no reason for its end."""

RESTART_PAUSE_S: Final = 1.0
RESTART_LIMIT_S: Final = 30.0
"""With --restart: the pause before a node is started again doubles up to this while it keeps failing."""


class NodeView(msgspec.Struct, frozen=True):
    """One node as `up` sees it. `pid` is its own word where it answers (it may have been started by hand).

    `state` is leader, follower, candidate or learner where it answers, else starting, unreachable or ended.
    """

    name: str
    http: str
    peer: str
    state: str
    term: int | None = None
    applied: int | None = None
    pid: int | None = None
    leader: str | None = None
    by_hand: bool = False
    note: str = ""


class _Child:
    """One node's process, or what is left of it."""

    def __init__(self, plan: NodePlan) -> None:
        self.plan = plan
        self.process: asyncio.subprocess.Process | None = None
        self.lines: deque[str] = deque(maxlen=LAST_LINES)
        self.starts = 0
        self.ended: str = ""
        self.damaged = False
        """It ended because its data needs a repair: until then starting it again does not help."""
        self.damaged_id = 0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.returncode is None

    def command(self) -> list[str]:
        """What starts this node, as arguments of `syncline`."""
        return ["serve", "--config", self.plan.config_path]

    def note_damage(self) -> None:
        self.damaged = True
        identity = self.identity()
        self.damaged_id = identity.node_id if identity is not None else 0

    @property
    def repaired(self) -> bool:
        """Whether its directory has become that of a new member since it was found damaged."""
        identity = self.identity() if self.damaged else None
        return identity is not None and not identity.started and identity.node_id != self.damaged_id

    def identity(self) -> Identity | None:
        """Whose its directory is; None where that can't be told, or a repair is under way."""
        path, disk = self.plan.data_dir, OsDisk()
        try:
            return None if disk.exists(f"{path}/{REPLACEMENT_NAME}") else read_identity(disk, path)
        except StorageError:
            return None


class Supervisor:
    """All node processes of one `up`. Children never outlive this process: each watches a pipe that it holds open."""

    def __init__(self, plan: Plan, *, restart: bool, program: Sequence[str] = PROGRAM) -> None:
        self._plan = plan
        self._restart = restart
        self._program = program
        self._children = [_Child(node) for node in plan.nodes]
        self._clients = [
            AsyncClient(node.http_url, timeout_s=STATUS_TIMEOUT_S, retry_refused=False) for node in plan.nodes
        ]
        self._watch_end, self._held_end = os.pipe()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.ends: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        """Name and reason of each node that ended without having been told to."""

    async def start(self) -> None:
        for child in self._children:
            await self._start(child)

    @property
    def any_running(self) -> bool:
        restarted = self._restart and not self._stopping
        return any(child.running or (restarted and not child.damaged) for child in self._children)

    def restart_command(self, name: str) -> str:
        """What the user types to start a node again; empty where that happens by itself, or does not help."""
        child = self._child(name)
        return "" if self._restart or child.damaged else command_line(*child.command())

    def repair_command(self, name: str) -> str:
        """What the user types for a node whose data is damaged or lost; empty for others."""
        child = self._child(name)
        if not child.damaged:
            return ""
        identity = child.identity()
        more = ["--name", name] if identity is None else ["--replace"] if identity.founding else []
        others = ",".join(node.http_url for node in self._plan.nodes if node is not child.plan)
        return command_line(
            "repair", "--data-dir", child.plan.data_dir, *(["--endpoints", others] if others else []), *more
        )

    def _child(self, name: str) -> _Child:
        return next(child for child in self._children if child.plan.name == name)

    async def look(self) -> list[NodeView]:
        """Every node's state, in the order of the plan. One that was repaired meanwhile is started again."""
        for child in self._children:
            if child.repaired:
                child.damaged = False
                await self._start(child)
        return list(await asyncio.gather(*map(self._look_at, self._children, self._clients)))

    async def stop(self, views: list[NodeView]) -> list[str]:
        """Stop all nodes in order, the leader last, so that no election is held meanwhile.

        Returns the names of those that had to be killed.
        """
        self._stopping = True
        leaders = {view.name for view in views if view.state == "leader"}
        killed = []
        for child in sorted(self._children, key=lambda child: child.plan.name in leaders):
            if child.running and not await self._stop(child):
                killed.append(child.plan.name)
        return killed

    def kill(self) -> None:
        """End all nodes at once."""
        self._stopping = True
        for child in self._children:
            if child.running and child.process is not None:
                child.process.kill()

    async def close(self) -> None:
        """Release everything; nodes that still run end by themselves."""
        self.kill()
        for child in self._children:
            if child.process is not None:
                await child.process.wait()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            await client.close()
        os.close(self._watch_end)
        os.close(self._held_end)

    async def _start(self, child: _Child) -> None:
        child.starts += 1
        child.ended = ""
        arguments = [*child.command(), "--log-file", child.plan.log_path, "--parent-fd", str(self._watch_end)]
        child.process = await asyncio.create_subprocess_exec(
            *self._program,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            pass_fds=[self._watch_end],
            start_new_session=True,  # Ctrl-C is for `up` alone: it stops the nodes in order
            limit=LINE_BYTES,
        )
        self._spawn(self._follow(child, child.process))

    async def _follow(self, child: _Child, process: asyncio.subprocess.Process) -> None:
        """Read a node's error output to its end, then take note of the end."""
        assert process.stderr is not None
        while chunk := await _line(process.stderr):
            child.lines.append(chunk)
        status = await process.wait()
        child.ended = f"{_describe_end(status, child.lines)} (log: {child.plan.log_path})"
        if status == EXIT_DAMAGED or (child.plan.lost and child.identity() is None):
            child.note_damage()
        if self._stopping:
            return
        self.ends.put_nowait((child.plan.name, child.ended))
        if self._restart and not child.damaged:
            await asyncio.sleep(min(RESTART_LIMIT_S, RESTART_PAUSE_S * 2 ** min(child.starts - 1, 8)))
            await self._start(child)

    async def _look_at(self, child: _Child, client: AsyncClient) -> NodeView:
        plan = child.plan
        error: OperationError | None = None
        status: NodeStatus | None = None
        try:
            status = await client.status()
        except OperationError as failure:
            error = failure
        common = NodeView(name=plan.name, http=plan.http_url, peer=plan.peer_address, state="")
        if status is not None and status.name == plan.name:
            return msgspec.structs.replace(
                common,
                state=status.role,
                term=status.term,
                applied=status.applied,
                pid=status.pid,
                leader=status.leader.name if status.leader else None,
                by_hand=not child.running or child.process is None or child.process.pid != status.pid,
            )
        if not child.running:
            return msgspec.structs.replace(common, state="ended", note=child.ended)
        pid = child.process.pid if child.process else None
        if status is not None:
            return msgspec.structs.replace(common, state="unreachable", pid=pid, note=f"{status.name} answers there")
        waiting = isinstance(error, Unreachable)
        return msgspec.structs.replace(
            common, state="starting" if waiting else "unreachable", pid=pid, note="" if waiting else str(error)
        )

    async def _stop(self, child: _Child) -> bool:
        assert child.process is not None
        child.process.send_signal(signal.SIGTERM)
        child.process.send_signal(signal.SIGCONT)  # a stopped process would not see the other one
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await child.process.wait()
        except TimeoutError:
            child.process.kill()
            await child.process.wait()
            return False
        return True

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _line(stream: asyncio.StreamReader) -> str:
    """The next line that says something; empty at the end. An overlong line is cut."""
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
    told = [line for line in lines if not line.startswith(STARTED_LINE)]
    return f"{how}: {told[-1].removeprefix('syncline: ')}" if told else how
