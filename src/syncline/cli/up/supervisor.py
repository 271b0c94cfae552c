"""The node processes of `up`: start them, notice their end, ask for their state, stop them in order."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
from collections.abc import Coroutine, Sequence
from typing import Final

import msgspec

from syncline.cli.credentials import find_credential
from syncline.cli.exits import EXIT_DAMAGED
from syncline.cli.up.child import PROGRAM, Child
from syncline.cli.up.plan import UpPlan, command_line
from syncline.client import AsyncClient, NodeStatus
from syncline.client.tls import trusting_context
from syncline.errors import OperationError, PermissionDenied, Unauthenticated, Unreachable

__all__ = ["GUARDED", "GUARDED_NOTE", "Supervisor", "UpNode"]

STATUS_TIMEOUT_S: Final = 0.5
"""Time limit of one node's answer on this machine, which waits for nothing."""

DRAIN_LIMIT_S: Final = 1.0
"""Time for all nodes together to answer their clients before they stop. A write takes that long without a quorum."""

RESTART_PAUSE_S: Final = 1.0
RESTART_LIMIT_S: Final = 30.0
"""With --restart: the pause before a node is started again doubles up to this while it keeps failing."""


GUARDED: Final = "up"
"""The state of a node that serves, and tells its role by a credential alone."""
GUARDED_NOTE: Final = "its role takes a credential: a token of a user that may do 'status', in SYNCLINE_TOKEN_FILE"
GUARDED_LOOKS: Final = 60
"""Until it is asked again, as two looks a second: each refusal is a line of its audit log."""


class UpNode(msgspec.Struct, frozen=True):
    """One node as `up` sees it. `pid` is the node's own if it answers (a user may have started it with `serve`).

    `state` is leader, follower, candidate or learner if it answers, else starting, unreachable, ended (by itself) or
    stopped (by `up`).
    """

    name: str
    http: str
    peer: str
    state: str
    term: int | None = None
    applied: int | None = None
    lag: int | None = None
    revision: int | None = None
    pid: int | None = None
    leader: str | None = None
    by_hand: bool = False
    note: str = ""


class Supervisor:
    """All node processes of one `up`. Children never outlive this process: each watches a pipe that it holds open."""

    def __init__(self, plan: UpPlan, *, restart: bool, program: Sequence[str] = PROGRAM) -> None:
        self._plan = plan
        self._restart = restart
        self._program = tuple(program)
        self._children = [Child(node) for node in plan.nodes]
        self._clients: list[AsyncClient] = []
        self._watch_end, self._held_end = os.pipe()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._guarded: dict[int, int] = {}
        """By process, for how many looks its status is not asked for: it needs a credential."""
        self.urls_known: dict[str, frozenset[str]] = {}
        """By node: the nodes whose URLs it has told at the last look. Its console can ask these."""
        self.ends: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        """Name and reason of each node that ended by itself."""

    async def start(self) -> None:
        """Start all nodes. Their settings and certificates are written: `write_plan`."""
        tls, token = _trusted(self._plan), find_credential(None, None).token
        self._clients = [
            AsyncClient(node.http_url, timeout=STATUS_TIMEOUT_S, retry_refused=False, tls=tls, token=token)
            for node in self._plan.nodes
        ]
        for child in self._children:
            await self._start(child)

    @property
    def any_running(self) -> bool:
        restarted = self._restart and not self._stopping
        return any(child.running or (restarted and not child.damaged) for child in self._children)

    @property
    def ever_served(self) -> bool:
        """Whether any node has served clients: then there may be data that was acknowledged."""
        return any(child.served for child in self._children)

    def restart_command(self, name: str) -> str:
        """The command that starts a node again; empty if `up` restarts it, or if a start does not help."""
        child = self._child(name)
        return "" if self._restart or child.damaged else command_line(*child.command())

    def repair_command(self, name: str) -> str:
        """The command that repairs a node whose data is damaged or lost; empty for others."""
        child = self._child(name)
        if not child.damaged:
            return ""
        identity = child.identity()
        more = ["--name", name] if identity is None else ["--replace"] if identity.founding else []
        alive = [other for other in self._children if other is not child and other.running]
        others = ",".join(other.plan.http_url for other in alive)
        trust = ["--cacert", self._plan.authority_path] if self._plan.tls else []
        return command_line(
            *("repair", "--data-dir", child.plan.data_dir, *(["--endpoints", others, *trust] if others else []), *more)
        )

    def _child(self, name: str) -> Child:
        return next(child for child in self._children if child.plan.name == name)

    async def look(self) -> list[UpNode]:
        """Every node's state, in the order of the plan. A node that was repaired is started again."""
        for child in self._children:
            if child.repaired:
                child.damaged = False
                await self._start(child)
        return list(await asyncio.gather(*map(self._look_at, self._children, self._clients)))

    async def stop(self, views: list[UpNode]) -> list[str]:
        """Stop all nodes in order. Returns the names of those that had to be killed.

        First every node answers its clients, while all of them can still commit. Then the followers stop, the leader
        last, so that no election is held meanwhile.
        """
        self._stopping = True
        drains = [asyncio.create_task(child.drain()) for child in self._children]
        await asyncio.wait(drains, timeout=DRAIN_LIMIT_S)
        for drain in drains:
            drain.cancel()
        leaders = {view.name for view in views if view.state == "leader"}
        last = [child for child in self._children if child.plan.name in leaders]
        first = [child for child in self._children if child.plan.name not in leaders]
        killed = []
        for together in (first, last):
            stopped = await asyncio.gather(*(child.stop() for child in together))
            killed += [child.plan.name for child, in_order in zip(together, stopped, strict=True) if not in_order]
        return killed

    async def start_again(self, name: str) -> bool:
        """Start a node that has ended, and does not start by itself. False if it runs, or needs a repair."""
        child = self._child(name)
        if child.running or child.damaged or self._stopping or self._restart:
            return False
        await self._start(child)
        return True

    def send(self, name: str, number: signal.Signals) -> bool:
        """Send a signal to a node. False if it does not run."""
        child = self._child(name)
        if not child.running or child.process is None or self._stopping:
            return False
        child.process.send_signal(number)
        return True

    def cut(self, name: str, *, off: bool) -> bool:
        """Cut a node off from the others, or connect it again. False if it does not run."""
        return not self._stopping and self._child(name).cut(off=off)

    @property
    def cut_off(self) -> list[str]:
        """The names of the nodes that are cut off from the others."""
        return [child.plan.name for child in self._children if child.running and child.cut_off]

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
            child.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for client in self._clients:
            await client.close()
        os.close(self._watch_end)
        os.close(self._held_end)

    async def _start(self, child: Child) -> None:
        process = await child.start(self._program, self._watch_end)
        self._spawn(self._follow(child, process))

    async def _follow(self, child: Child, process: asyncio.subprocess.Process) -> None:
        """Read a node's error output to its end, then record the end."""
        status = await child.follow(process)
        if status == EXIT_DAMAGED or (child.plan.lost and child.identity() is None):
            child.note_damage()
        if self._stopping:
            return
        child.reported = True
        self.ends.put_nowait((child.plan.name, child.ended))
        if self._restart and not child.damaged:
            await asyncio.sleep(min(RESTART_LIMIT_S, RESTART_PAUSE_S * 2 ** min(child.starts - 1, 8)))
            if not self._stopping:
                await self._start(child)

    async def _look_at(self, child: Child, client: AsyncClient) -> UpNode:
        plan = child.plan
        error: OperationError | None = None
        status: NodeStatus | None = None
        common = UpNode(name=plan.name, http=plan.http_url, peer=plan.peer_address, state="")
        running = child.process.pid if child.running and child.process is not None else None
        guarded = msgspec.structs.replace(common, state=GUARDED, pid=running, note=GUARDED_NOTE)
        if running is not None and (left := self._guarded.get(running, 0)):
            self._guarded[running] = left - 1
            return guarded
        try:
            status = await client.status()
        except (Unauthenticated, PermissionDenied):
            if running is not None:
                self._guarded[running] = GUARDED_LOOKS
            return guarded
        except OperationError as failure:
            error = failure
        if status is not None and status.name == plan.name:
            if status.members:
                self.urls_known[plan.name] = frozenset(member.name for member in status.members if member.http)
            return msgspec.structs.replace(
                common,
                state=status.role,
                term=status.term,
                applied=status.applied,
                lag=status.lag,
                revision=status.revision,
                pid=status.pid,
                leader=status.leader.name if status.leader else None,
                by_hand=not child.running or child.process is None or child.process.pid != status.pid,
            )
        if not child.running:
            stopped = self._stopping and child.process is not None and not child.reported
            return msgspec.structs.replace(common, state="stopped" if stopped else "ended", note=child.ended)
        pid = child.process.pid if child.process else None
        if status is not None:
            return msgspec.structs.replace(common, state="unreachable", pid=pid, note=f"{status.name} answers there")
        waiting = isinstance(error, Unreachable)
        return msgspec.structs.replace(
            common, state="starting" if waiting else "unreachable", pid=pid, note="" if waiting else str(error)
        )

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _trusted(plan: UpPlan) -> ssl.SSLContext | None:
    if not plan.tls:
        return None
    return trusting_context(plan.authority_path, settings=("the cluster's authority", "", ""))
